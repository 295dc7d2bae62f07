// SPDX-License-Identifier: GPL-2.0

//! VM exits that MMIO causes: what the vendor modules call first.

use crate::{
    addr::{Gpa, Gva},
    fast::{self, Refusal},
    fault::{handle_mmio_page_fault_common, quickly_check_mmio_pf, FaultAddress},
    kvm::{AssistBytes, Exit, Mode, PageFault, Vcpu},
    observe,
    stats::Event, //
};

/// An MMIO fault as a VM exit reports it.
#[derive(Clone, Copy)]
pub(crate) struct MmioFault {
    /// Where it happened.
    pub(crate) addr: FaultAddress,
    /// Why, `PFERR_*`.
    pub(crate) error_code: u64,
    /// The instruction, if the processor knows it.
    pub(crate) insn: AssistBytes,
    /// What the processor was doing.
    pub(crate) mode: Mode,
}

/// Handles an EPT misconfiguration of L1, `handle_ept_misconfig()`.
///
/// It says nothing but the address, neither whether the access is a write nor, in a way to rely
/// on, how long the instruction is. KVM signals a zero-length ioeventfd nevertheless, and skips
/// the instruction. That is left for when the instruction is not going to be looked at.
pub(crate) fn handle_ept_misconfig(vcpu: &mut Vcpu<'_>, gpa: Gpa, mode: Mode) -> Exit {
    let fault = MmioFault {
        addr: FaultAddress::Physical(gpa),
        error_code: Vcpu::PFERR_RSVD,
        insn: AssistBytes::NONE,
        mode,
    };

    match complete(vcpu, &fault) {
        Ok(exit) => exit,
        Err(refusal @ (Refusal::Off | Refusal::Context)) => match signal_wildcard(vcpu, gpa) {
            Some(exit) => exit,
            None => handle_refused(vcpu, fault, refusal),
        },
        Err(refusal) => handle_refused(vcpu, fault, refusal),
    }
}

/// Handles a nested page fault of L1 with a reserved bit, `npf_interception()`.
pub(crate) fn npf_interception(
    vcpu: &mut Vcpu<'_>,
    gpa: Gpa,
    error_code: u64,
    insn: AssistBytes,
    mode: Mode,
) -> Exit {
    // KVM signals reads, too.
    if mode.can_skip() && error_code & Vcpu::PFERR_WRITE != 0 {
        if let Some(exit) = signal_wildcard(vcpu, gpa) {
            return exit;
        }
    }

    // Fetches and faults of encrypted guests have more to them than MMIO.
    if !Vcpu::takes_error_code(error_code) {
        return pass(vcpu);
    }

    vcpu.trace_page_fault(gpa, error_code);
    handle_mmio_fault(
        vcpu,
        MmioFault {
            addr: FaultAddress::Physical(gpa),
            error_code,
            insn,
            mode,
        },
    )
}

/// Handles a page fault with a reserved bit under shadow paging, `kvm_handle_page_fault()`. The
/// MMU may be direct even then: as long as the guest's paging is off.
pub(crate) fn shadow_page_fault(
    vcpu: &mut Vcpu<'_>,
    gva: Gva,
    error_code: u64,
    insn: AssistBytes,
    mode: Mode,
) -> Exit {
    if !Vcpu::takes_error_code(error_code) {
        return pass(vcpu);
    }

    let addr = FaultAddress::new(gva.0, vcpu.mmu_is_direct());
    handle_mmio_fault(
        vcpu,
        MmioFault {
            addr,
            error_code,
            insn,
            mode,
        },
    )
}

/// Signals the zero-length ioeventfd at `gpa` and skips the instruction, if there is one.
#[inline(always)]
fn signal_wildcard(vcpu: &mut Vcpu<'_>, gpa: Gpa) -> Option<Exit> {
    if !vcpu.has_wildcards() || !vcpu.signal_wildcard(gpa) {
        return None;
    }

    vcpu.stats().count(Event::Wildcard);
    observe::wildcard(vcpu, gpa);
    Some(vcpu.skip_emulated_instruction())
}

/// Handles a fault that is MMIO unless an entry is stale or gone.
#[inline(always)]
fn handle_mmio_fault(vcpu: &mut Vcpu<'_>, fault: MmioFault) -> Exit {
    match complete(vcpu, &fault) {
        Ok(exit) => exit,
        Err(refusal) => handle_refused(vcpu, fault, refusal),
    }
}

/// Completes an access of which all is known. If it does not, nothing has happened that could be
/// seen: it is cheap to begin anew.
#[inline(always)]
fn complete(vcpu: &mut Vcpu<'_>, fault: &MmioFault) -> Result<Exit, Refusal> {
    let exit = fast::complete(vcpu, fault)?;
    vcpu.stats().count(Event::CacheHit);
    Ok(exit)
}

/// Handles a fault that the fast path has refused.
#[inline(always)]
fn handle_refused(vcpu: &mut Vcpu<'_>, fault: MmioFault, refusal: Refusal) -> Exit {
    let page_is_known = match refusal {
        Refusal::For(_) => true,
        Refusal::Off | Refusal::Context => quickly_check_mmio_pf(vcpu, fault.addr),
        Refusal::UnknownPage | Refusal::UnknownInsn(_) => false,
    };
    // The shortest way to the emulator, if there is nothing to find out.
    if page_is_known {
        vcpu.stats().count(Event::CacheHit);
        if let Some(reason) = refusal.reason() {
            vcpu.stats().count(reason);
        }
        return observe::emulate(vcpu, &fault);
    }

    find_and_handle_mmio_fault(vcpu, fault)
}

/// Handles a fault as `kvm_mmu_page_fault()` does.
#[inline(never)]
fn find_and_handle_mmio_fault(vcpu: &mut Vcpu<'_>, fault: MmioFault) -> Exit {
    match handle_mmio_page_fault_common(vcpu, fault.addr) {
        Ok(PageFault::Emulate) => match fast::fetch_and_complete(vcpu, &fault) {
            Some(exit) => exit,
            None => observe::emulate(vcpu, &fault),
        },
        Ok(PageFault::Retry) => Exit::RESUME,
        Ok(PageFault::Invalid) => vcpu.fault_in(&fault),
        Err(error) => Exit::error(error),
    }
}

/// Leaves a fault to KVM's C code.
fn pass(vcpu: &Vcpu<'_>) -> Exit {
    vcpu.stats().count(Event::Passed);
    Exit::PASS
}
