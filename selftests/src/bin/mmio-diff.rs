// SPDX-License-Identifier: GPL-2.0
//! Runs random programs with the extension off and on, and compares all that can be seen.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use kvm_mmio_selftests::diff::{self, Limits, Switch, Totals};
use kvm_mmio_selftests::guest::Mode;
use kvm_mmio_selftests::host::Modes;
use kvm_mmio_selftests::tap;

/// Differential test of emulated MMIO, reported as TAP: a test for each mode of the guest.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// What to compare: the extension off and on, or its fast path off and on
    #[arg(long, value_enum, default_value = "enabled")]
    switch: Switch,
    /// Only this mode of the guest: long, pae, legacy or flat
    #[arg(long)]
    mode: Option<String>,
    /// The first program; the others have the numbers that follow
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Programs for each mode
    #[arg(long, default_value_t = 400)]
    programs: u64,
    /// Steps in a program
    #[arg(long, default_value_t = 100)]
    length: usize,
    /// Repeat with other programs until so many minutes are over
    #[arg(long)]
    minutes: Option<u64>,
}

/// Runs the programs, for a time if there is one.
fn check(options: &Options, mode: Mode, deadline: Option<Instant>) -> Result<Totals> {
    let mut all = Totals::default();
    let mut limits = Limits {
        switch: options.switch,
        seed: options.seed,
        programs: options.programs,
        length: options.length,
    };
    loop {
        all += diff::run(&limits, mode)?;
        if deadline.is_none_or(|end| Instant::now() >= end) {
            break;
        }
        limits.seed += limits.programs;
    }
    // Otherwise the test proves nothing. A single program, run again, need not have it all.
    if all.programs > 100 {
        ensure!(all.faults > 0, "the extension has handled nothing: {all:?}");
        if mode.is_long() {
            ensure!(
                all.fast >= all.accesses / 4,
                "too few accesses took the fast path: {all:?}"
            );
            ensure!(all.refused > 0, "nothing was refused: {all:?}");
        }
    }
    Ok(all)
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let switch = options.switch;
    let before = switch.get().context("the extension is not loaded")?;
    let modes: Vec<Mode> = Mode::ALL
        .into_iter()
        .filter(|mode| {
            options
                .mode
                .as_ref()
                .is_none_or(|name| *name == mode.to_string())
        })
        .collect();
    ensure!(!modes.is_empty(), "no such mode: {:?}", options.mode);
    tap::note(format!(
        "{:?}, {switch:?}, seed {}",
        Modes::detect()?,
        options.seed
    ));
    println!("1..{}", modes.len());
    let (mut failed, mut accesses) = (false, 0);
    for (mode, number) in modes.iter().zip(1u32..) {
        let start = Instant::now();
        let share = |minutes: u64| start + Duration::from_secs(60 * minutes) / modes.len() as u32;
        let result = check(&options, *mode, options.minutes.map(share));
        let title = format!("{number} - {mode}: {switch:?} off and on are the same").to_lowercase();
        match result {
            Ok(totals) => {
                println!("ok {title}");
                tap::note(format!("{totals:?} in {} s", start.elapsed().as_secs()));
                accesses += totals.accesses;
            }
            Err(error) => {
                println!("not ok {title}");
                tap::note(format!("{error:#}"));
                failed = true;
            }
        }
    }
    tap::note(format!("{accesses} accesses compared"));
    switch.set(before)?;
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
