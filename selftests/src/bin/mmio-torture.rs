// SPDX-License-Identifier: GPL-2.0
//! MMIO on several vCPUs while memslots, ioeventfds and switches change.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;
use kvm_mmio_selftests::host::{self, Modes};
use kvm_mmio_selftests::tap::{self, Test};
use kvm_mmio_selftests::torture::{self, Limits};

/// A whole run.
const SWITCHES: u64 = 10_000;
const CHANGES: u64 = 500;

/// Long tests of emulated MMIO under change, reported as TAP.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// Tests to run; a part of a name stands for all names with it. When none is given, every
    /// kind of guest, or torture_long and torture_legacy if less than usual is to be done.
    names: Vec<String>,
    /// Name the tests, and what each proves
    #[arg(long)]
    list: bool,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, default_value_t = 4)]
    vcpus: u64,
    /// Turns of the extension's switch, at least
    #[arg(long, default_value_t = SWITCHES)]
    switches: u64,
    /// Changes of each memslot and of each ioeventfd, at least
    #[arg(long, default_value_t = CHANGES)]
    changes: u64,
    /// Seconds until a test counts as hanging
    #[arg(long, default_value_t = 1800)]
    limit: u64,
}

impl Options {
    /// Whether `test` is to run.
    fn chosen(&self, test: &Test) -> bool {
        let whole = self.switches >= SWITCHES && self.changes >= CHANGES;
        let named = |name: &String| test.name.contains(name.as_str());
        match self.names.as_slice() {
            [] if whole => test.name.starts_with("torture_"),
            [] => ["torture_long", "torture_legacy"].contains(&test.name),
            names => names.iter().any(named),
        }
    }
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    if options.list {
        tap::list(torture::TESTS);
        return Ok(ExitCode::SUCCESS);
    }
    let tests: Vec<&Test> = torture::TESTS
        .iter()
        .filter(|test| options.chosen(test))
        .collect();
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
    torture::LIMITS.set(limits);
    tap::note(format!(
        "{:?}, {limits:?}, extension {:?}",
        Modes::detect()?,
        host::extension_enabled()
    ));
    tap::run(&tests, Duration::from_secs(options.limit))
}
