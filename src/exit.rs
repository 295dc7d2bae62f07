// SPDX-License-Identifier: GPL-2.0

//! VM exits that MMIO causes: what the vendor modules call first.

use crate::{
    access::{FaultAddress, MmioFault},
    addr::{Gpa, Gva},
    fast::{self, fetch::find_page, Refusal},
    fault::{emulator_knows_page, handle_mmio_page_fault_common},
    generation::MemslotGeneration,
    kvm::{AssistBytes, Exit, Mode, PageFault, ACC_WRITE},
    mmio_info::MmioInfo,
    observe,
    report::stats::Event,
    state::Vcpu, //
};

/// Handles an EPT misconfiguration of L1, `handle_ept_misconfig()`.
///
/// It says nothing but the address, neither whether the access is a write nor, in a way to rely
/// on, how long the instruction is (Intel SDM volume 3, "Information for VM Exits Due to
/// Instruction Execution"). KVM signals a zero-length ioeventfd nevertheless, and skips the
/// instruction. That is left for when the instruction is not going to be looked at.
#[inline(always)]
pub(crate) fn handle_ept_misconfig(vcpu: &mut Vcpu<'_>, gpa: Gpa, mode: Mode) -> Exit {
    let fault = || MmioFault {
        addr: FaultAddress::Physical(gpa),
        error_code: Vcpu::PFERR_RSVD,
        insn: AssistBytes::NONE,
        is_write: None,
        mode,
        can_skip: true,
    };

    let reason = match fast::takes_context(vcpu, mode) {
        Ok(()) => return handle_mmio_fault(vcpu, &fault()),
        Err(reason) => reason,
    };
    match signal_untaken(vcpu, gpa, reason) {
        Some(exit) => exit,
        None => handle_untaken(vcpu, &fault(), reason),
    }
}

/// Handles a nested page fault of L1 with a reserved bit, `npf_interception()`.
#[inline(always)]
pub(crate) fn npf_interception(
    vcpu: &mut Vcpu<'_>,
    gpa: Gpa,
    error_code: u64,
    insn: AssistBytes<'_>,
    mode: Mode,
) -> Exit {
    // Fetches and faults of encrypted guests have more to them than MMIO.
    if !Vcpu::takes_error_code(error_code) {
        return pass(vcpu);
    }

    vcpu.trace_page_fault(gpa, error_code);
    let is_write = error_code & Vcpu::PFERR_WRITE != 0;
    // KVM signals reads, too.
    let can_skip = mode.can_skip() && is_write;
    let fault = || MmioFault {
        addr: FaultAddress::Physical(gpa),
        error_code,
        insn,
        is_write: Some(is_write),
        mode,
        can_skip,
    };

    let reason = match fast::takes_context(vcpu, mode) {
        Ok(()) => return handle_mmio_fault(vcpu, &fault()),
        Err(reason) => reason,
    };
    if can_skip {
        if let Some(exit) = signal_untaken(vcpu, gpa, reason) {
            return exit;
        }
    }
    handle_untaken(vcpu, &fault(), reason)
}

/// Handles a page fault with a reserved bit under shadow paging, `kvm_handle_page_fault()`. The
/// MMU may be direct even then: as long as the guest's paging is off.
#[inline(always)]
pub(crate) fn shadow_page_fault(
    vcpu: &mut Vcpu<'_>,
    gva: Gva,
    error_code: u64,
    insn: AssistBytes<'_>,
    mode: Mode,
) -> Exit {
    if !Vcpu::takes_error_code(error_code) {
        return pass(vcpu);
    }

    let fault = |addr| MmioFault {
        addr,
        error_code,
        insn,
        is_write: Some(error_code & Vcpu::PFERR_WRITE != 0),
        mode,
        can_skip: false,
    };

    let taken = fast::takes_context(vcpu, mode);
    // 64-bit code has paging.
    if taken.is_ok() && !mode.is_flat() {
        return handle_mmio_fault(vcpu, &fault(FaultAddress::Virtual(gva)));
    }
    let fault = fault(FaultAddress::new(gva.0, vcpu.paging_is_off()));
    match taken {
        Ok(()) => handle_mmio_fault(vcpu, &fault),
        Err(reason) => handle_untaken(vcpu, &fault, reason),
    }
}

/// Handles a write of L1 that `kvm_mmu_page_fault()` is about to emulate, if the fast path can and its
/// memslot is read-only: then it is MMIO. No info cache holds such a page, where reads find memory;
/// what the memslots say is asked each time, but for what is answered before interrupts are on.
#[inline(always)]
pub(crate) fn write_fault(
    vcpu: &mut Vcpu<'_>,
    gpa: Gpa,
    error_code: u64,
    insn: AssistBytes<'_>,
    mode: Mode,
) -> Exit {
    if !Vcpu::takes_error_code(error_code) {
        return Exit::PASS;
    }

    let fault = MmioFault {
        addr: FaultAddress::Physical(gpa),
        error_code,
        insn,
        is_write: Some(true),
        mode,
        can_skip: false,
    };
    let page = |vcpu: &Vcpu<'_>, generation| {
        vcpu.is_read_only(gpa).then_some(MmioInfo {
            gva: Gva(0),
            gfn: gpa.gfn(),
            access: ACC_WRITE,
            generation,
        })
    };
    match fast::fetch_and_prepare(vcpu, &fault, page) {
        Ok(operation) => {
            vcpu.stats().count(Event::ReadOnly);
            fast::carry_out(vcpu, operation, false)
        }
        // Nothing that KVM would not have done without being asked.
        Err(_) => Exit::PASS,
    }
}

