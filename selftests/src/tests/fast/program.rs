// SPDX-License-Identifier: GPL-2.0
//! Programs whose code is where a test wants it, and how they are run.

use anyhow::{Context, Result};
use kvm_bindings::{kvm_regs, kvm_vcpu_events};

use crate::guest::layout::{SCRATCH, port};
use crate::guest::{Event, Machine, Mode, PAGE, Vcpu};
use crate::stats::{Delta, Mark};

/// RFLAGS with only its always-one bit.
pub const RFLAGS: u64 = 1 << 1;

/// Where code that is mapped in several ways is executed.
pub const CODE: u64 = 0x6000_0000;

/// Pages of RAM for such code.
pub const fn code_page(n: u64) -> u64 {
    SCRATCH + n * PAGE
}

/// out DONE, al
pub const DONE: [u8; 2] = [0xe6, port::DONE];

/// An instruction, and the end of the program.
pub fn ending(instruction: &[u8]) -> Vec<u8> {
    [instruction, &DONE].concat()
}

/// mov [rdi], eax, and mov eax, [rdi].
pub const STORE: [u8; 2] = [0x89, 0x07];
pub const LOAD: [u8; 2] = [0x8b, 0x07];

/// A vCPU with `code` in its memory; the pages that it uses were accessed.
pub fn prepared(code: &[u8]) -> Result<(Machine, Vcpu, u64)> {
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let at = code_page(0);
    // KVM does not trap after a store that goes to userspace; then the first NOP does.
    let code = [code, &[0x90, 0x90]].concat();
    machine.ram().write(at, &ending(&code));
    vcpu.touch(machine.gva(1), machine.gpa(1), 4)?;
    Ok((machine, vcpu, at))
}

pub fn start_with(vcpu: &mut Vcpu, regs: kvm_regs, rip: u64, rflags: u64) -> Result<()> {
    vcpu.start(regs, rip)?;
    let mut regs = vcpu.fd().get_regs().context("KVM_GET_REGS")?;
    regs.rflags = RFLAGS | rflags;
    vcpu.fd().set_regs(&regs).context("KVM_SET_REGS")
}

/// Runs the code at `rip` to its end or to an exception.
pub fn run_at(vcpu: &mut Vcpu, regs: kvm_regs, rip: u64) -> Result<Vec<Event>> {
    vcpu.start(regs, rip)?;
    finish(vcpu)
}

/// Goes on to the end or to an exception.
pub fn finish(vcpu: &mut Vcpu) -> Result<Vec<Event>> {
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
pub fn regs_for(machine: &Machine) -> kvm_regs {
    kvm_regs {
        rdi: machine.gva(1),
        rax: 0x1122_3344_5566_7788,
        rcx: 0x99aa_bbcc_ddee_ff01,
        rbx: CODE,
        ..Default::default()
    }
}

pub fn delta(start: &Mark, vcpu: &Vcpu) -> Result<Delta> {
    start.delta(&[vcpu.fd()])
}

pub fn mark(vcpu: &Vcpu) -> Result<Mark> {
    Mark::here(&[vcpu.fd()])
}

pub fn events_of(vcpu: &Vcpu) -> Result<kvm_vcpu_events> {
    vcpu.fd().get_vcpu_events().context("KVM_GET_VCPU_EVENTS")
}
