// SPDX-License-Identifier: GPL-2.0
//! The results, for people and for programs.

use std::fs;

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::measure::{EMPTY_TURN, Effort, Measured};
use crate::host::{self, Modes, Vendor};

/// Version of the JSON Lines; grows when a field changes its meaning or goes away.
const SCHEMA: u32 = 1;

/// What the ticks of the clock are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// The empty loop takes exactly one tick for each instruction.
    Instructions,
    /// Anything else.
    TscTicks,
}

impl Unit {
    pub fn of(ticks_per_empty_turn: f64) -> Self {
        if (ticks_per_empty_turn - EMPTY_TURN).abs() < 0.001 {
            Self::Instructions
        } else {
            Self::TscTicks
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Instructions => "instructions",
            Self::TscTicks => "TSC ticks",
        }
    }
}

/// The circumstances of all rows.
pub struct Setting {
    pub modes: Modes,
    pub unit: Unit,
    pub ticks_per_empty_turn: f64,
    pub effort: Effort,
}

/// Sums over all rows, while the extension was on.
#[derive(Clone, Copy, Debug, Serialize)]
struct Totals {
    accesses_on: u64,
    faults: u64,
    spte_made: u64,
}

/// None when the extension is not loaded.
fn totals(rows: &[Measured]) -> Option<Totals> {
    let sum = |field: fn(&Measured) -> Option<u64>| rows.iter().map(field).sum::<Option<u64>>();
    host::extension_enabled()?;
    Some(Totals {
        accesses_on: sum(|row| row.accesses_on)?,
        faults: sum(|row| row.faults)?,
        spte_made: sum(|row| row.spte_made)?,
    })
}

fn or_dash<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), show)
}

fn mmu(modes: &Modes) -> &'static str {
    match (modes.vendor, modes.tdp) {
        (Vendor::Intel, true) => "VMX with EPT",
        (Vendor::Intel, false) => "VMX with shadow paging",
        (Vendor::Amd, true) => "SVM with NPT",
        (Vendor::Amd, false) => "SVM with shadow paging",
    }
}

/// A table and what it means.
pub fn print_table(setting: &Setting, rows: &[Measured]) {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    table.set_header([
        "access",
        "off",
        "spread",
        "on",
        "spread",
        "on/off",
        "accesses",
        "faults",
        "SPTEs made",
    ]);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for row in rows {
        table.add_row([
            row.description.clone(),
            format!("{:.0}", row.off.median),
            format!("{:.1} %", row.off.spread_percent),
            or_dash(row.on.as_ref(), |on| format!("{:.0}", on.median)),
            or_dash(row.on.as_ref(), |on| format!("{:.1} %", on.spread_percent)),
            or_dash(row.ratio, |ratio| format!("{ratio:.3}")),
            or_dash(row.accesses_on, |n| n.to_string()),
            or_dash(row.faults, |n| n.to_string()),
            or_dash(row.spte_made, |n| n.to_string()),
        ]);
    }
    println!(
        "{} per access, median of {} x {} accesses; {}",
        setting.unit.name(),
        setting.effort.repetitions,
        setting.effort.iterations,
        mmu(&setting.modes),
    );
    println!("{table}");
    if setting.unit != Unit::Instructions {
        println!(
            "note: the clock does not count instructions here: {EMPTY_TURN:.0} of them take {:.3} \
             ticks. Figures depend on the load of the machine.",
            setting.ticks_per_empty_turn
        );
    }
    match totals(rows) {
        Some(totals) => println!(
            "With the extension on: {} accesses, {} MMIO faults handled by Rust, {} MMIO SPTEs \
             made by Rust.",
            totals.accesses_on, totals.faults, totals.spte_made
        ),
        None => println!("The extension is not loaded: column `off` is KVM as it is."),
    }
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Line<'a> {
    Run {
        schema: u32,
        kernel: String,
        vendor: &'static str,
        tdp: bool,
        tdp_mmu: bool,
        mmio_caching: bool,
        nrips: bool,
        extension_loaded: bool,
        unit: Unit,
        ticks_per_empty_turn: f64,
        iterations: u64,
        repetitions: u64,
    },
    Row(&'a Measured),
    Total(Totals),
}

fn print_line(line: &Line) -> Result<()> {
    println!("{}", serde_json::to_string(line).context("writing JSON")?);
    Ok(())
}

/// One JSON object a line: the run, each row, the totals.
pub fn print_json(setting: &Setting, rows: &[Measured]) -> Result<()> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("kernel release")?;
    let Setting {
        modes,
        unit,
        ticks_per_empty_turn,
        effort,
    } = setting;
    print_line(&Line::Run {
        schema: SCHEMA,
        kernel: release.trim().to_owned(),
        vendor: match modes.vendor {
            Vendor::Intel => "intel",
            Vendor::Amd => "amd",
        },
        tdp: modes.tdp,
        tdp_mmu: modes.tdp_mmu,
        mmio_caching: modes.mmio_caching,
        nrips: modes.nrips,
        extension_loaded: host::extension_enabled().is_some(),
        unit: *unit,
        ticks_per_empty_turn: *ticks_per_empty_turn,
        iterations: effort.iterations,
        repetitions: effort.repetitions,
    })?;
    for row in rows {
        print_line(&Line::Row(row))?;
    }
    totals(rows).map_or(Ok(()), |totals| print_line(&Line::Total(totals)))
}