/// Signals the zero-length ioeventfd at `gpa` and skips the instruction, if there is one: KVM's shortcut,
/// for a context that the fast path does not take. An instruction that it has refused is not for that.
#[inline(always)]
fn signal_untaken(vcpu: &mut Vcpu<'_>, gpa: Gpa, reason: Event) -> Option<Exit> {
    let is_signalled = matches!(reason, Event::RefusedContext) && vcpu.signal_wildcard(gpa);
    if is_signalled {
        vcpu.stats().count(Event::Wildcard);
    }
    is_signalled.then(|| skip(vcpu, gpa))
}

/// Handles a fault in a context that the fast path does not take, or of an instruction that it was known
/// to refuse.
#[inline(always)]
fn handle_untaken(vcpu: &mut Vcpu<'_>, fault: &MmioFault<'_>, reason: Event) -> Exit {
    let now = vcpu.memslots_generation();
    handle_refused(vcpu, fault, reason, now)
}

/// Handles a fault that is MMIO unless an entry is stale or gone, in a context that the fast path
/// takes.
#[inline(always)]
fn handle_mmio_fault(vcpu: &mut Vcpu<'_>, fault: &MmioFault<'_>) -> Exit {
    let now = vcpu.memslots_generation();
    match fast::prepare(vcpu, fault, now) {
        Ok(operation) => fast::carry_out(vcpu, operation, true),
        Err(Refusal::Again(reason)) => handle_refused(vcpu, fault, reason, now),
        Err(Refusal::For(reason)) => handle_refused_at_last(vcpu, fault, reason),
        // Nothing has happened that could be seen: it is cheap to begin anew.
        Err(Refusal::UnknownPage) => find_and_handle_mmio_fault(vcpu, fault),
        Err(Refusal::UnknownInsn) => find_code_and_handle_mmio_fault(vcpu, fault, now),
    }
}

/// The same for an instruction that is not known, in this address space.
#[inline(never)]
fn find_code_and_handle_mmio_fault(
    vcpu: &mut Vcpu<'_>,
    fault: &MmioFault<'_>,
    now: MemslotGeneration,
) -> Exit {
    if find_page(vcpu, fault.mode, fault.insn, now) {
        if let Ok(operation) = fast::prepare(vcpu, fault, now) {
            return fast::carry_out(vcpu, operation, true);
        }
    }
    find_and_handle_mmio_fault(vcpu, fault)
}

/// Handles a fault that the fast path has refused: the shortest way to the emulator, if there is
/// nothing to find out. `now` is the memslots' generation, read in this exit.
#[inline(always)]
fn handle_refused(
    vcpu: &mut Vcpu<'_>,
    fault: &MmioFault<'_>,
    reason: Event,
    now: MemslotGeneration,
) -> Exit {
    if !emulator_knows_page(vcpu, fault.addr, now) {
        return find_and_handle_mmio_fault(vcpu, fault);
    }
    match signal_unknown_insn(vcpu, fault) {
        Some(exit) => {
            vcpu.stats().count(Event::Wildcard);
            exit
        }
        None => observe::emulate_refused(vcpu, fault, reason),
    }
}

/// Signals the zero-length ioeventfd of an access by an instruction that KVM's emulator does not
/// know, as KVM does of all: what would otherwise end the guest.
#[inline(always)]
fn signal_unknown_insn(vcpu: &mut Vcpu<'_>, fault: &MmioFault<'_>) -> Option<Exit> {
    match fault.addr {
        FaultAddress::Physical(gpa) if fault.can_skip && vcpu.has_wildcards() => {
            signal_unless_emulated(vcpu, fault, gpa)
        }
        _ => None,
    }
}

#[cold]
fn signal_unless_emulated(vcpu: &mut Vcpu<'_>, fault: &MmioFault<'_>, gpa: Gpa) -> Option<Exit> {
    if !vcpu.has_wildcard(gpa) || vcpu.can_emulate(fault) || !vcpu.signal_wildcard(gpa) {
        return None;
    }
    Some(skip(vcpu, gpa))
}

/// Ends an access that has signalled a zero-length ioeventfd.
#[inline(always)]
fn skip(vcpu: &mut Vcpu<'_>, gpa: Gpa) -> Exit {
    observe::wildcard(vcpu, gpa);
    vcpu.skip_emulated_instruction()
}

/// The same for a fault that was looked at in vain: it is rarer, and better out of the way of those
/// that are completed.
#[inline(never)]
fn handle_refused_at_last(vcpu: &mut Vcpu<'_>, fault: &MmioFault<'_>, reason: Event) -> Exit {
    match fast::retry_write(vcpu, fault, reason, true) {
        Some(exit) => exit,
        None => handle_refused(vcpu, fault, reason, vcpu.memslots_generation()),
    }
}

/// Handles a fault as `kvm_mmu_page_fault()` does.
#[inline(never)]
fn find_and_handle_mmio_fault(vcpu: &mut Vcpu<'_>, fault: &MmioFault<'_>) -> Exit {
    match handle_mmio_page_fault_common(vcpu, fault.addr) {
        Ok(PageFault::Emulate) => match fast::fetch_and_complete(vcpu, fault) {
            Some(exit) => exit,
            None => match signal_unknown_insn(vcpu, fault) {
                Some(exit) => exit,
                None => observe::emulate(vcpu, fault),
            },
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
