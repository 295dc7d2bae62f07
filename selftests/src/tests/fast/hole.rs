// SPDX-License-Identifier: GPL-2.0
//! Code in a hole: KVM cannot execute it, and the extension has no part in that.

use anyhow::{Context, Result, bail};
use kvm_bindings::kvm_regs;
use kvm_ioctls::VcpuExit;

use super::program::{delta, mark};
use super::ways::each_way;
use crate::expect_eq;
use crate::guest::{Event, Machine, Mode};
use crate::host::{Modes, Vendor};

crate::test_table! {
    fast_code_hole: "takes_error_code: a fetch from an MMIO page is left to KVM, which gives up"
        => code_in_hole(),
}

/// Vector of #UD.
const UNDEFINED: u8 = 6;

fn code_in_hole() -> Result<()> {
    let modes = Modes::detect()?;
    // An EPT misconfiguration does not tell what the access is.
    let tells = !(modes.vendor == Vendor::Intel && modes.tdp);
    let next = each_way(|fast| {
        let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
        let gva = machine.gva(1);
        // There is an MMIO SPTE.
        vcpu.touch(gva, machine.gpa(1), 4)?;
        let start = mark(&vcpu)?;
        vcpu.start(kvm_regs::default(), gva)?;
        match vcpu.fd_mut().run().context("KVM_RUN")? {
            VcpuExit::InternalError => {}
            other => bail!("{other:?}, wanted an internal error"),
        }
        // C, too, asks whether the fault is MMIO.
        delta(&start, &vcpu)?
            .expect_ext("passed", (tells && fast).into())?
            .expect_ext("faults", 1)?
            .expect_ext("fast", 0)?;
        let regs = vcpu.fd().get_regs().context("KVM_GET_REGS")?;
        expect_eq!(regs.rip, gva);
        // Should userspace go on, the guest has an exception.
        vcpu.step()
    })?;
    match next {
        Some(Event::Fault(fault)) if fault.vector == UNDEFINED => Ok(()),
        other => bail!("{other:?} afterwards, wanted #UD"),
    }
}
