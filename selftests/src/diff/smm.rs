// SPDX-License-Identifier: GPL-2.0
//! System management interrupts: what their handlers need, and how they are raised.

use anyhow::{Context, Result};

use crate::guest::layout::SMM_HANDLER;
use crate::guest::{Machine, PAGE, SMM_SPACE, SlotKind, Vcpu};

/// How often a handler has come to its end, 4 bytes.
pub const COUNT: u64 = SMM_HANDLER + PAGE;

/// Gives SMM the guest's RAM. Other memslots are not there: what is one outside is MMIO inside.
pub fn prepare(machine: &Machine) -> Result<()> {
    machine
        .set_slot(SMM_SPACE, 0, machine.ram(), SlotKind::Ram)
        .context("memory for SMM")
}

/// Has the vCPU interrupted before its next instruction.
pub fn interrupt(machine: &Machine, vcpu: &Vcpu, handler: &[u8]) -> Result<()> {
    machine.ram().write(SMM_HANDLER, handler);
    vcpu.fd().smi().context("KVM_SMI")
}
