// SPDX-License-Identifier: GPL-2.0
//! Registers that answer by themselves: what is asked for at random, and bits that several change.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use kvm_mmio_selftests::host::{self, Modes};
use kvm_mmio_selftests::registers::{self, Limits};
use kvm_mmio_selftests::tap::{self, Test};

/// Tests of /dev/kvm_mmio_registers that do things very often, reported as TAP.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// Name the tests, and what each proves
    #[arg(long)]
    list: bool,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Ioctls of random contents
    #[arg(long, default_value_t = 20_000)]
    calls: u64,
    /// Accesses of the guest to a word that others change meanwhile
    #[arg(long, default_value_t = 400_000)]
    accesses: u64,
    /// Seconds until a test counts as hanging
    #[arg(long, default_value_t = 3600)]
    limit: u64,
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    if options.list {
        tap::list(registers::TESTS);
        return Ok(ExitCode::SUCCESS);
    }
    let limits = Limits {
        seed: options.seed,
        calls: options.calls,
        accesses: options.accesses,
    };
    registers::LIMITS.set(limits);
    tap::note(format!(
        "{:?}, {limits:?}, extension {:?}",
        Modes::detect()?,
        host::extension_enabled()
    ));
    let tests: Vec<&Test> = registers::TESTS.iter().collect();
    tap::run(&tests, Duration::from_secs(options.limit))
}
