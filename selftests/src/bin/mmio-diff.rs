// SPDX-License-Identifier: GPL-2.0
//! Runs random programs with the extension off and on, and compares all that can be seen.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use kvm_mmio_selftests::diff::{self, Comparison, Limits, Switch, Totals};
use kvm_mmio_selftests::guest::Svm;
use kvm_mmio_selftests::host::Modes;
use kvm_mmio_selftests::tap;

/// Differential test of emulated MMIO, reported as TAP: a test for each mode of the guest and
/// each switch. What cannot be compared on this machine is skipped and says why.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// Only with this switch off and on: that of the extension, of its fast path, or of what that
    /// does with interrupts off
    #[arg(long, value_enum)]
    switch: Option<Switch>,
    /// Only this mode of the guest: long, pae, legacy or flat
    #[arg(long)]
    mode: Option<String>,
    /// The first program; the others have the numbers that follow
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Programs for each test
    #[arg(long, default_value_t = 400)]
    programs: u64,
    /// Steps in a program
    #[arg(long, default_value_t = 100)]
    length: usize,
    /// Repeat with other programs until so many minutes are over
    #[arg(long)]
    minutes: Option<u64>,
}

impl Options {
    fn selects(&self, what: &Comparison) -> bool {
        self.switch.is_none_or(|switch| switch == what.switch)
            && self
                .mode
                .as_ref()
                .is_none_or(|name| *name == what.mode.to_string())
    }
}

/// Runs the programs, for a time if there is one.
fn check(options: &Options, what: Comparison, deadline: Option<Instant>) -> Result<Totals> {
    let mut all = Totals::default();
    let mut limits = Limits {
        seed: options.seed,
        programs: options.programs,
        length: options.length,
    };
    loop {
        all += diff::run(what, &limits)?;
        if deadline.is_none_or(|end| Instant::now() >= end) {
            break;
        }
        limits.seed += limits.programs;
    }
    // Otherwise the test proves nothing. A single program, run again, need not have it all.
    if all.programs >= 40 {
        ensure!(all.faults > 0, "the extension has handled nothing: {all:?}");
        ensure!(all.smis > 0, "no handler ran in SMM: {all:?}");
        ensure!(
            what.svm.is_none() || all.l2s > 0,
            "no nested guest came to its end: {all:?}"
        );
        if what.mode.is_long() {
            ensure!(
                all.fast >= all.accesses / 4,
                "too few accesses took the fast path: {all:?}"
            );
            ensure!(all.refused > 0, "nothing was refused: {all:?}");
            ensure!(
                what.switch != Switch::Irqsoff || all.early > 0,
                "no doorbell was answered with interrupts off: {all:?}"
            );
        }
    }
    Ok(all)
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let before = Switch::ALL.map(Switch::get);
    ensure!(before[0].is_some(), "the extension is not loaded");
    let host = Modes::detect()?;
    let mut plan = diff::plan(&host)?;
    plan.retain(|what| options.selects(what));
    ensure!(!plan.is_empty(), "nothing is compared in that way");
    tap::note(format!("{host:?}, seed {}", options.seed));
    tap::note(match plan.iter().find_map(|what| what.svm) {
        Some(Svm { npt: true }) => "nested guests with nested paging, and without",
        Some(Svm { npt: false }) => "nested guests without nested paging",
        None => "no nested guests: they need a 64-bit guest to which KVM offers SVM",
    });
    println!("1..{}", plan.len());

    let running = plan.iter().filter(|what| what.left_out.is_none()).count();
    let mut failed = false;
    let mut sums = Switch::ALL.map(|switch| (switch, Totals::default()));
    for (what, number) in plan.iter().zip(1u32..) {
        let title = format!(
            "{number} - {}: {} off and on are the same",
            what.mode, what.switch
        );
        if let Some(why) = what.left_out {
            println!("ok {title} # SKIP {why}");
            continue;
        }
        let start = Instant::now();
        let share = |minutes: u64| start + Duration::from_secs(60 * minutes) / running as u32;
        match check(&options, *what, options.minutes.map(share)) {
            Ok(totals) => {
                println!("ok {title}");
                tap::note(format!("{totals:?} in {} s", start.elapsed().as_secs()));
                for (switch, sum) in &mut sums {
                    if *switch == what.switch {
                        *sum += totals;
                    }
                }
            }
            Err(error) => {
                println!("not ok {title}");
                tap::note(format!("{error:#}"));
                failed = true;
            }
        }
    }
    for (switch, sum) in sums.iter().filter(|(_, sum)| sum.programs > 0) {
        tap::note(format!(
            "{} programs, {} accesses compared, {switch} off and on",
            sum.programs, sum.accesses
        ));
    }
    for (switch, on) in Switch::ALL.into_iter().zip(before) {
        on.map_or(Ok(()), |on| switch.set(on)).context(switch)?;
    }
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
