// SPDX-License-Identifier: GPL-2.0
//! Flushes of the processor's first-level data cache, against L1TF.
//!
//! With `kvm-intel.vmentry_l1d_flush=cond`, the default where a processor needs it, KVM flushes
//! before it enters a guest if the host has touched what may be secret: other memory than the
//! guest's, for which KVM's emulator asks each time. A flush costs several times what the access
//! costs.

use anyhow::{Result, ensure};
use iced_x86::code_asm as asm;
use kvm_bindings::kvm_regs;

use super::ways::Switch;
use crate::guest::{Bus, Machine, Match, Mode};
use crate::host;
use crate::skip;
use crate::stats::{Delta, Mark};

crate::test_table! {
    fast_asks_for_no_flush:
        "L1TF: the fast path asks for no flush of the L1 data cache, as the emulator does"
        => no_flush(),
}

/// Accesses of one count, by one instruction or by more than one cache would hold.
const ACCESSES: u64 = 1024;
const SITES: [u64; 2] = [1, 64];

/// What is counted while the guest rings a doorbell [`ACCESSES`] times by `sites` instructions,
/// each of which has rung before.
fn ring(sites: u64) -> Result<Delta> {
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let bell = machine.doorbell(Bus::Mmio(machine.gpa(0)), Match::Len(4))?;
    let program = vcpu.load(|a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        for _ in 0..sites {
            a.mov(asm::dword_ptr(asm::rdi), asm::eax)?;
        }
        a.dec(asm::ecx)?;
        a.jne(again)
    })?;
    let mut run = |accesses: u64| {
        let regs = kvm_regs {
            rcx: accesses / sites,
            rdi: machine.gva(0),
            ..Default::default()
        };
        vcpu.start(regs, program)?;
        let start = Mark::here(&[vcpu.fd()])?;
        vcpu.run_to_end()?;
        let rings = bell.rings()?;
        ensure!(rings == accesses, "{rings} rings of {accesses}");
        start.delta(&[vcpu.fd()])
    };
    run(2 * sites)?;
    run(ACCESSES)
}

fn no_flush() -> Result<()> {
    let switch = Switch::on()?;
    match host::parameter("kvm_intel", "vmentry_l1d_flush") {
        Some(when) if when == "cond" => {}
        Some(when) => skip!("KVM does not flush when asked to: vmentry_l1d_flush is {when:?}"),
        None => skip!("only on Intel KVM flushes"),
    }
    for sites in SITES {
        // Without this there is nothing to count.
        switch.set(false)?;
        let emulated = ring(sites)?.kvm("l1d_flush")?;
        ensure!(
            emulated >= ACCESSES,
            "{sites} instructions: {emulated} flushes in {ACCESSES} accesses that KVM emulates"
        );
        switch.set(true)?;
        let delta = ring(sites)?;
        let (flushes, fast) = (delta.kvm("l1d_flush")?, delta.ext("fast")?);
        ensure!(fast == Some(ACCESSES), "{sites} instructions: {delta:?}");
        // KVM_RUN asks for one, and so do interrupts of the host.
        ensure!(
            flushes <= ACCESSES / 16,
            "{sites} instructions: {flushes} flushes in {ACCESSES} accesses of the fast path"
        );
    }
    Ok(())
}
