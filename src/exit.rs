// SPDX-License-Identifier: GPL-2.0

//! VM exits that MMIO causes: what the vendor modules call first.

use crate::{
    addr::{Gpa, Gva},
    fast::{self, Refusal},
    fault::{emulator_knows_page, handle_mmio_page_fault_common, FaultAddress},
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

    match fast::takes_context(vcpu, mode) {
        Ok(()) => handle_mmio_fault(vcpu, &fault),
        Err(reason) => match signal_wildcard(vcpu, gpa) {
            Some(exit) => exit,
            None => handle_refused(vcpu, &fault, reason),
        },
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
    let fault = MmioFault {
        addr: FaultAddress::Physical(gpa),
        error_code,
        insn,
        mode,
    };

    match fast::takes_context(vcpu, mode) {
        Ok(()) => handle_mmio_fault(vcpu, &fault),
        Err(reason) => handle_refused(vcpu, &fault, reason),
    }
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

    let fault = |addr| MmioFault {
        addr,
        error_code,
        insn,
        mode,
    };

    match fast::takes_context(vcpu, mode) {
        // 64-bit code has paging.
        Ok(()) => handle_mmio_fault(vcpu, &fault(FaultAddress::Virtual(gva))),
        Err(reason) => {
            let addr = FaultAddress::new(gva.0, vcpu.paging_is_off());
            handle_refused(vcpu, &fault(addr), reason)
        }
    }
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

/// Handles a fault that is MMIO unless an entry is stale or gone, in a context that the fast path
/// takes.
#[inline(always)]
fn handle_mmio_fault(vcpu: &mut Vcpu<'_>, fault: &MmioFault) -> Exit {
    match fast::prepare(vcpu, fault) {
        Ok(operation) => fast::carry_out(vcpu, operation, true),
        Err(Refusal::Again(reason)) => handle_refused(vcpu, fault, Some(reason)),
        Err(Refusal::For(reason)) => handle_refused_at_last(vcpu, fault, reason),
        // Nothing has happened that could be seen: it is cheap to begin anew.
        Err(Refusal::UnknownPage | Refusal::UnknownInsn) => find_and_handle_mmio_fault(vcpu, fault),
    }
}

/// Handles a fault that the fast path has refused, for a reason unless it is switched off: the
/// shortest way to the emulator, if there is nothing to find out.
#[inline(always)]
fn handle_refused(vcpu: &mut Vcpu<'_>, fault: &MmioFault, reason: Option<Event>) -> Exit {
    if !emulator_knows_page(vcpu, fault.addr) {
        return find_and_handle_mmio_fault(vcpu, fault);
    }
    observe::emulate_refused(vcpu, fault, reason)
}

/// The same for a fault that was looked at in vain: it is rarer, and better out of the way of those
/// that are completed.
#[inline(never)]
fn handle_refused_at_last(vcpu: &mut Vcpu<'_>, fault: &MmioFault, reason: Event) -> Exit {
    handle_refused(vcpu, fault, Some(reason))
}

/// Handles a fault as `kvm_mmu_page_fault()` does.
#[inline(never)]
fn find_and_handle_mmio_fault(vcpu: &mut Vcpu<'_>, fault: &MmioFault) -> Exit {
    match handle_mmio_page_fault_common(vcpu, fault.addr) {
        Ok(PageFault::Emulate) => match fast::fetch_and_complete(vcpu, fault) {
            Some(exit) => exit,
            None => observe::emulate(vcpu, fault),
        },
        Ok(PageFault::Retry) => Exit::RESUME,
        Ok(PageFault::Invalid) => vcpu.fault_in(fault),
        Err(error) => Exit::error(error),
    }
}

/// Leaves a fault to KVM's C code.
fn pass(vcpu: &Vcpu<'_>) -> Exit {
    vcpu.stats().count(Event::Passed);
    Exit::PASS
}
