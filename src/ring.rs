// SPDX-License-Identifier: GPL-2.0

//! Doorbells that are answered before interrupts are on again.
//!
//! Most of what a doorbell costs is the way out of `vcpu_enter_guest()` and back in. KVM leaves it
//! out for a few exits (`EXIT_FASTPATH_REENTER_GUEST`), and here it is left out for stores that are
//! known to signal an eventfd: that is bounded work under a spinlock, and wakes whom it wakes with
//! interrupts off anyway. All that is not known takes the ordinary path: nothing has happened then.

use crate::{
    addr::Gpa,
    fast::{
        self,
        fetch::{find_page, known_plan}, //
    },
    iodev::Write,
    kvm::{AssistBytes, Mode},
    observe::Rung,
    state::Vcpu, //
};
use core::num::NonZero;

/// Completes a store that has faulted at `gpa`, but for RIP: returns the address of the next
/// instruction. `None` if it is not a doorbell that is known. Interrupts are off, and the fault is
/// none that the processor calls a read.
#[inline(always)]
pub(crate) fn ring(
    vcpu: &mut Vcpu<'_>,
    gpa: Gpa,
    error_code: u64,
    insn: AssistBytes<'_>,
    mode: Mode,
) -> Option<NonZero<u64>> {
    if !Vcpu::takes_error_code(error_code)
        || !vcpu.runs_plain_code(mode)
        || !vcpu.counts_no_instructions()
    {
        return None;
    }

    let mode = mode.as_64_bit();
    let slots = vcpu.memslots_generation();
    let plan = match known_plan(vcpu, mode, insn, slots) {
        Ok(plan) => plan,
        Err(refused) => {
            if refused.is_some() || !find_page(vcpu, mode, insn, slots) {
                return None;
            }
            known_plan(vcpu, mode, insn, slots).ok()?
        }
    };
    if plan.load.is_some() || plan.uses_rsp {
        return None;
    }
    let register = |number| vcpu.register(number);
    if !fast::reaches(vcpu, plan, plan.address(register), gpa) {
        return None;
    }
    let next_rip = NonZero::new(plan.next_rip)?;
    let write = Write {
        gpa,
        value: plan.stored(register),
        size: plan.size,
    };

    let rung = Rung::new(vcpu, gpa)?;
    if !vcpu.ring(&write, slots) {
        return None;
    }
    rung.see(vcpu, &write);
    Some(next_rip)
}
