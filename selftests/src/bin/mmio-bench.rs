// SPDX-License-Identifier: GPL-2.0
//! Measures what trapped accesses of a guest cost, with the kvm_mmio_ext module off and on.

use anyhow::{Context, Error, Result};
use clap::Parser;
use kvm_mmio_selftests::bench::measure::{self, Effort};
use kvm_mmio_selftests::bench::report::{self, Setting, Skipped, Unit};
use kvm_mmio_selftests::bench::rows::choose;
use kvm_mmio_selftests::host::{self, Modes};

/// Measures trapped accesses through /dev/kvm, with the extension off and on in turn.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// Rows to measure, separated by commas: whole names, or parts that stand for all names with
    /// them; the port rows that they are compared with come along
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Name the rows that would be measured
    #[arg(long)]
    list: bool,
    /// Accesses of one measurement
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    iterations: u64,
    /// Measurements of each row in each state of the extension: off, on without its fast path, on
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1000))]
    repetitions: u64,
    /// Stay on this processor; several vCPUs have one each, as ever
    #[arg(long)]
    processor: Option<usize>,
    /// Count the host's instructions too, where the machine can; only in JSON
    #[arg(long)]
    host_instructions: bool,
    /// JSON Lines in place of the table
    #[arg(long)]
    json: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let rows = choose(&options.rows).map_err(Error::msg)?;
    if options.list {
        for row in rows {
            println!("{:28} {}", row.name, row.describe());
        }
        return Ok(());
    }
    let effort = Effort {
        iterations: options.iterations,
        repetitions: options.repetitions,
        host_instructions: options.host_instructions,
    };
    options.processor.map_or(Ok(()), host::run_on)?;
    let ticks_per_empty_turn = measure::ticks_per_empty_turn()?;
    let setting = Setting {
        modes: Modes::detect()?,
        unit: Unit::of(ticks_per_empty_turn),
        ticks_per_empty_turn,
        effort,
    };
    let (mut measured, mut skipped) = (Vec::new(), Vec::new());
    for (number, row) in (1..).zip(&rows) {
        if let Some(row) = Skipped::of(row)? {
            skipped.push(row);
            continue;
        }
        eprintln!("measuring {number} of {}: {}", rows.len(), row.name);
        measured.push(measure::measure(row, effort).with_context(|| row.name)?);
    }
    if options.json {
        report::print_json(&setting, &measured, &skipped)?;
    } else {
        report::print_table(&setting, &measured, &skipped);
    }
    Ok(())
}
