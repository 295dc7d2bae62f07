// SPDX-License-Identifier: GPL-2.0
//! The results, for people and for programs.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::measure::{EMPTY_TURN, Effort, Measured};
use super::row::{Kind, Row};
use super::sample::Sample;
use crate::guest::{Machine, Registers};
use crate::host::{self, Modes, Vendor};

/// Version of the JSON Lines; grows when a field changes its meaning or goes away.
const SCHEMA: u32 = 2;

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

/// A row that this machine cannot run.
#[derive(Clone, Debug, Serialize)]
pub struct Skipped {
    pub name: &'static str,
    pub description: String,
    pub reason: String,
}

impl Skipped {
    /// The row, if it cannot be measured here.
    pub fn of(row: &Row) -> Result<Option<Self>> {
        let reason = if !Machine::supports(row.mode)? {
            format!("KVM offers no guests of mode {} here", row.mode)
        } else if matches!(row.kind, Kind::Posted(_)) && Registers::open()?.is_none() {
            "the extension is not loaded, or has no registers".to_owned()
        } else {
            return Ok(None);
        };
        Ok(Some(Self {
            name: row.name,
            description: row.describe(),
            reason,
        }))
    }
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

/// The largest spread of all states.
fn spread(row: &Measured) -> f64 {
    [Some(&row.off), row.seed.as_ref(), row.on.as_ref()]
        .into_iter()
        .flatten()
        .map(|sample| sample.spread_percent)
        .fold(0.0, f64::max)
}

/// A table and what it means.
pub fn print_table(setting: &Setting, rows: &[Measured], skipped: &[Skipped]) {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    table.set_header([
        "access", "off", "seed", "on", "spread", "on/off", "off/port", "on/port", "accesses",
        "faults", "fast", "SPTEs",
    ]);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let median = |sample: &Sample| format!("{:.0}", sample.median);
    for row in rows {
        let port = row
            .port
            .and_then(|port| rows.iter().find(|other| other.name == port));
        let port_on = port.and_then(|port| port.on.as_ref());
        let ratio = |above: Option<&Sample>, below: Option<&Sample>| {
            or_dash(above.zip(below), |(above, below)| {
                format!("{:.3}", above.median / below.median)
            })
        };
        let count = |n: Option<u64>| or_dash(n, |n| n.to_string());
        table.add_row([
            row.description.clone(),
            median(&row.off),
            or_dash(row.seed.as_ref(), median),
            or_dash(row.on.as_ref(), median),
            format!("{:.1} %", spread(row)),
            ratio(row.on.as_ref(), Some(&row.off)),
            ratio(Some(&row.off), port.map(|port| &port.off)),
            ratio(row.on.as_ref(), port_on),
            count(row.counts.map(|counts| counts.accesses)),
            count(row.counts.map(|counts| counts.faults)),
            count(row.counts.map(|counts| counts.fast)),
            count(row.counts.map(|counts| counts.spte_made)),
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
    for row in skipped {
        println!("skipped: {}: {}", row.description, row.reason);
    }
    if setting.unit != Unit::Instructions {
        println!(
            "note: the clock does not count instructions here: {EMPTY_TURN:.0} of them take {:.3} \
             ticks. Figures depend on the load of the machine.",
            setting.ticks_per_empty_turn
        );
    }
    if host::extension_enabled().is_none() {
        println!("The extension is not loaded: column `off` is KVM as it is.");
        return;
    }
    let sum = |count: fn(&super::measure::Counts) -> u64| {
        rows.iter()
            .filter_map(|row| row.counts.as_ref())
            .map(count)
            .sum::<u64>()
    };
    println!(
        "With the extension on (seed: without its fast path): {} accesses, {} MMIO faults handled \
         by Rust, {} accesses done by the fast path, {} MMIO SPTEs made by Rust.",
        sum(|counts| counts.accesses),
        sum(|counts| counts.faults),
        sum(|counts| counts.fast),
        sum(|counts| counts.spte_made),
    );
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
        vulnerabilities: BTreeMap<String, String>,
        unit: Unit,
        ticks_per_empty_turn: f64,
        iterations: u64,
        repetitions: u64,
    },
    Row(&'a Measured),
    Skipped(&'a Skipped),
}

fn print_line(line: &Line) -> Result<()> {
    println!("{}", serde_json::to_string(line).context("writing JSON")?);
    Ok(())
}

/// One JSON object a line: the run, each row, each row that was skipped.
pub fn print_json(setting: &Setting, rows: &[Measured], skipped: &[Skipped]) -> Result<()> {
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
        vulnerabilities: host::vulnerabilities()?,
        unit: *unit,
        ticks_per_empty_turn: *ticks_per_empty_turn,
        iterations: effort.iterations,
        repetitions: effort.repetitions,
    })?;
    for row in rows {
        print_line(&Line::Row(row))?;
    }
    for row in skipped {
        print_line(&Line::Skipped(row))?;
    }
    Ok(())
}
