// SPDX-License-Identifier: GPL-2.0
//! MMIO on several vCPUs while memslots, ioeventfds and switches change.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;
use kvm_mmio_selftests::host::{self, Modes};
use kvm_mmio_selftests::tap::{self, Test};
use kvm_mmio_selftests::torture::{self, Limits};

/// Long tests of emulated MMIO under change, reported as TAP.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// Tests to run; a part of a name stands for all names with it
    #[arg(default_values_t = ["torture_long".to_owned(), "torture_legacy".to_owned()])]
    names: Vec<String>,
    /// Name the tests, and what each proves
    #[arg(long)]
    list: bool,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, default_value_t = 4)]
    vcpus: u64,
    /// Turns of the extension's switch, at least
    #[arg(long, default_value_t = 10_000)]
    switches: u64,
    /// Changes of each memslot and of each ioeventfd, at least
    #[arg(long, default_value_t = 500)]
    changes: u64,
    /// Seconds until a test counts as hanging
    #[arg(long, default_value_t = 1800)]
    limit: u64,
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    if options.list {
        for test in torture::TESTS {
            println!("{:32} {}", test.name, test.proves);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let chosen = |test: &&Test| {
        options
            .names
            .iter()
            .any(|name| test.name.contains(name.as_str()))
    };
    let tests: Vec<&Test> = torture::TESTS.iter().filter(chosen).collect();
    ensure!(
        !tests.is_empty(),
        "no test has one of {:?} in its name; see --list",
        options.names
    );
    let limits = Limits {
        seed: options.seed,
        vcpus: options.vcpus,
        switches: options.switches,
        changes: options.changes,
    };
    torture::set_limits(limits);
    tap::note(format!(
        "{:?}, {limits:?}, extension {:?}",
        Modes::detect()?,
        host::extension_enabled()
    ));
    let good = tap::run(&tests, Duration::from_secs(options.limit))?;
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
