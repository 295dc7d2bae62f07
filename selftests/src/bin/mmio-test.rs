// SPDX-License-Identifier: GPL-2.0
//! Tests of KVM's emulated MMIO, with or without the kvm_mmio_ext module.

use std::io::{self, Read};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use kvm_mmio_selftests::guest::{Machine, Mode};
use kvm_mmio_selftests::host::{self, Modes};
use kvm_mmio_selftests::tap::{self, Test};
use kvm_mmio_selftests::tests;

/// Runs tests of emulated MMIO through /dev/kvm and reports them as TAP.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// Tests to run; a part of a name stands for all names with it. All when none is given.
    names: Vec<String>,
    /// Name the tests, and what each proves
    #[arg(long)]
    list: bool,
    /// Seconds until a test counts as hanging; a debug kernel under load takes its time
    #[arg(long, default_value_t = 300)]
    limit: u64,
    /// Only keep a VM that has done MMIO, until standard input ends
    #[arg(long)]
    hold: bool,
    /// Give each VM the interrupt controllers and the timer of a PC, in the kernel
    #[arg(long)]
    irqchip: bool,
    /// With --hold: store to so many bytes, one after another, in place of two reads
    #[arg(long, requires = "hold")]
    bytes: Option<u64>,
}

fn hold(bytes: Option<u64>) -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    match bytes {
        Some(bytes) => vcpu.fill(machine.gva(1), bytes)?,
        None => {
            vcpu.touch(machine.gva(1), machine.gpa(1), 4)?;
            vcpu.touch(machine.gva(1), machine.gpa(1), 4)?;
        }
    }
    println!("holding");
    io::stdin()
        .read_to_end(&mut Vec::new())
        .context("waiting")?;
    Ok(())
}

fn choose(names: &[String]) -> Result<Vec<&'static Test>> {
    for name in names {
        if !tests::all().any(|test| test.name.contains(name.as_str())) {
            bail!("no test has {name:?} in its name; see --list");
        }
    }
    Ok(tests::all()
        .filter(|test| names.is_empty() || names.iter().any(|name| test.name.contains(name)))
        .collect())
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    if options.list {
        tap::list(tests::all());
        return Ok(ExitCode::SUCCESS);
    }
    if options.irqchip {
        if !Machine::offers_irqchip()? {
            bail!("this KVM has no interrupt controllers: CONFIG_KVM_IOAPIC");
        }
        Machine::all_with_irqchip();
    }
    if options.hold {
        return hold(options.bytes).map(|()| ExitCode::SUCCESS);
    }
    let tests = choose(&options.names)?;
    let switch = match host::extension_enabled() {
        None => "not loaded",
        Some(false) => "off",
        Some(true) => "on",
    };
    tap::note(format!("{:?}, extension {switch}", Modes::detect()?));
    tap::run(&tests, Duration::from_secs(options.limit))
}
