// SPDX-License-Identifier: GPL-2.0
//! Breakpoints of the guest, in its debug registers.

use anyhow::{Context, Result};

use super::program::{LOAD, STORE, prepared, regs_for, run_at};
use super::ways::each_way;
use crate::expect_eq;
use crate::guest::{Event, Machine, Vcpu};

const SAME: &str = "gate and retirement: a breakpoint is hit, or not, as with the emulator";

crate::test_table! {
    fast_breakpoint_code: SAME => breakpoint(Watch::Access),
    fast_breakpoint_next: SAME => breakpoint(Watch::Next),
    fast_breakpoint_data: SAME => breakpoint(Watch::Operand),
}

/// What the breakpoint is at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Watch {
    Access,
    Next,
    Operand,
}

impl Watch {
    /// DR0 and DR7 for a program at `at` that accesses page 1.
    pub(super) fn registers(self, machine: &Machine, at: u64) -> (u64, u64) {
        const ALWAYS_ONE: u64 = 1 << 10;
        const ENABLE_0: u64 = 1 << 0;
        const READ_OR_WRITE_4: u64 = 0xf << 16;
        let enabled = ALWAYS_ONE | ENABLE_0;
        match self {
            Self::Access => (at, enabled),
            Self::Next => (at + STORE.len() as u64, enabled),
            Self::Operand => (machine.gva(1), enabled | READ_OR_WRITE_4),
        }
    }
}

/// Where the processor stops at breakpoints, one at the instruction stops before it, one at the next
/// behind it. Whether KVM tells a guest of one at the operand is KVM's business, as long as it is
/// the same.
fn breakpoint(watch: Watch) -> Result<()> {
    for code in [STORE, LOAD] {
        let (events, access, ..) = each_way(|_| {
            let (machine, mut vcpu, at) = prepared(&code)?;
            run_at(&mut vcpu, regs_for(&machine), at)?;
            let (dr0, dr7) = watch.registers(&machine, at);
            set_breakpoint(&vcpu, dr0, dr7)?;
            let events = run_at(&mut vcpu, regs_for(&machine), at)?;

            let access = if code == STORE {
                Event::write(machine.gpa(1), 4, regs_for(&machine).rax)
            } else {
                Event::read(machine.gpa(1), 4)
            };
            let regs = vcpu.fd().get_regs().context("KVM_GET_REGS")?;
            let debug = vcpu.fd().get_debug_regs().context("KVM_GET_DEBUGREGS")?;
            // RIP, if there was an exception.
            let pushed = machine.ram().read_u64(regs.rsp);
            Ok((events, access, regs, debug.dr6, pushed))
        })?;
        let accessed = events.first() == Some(&access);
        match watch {
            Watch::Access => {
                expect_eq!(
                    (accessed, is_debugged(&events)),
                    (false, true),
                    "{events:?}"
                )
            }
            Watch::Next => {
                expect_eq!((accessed, is_debugged(&events)), (true, true), "{events:?}")
            }
            Watch::Operand => expect_eq!(accessed, true, "{events:?}"),
        }
    }
    Ok(())
}

pub(super) fn set_breakpoint(vcpu: &Vcpu, dr0: u64, dr7: u64) -> Result<()> {
    let mut registers = vcpu.fd().get_debug_regs().context("KVM_GET_DEBUGREGS")?;
    registers.db[0] = dr0;
    registers.dr7 = dr7;
    vcpu.fd()
        .set_debug_regs(&registers)
        .context("KVM_SET_DEBUGREGS")
}

pub(super) fn is_debugged(events: &[Event]) -> bool {
    const DB: u8 = 1;
    matches!(events.last(), Some(Event::Fault(fault)) if fault.vector == DB)
}
