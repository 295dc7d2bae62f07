// SPDX-License-Identifier: GPL-2.0
//! Runs random programs with the fast path off and on, and compares all that can be seen.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use kvm_mmio_selftests::diff::{self, Limits, Totals};
use kvm_mmio_selftests::host::{self, Modes};
use kvm_mmio_selftests::tap;

/// Differential test of the fast path of MMIO, reported as TAP.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// The first program; the others have the numbers that follow
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, default_value_t = 1200)]
    programs: u64,
    /// Accesses in a program
    #[arg(long, default_value_t = 24)]
    length: usize,
    /// Every so many programs, run with the extension off, too; 0: never
    #[arg(long, default_value_t = 16)]
    switch_every: u64,
}

fn check(limits: &Limits) -> Result<Totals> {
    let totals = diff::run(limits)?;
    // Otherwise the test proves nothing.
    ensure!(
        totals.fast >= totals.accesses / 2,
        "too few accesses took the fast path: {totals:?}"
    );
    ensure!(totals.refused > 0, "nothing was refused: {totals:?}");
    Ok(totals)
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let limits = Limits {
        seed: options.seed,
        programs: options.programs,
        length: options.length,
        switch_every: options.switch_every,
    };
    let before = host::fast_path().context("the extension is not loaded")?;
    tap::note(format!("{:?}, {limits:?}", Modes::detect()?));
    println!("1..1");
    let start = Instant::now();
    let result = check(&limits);
    host::set_fast_path(before).context("restoring the parameter `fast`")?;
    Ok(match result {
        Ok(totals) => {
            println!("ok 1 - fast path and emulator agree");
            tap::note(format!("{totals:?} in {} s", start.elapsed().as_secs()));
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("not ok 1 - fast path and emulator agree");
            tap::note(format!("{error:#}"));
            ExitCode::FAILURE
        }
    })
}
