// SPDX-License-Identifier: GPL-2.0
//! The fast path, where a shortcut around the emulator could go wrong.

mod apic;
mod code;
mod context;
mod debug;
mod dispatch;
mod event;
mod flush;
mod hole;
mod irqs_off;
mod pending;
mod silicon;
mod smm;
mod split;

use std::fmt::Debug;

use anyhow::{Context, Result};
use kvm_bindings::kvm_regs;

use crate::guest::layout::{SCRATCH, port};
use crate::guest::{Event, Machine, PAGE, Vcpu};
use crate::host::{self, Modes, Vendor};
use crate::stats::{Delta, Mark};
use crate::tap::Test;
use crate::{expect_eq, skip};

pub fn tests() -> impl Iterator<Item = &'static Test> {
    [
        code::TESTS,
        context::TESTS,
        debug::TESTS,
        event::TESTS,
        smm::TESTS,
        dispatch::TESTS,
        apic::TESTS,
        pending::TESTS,
        split::TESTS,
        hole::TESTS,
        silicon::TESTS,
        flush::TESTS,
        irqs_off::TESTS,
    ]
    .into_iter()
    .flatten()
}

/// RFLAGS with only its always-one bit.
const RFLAGS: u64 = 1 << 1;

/// Where code that is mapped in several ways is executed.
const CODE: u64 = 0x6000_0000;

/// Pages of RAM for such code.
const fn code_page(n: u64) -> u64 {
    SCRATCH + n * PAGE
}

/// out DONE, al
const DONE: [u8; 2] = [0xe6, port::DONE];

/// An instruction, and the end of the program.
fn ending(instruction: &[u8]) -> Vec<u8> {
    [instruction, &DONE].concat()
}

/// The parameter `fast`, which is put back at the end.
struct Switch {
    before: bool,
}

impl Switch {
    fn new() -> Result<Self> {
        if host::extension_enabled() != Some(true) {
            skip!("the extension is not on");
        }
        if !Modes::detect()?.mmio_caching {
            skip!("without MMIO SPTEs there is no fast path");
        }
        match host::fast_path() {
            Some(before) => Ok(Self { before }),
            None => skip!("the extension has no fast path"),
        }
    }

    fn on() -> Result<Self> {
        let switch = Self::new()?;
        switch.set(true)?;
        Ok(switch)
    }

    fn set(&self, on: bool) -> Result<()> {
        host::set_fast_path(on).context("the parameter `fast`")?;
        expect_eq!(host::fast_path(), Some(on));
        Ok(())
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        // A test that fails has said so already.
        let _ = host::set_fast_path(self.before);
        let _ = host::set_extension(true);
    }
}

/// Skips on Bochs as an AMD (`svm-nrips`) what fails there, with the extension off as well.
fn needs_more_than_bochs(failure: &str) -> Result<()> {
    let modes = Modes::detect()?;
    if modes.vendor == Vendor::Amd && modes.nrips {
        skip!("Bochs as an AMD {failure}, without the extension too");
    }
    Ok(())
}

/// Within 300 instructions of VMRUN the host's kernel takes exceptions in its exception handlers
/// until the processor shuts down, i.e. before KVM has its own GS base back. Nothing may be
/// delivered there, as GIF is clear.
fn needs_trap_flag() -> Result<()> {
    needs_more_than_bochs("shuts down if a guest runs with RFLAGS.TF")
}

/// Runs the same without the extension, without and with the fast path; what is returned must not
/// differ. `run` is told whether the fast path is on.
fn each_way<T: Debug + PartialEq>(run: impl Fn(bool) -> Result<T>) -> Result<T> {
    let switch = Switch::new()?;
    host::set_extension(false).context("the parameter `enabled`")?;
    let without = run(false).context("without the extension")?;
    host::set_extension(true).context("the parameter `enabled`")?;
    switch.set(false)?;
    let emulated = run(false).context("without the fast path")?;
    expect_eq!(emulated, without, "the second is without the extension");
    switch.set(true)?;
    let fast = run(true).context("with the fast path")?;
    expect_eq!(fast, emulated, "the second is without the fast path");
    Ok(fast)
}

/// The same for what an interrupt of the host can disturb: QEMU's processor forgets the interrupt
/// shadow if one comes in it. A difference must show each time.
fn each_way_undisturbed<T: Debug + PartialEq>(run: impl Fn(bool) -> Result<T>) -> Result<T> {
    const TRIES: usize = 5;
    let mut result = each_way(&run);
    for _ in 1..TRIES {
        if result.is_ok() {
            break;
        }
        result = each_way(&run);
    }
    result
}

/// Runs the code at `rip` to its end or to an exception.
fn run_at(vcpu: &mut Vcpu, regs: kvm_regs, rip: u64) -> Result<Vec<Event>> {
    vcpu.start(regs, rip)?;
    finish(vcpu)
}

/// Goes on to the end or to an exception.
fn finish(vcpu: &mut Vcpu) -> Result<Vec<Event>> {
    let mut events = Vec::new();
    while let Some(event) = vcpu.step()? {
        let end = matches!(event, Event::Fault(_));
        events.push(event);
        if end {
            break;
        }
    }
    Ok(events)
}

/// Registers for a store to page 1 of the window, or a load from it.
fn regs_for(machine: &Machine) -> kvm_regs {
    kvm_regs {
        rdi: machine.gva(1),
        rax: 0x1122_3344_5566_7788,
        rcx: 0x99aa_bbcc_ddee_ff01,
        rbx: CODE,
        ..Default::default()
    }
}

fn delta(start: &Mark, vcpu: &Vcpu) -> Result<Delta> {
    start.delta(&[vcpu.fd()])
}

fn mark(vcpu: &Vcpu) -> Result<Mark> {
    Mark::here(&[vcpu.fd()])
}
