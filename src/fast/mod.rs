// SPDX-License-Identifier: GPL-2.0

//! The fast path: MMIO accesses by plain moves, without the instruction emulator.
//!
//! An access that is known to be MMIO is completed here if the vCPU runs plain code of L1, of 64 bits
//! or of 32 with flat segments, and the instruction is one that [`decode`](crate::pure::decode)
//! knows. Until the access itself, which is the last step and cannot fail, nothing has happened that
//! could be seen: any doubt ends in the emulator.

pub(crate) mod fetch;

use crate::{
    access::{FaultAddress, MmioFault},
    addr::{Gpa, Gva, PAGE_MASK, PAGE_SHIFT},
    fast::fetch::{fetch, known_plan, was_refused},
    fault::known_page,
    generation::MemslotGeneration,
    iodev::Write,
    kvm::{Exit, Mode, Purpose, ACC_WRITE},
    mmio_info::MmioInfo,
    pure::{
        gpr::{Extend, Register},
        plan::Plan, //
    },
    report::stats::Event,
    state::{PendingLoad, Vcpu}, //
};

/// An access that only remains to be carried out.
pub(crate) struct Operation {
    gpa: Gpa,
    /// Bytes: 1, 2, 4 or 8.
    size: u8,
    next_rip: u64,
    action: Action,
}

enum Action {
    Store(u64),
    Load(Register, Extend),
}

/// Whether the vCPU runs code whose accesses may be for the fast path: plain code of L1.
///
/// # Errors
///
/// Why not: [`Event::RefusedContext`], or why the instruction was refused a short time ago.
#[inline(always)]
pub(crate) fn takes_context(vcpu: &Vcpu<'_>, mode: Mode) -> Result<(), Event> {
    if vcpu.runs_plain_code(mode) {
        return Ok(());
    }
    if mode.is_flat() {
        return takes_flat_code(vcpu, mode);
    }
    Err(Event::RefusedContext)
}

/// The same of 32-bit code. It has been asked about segments by now: what is refused anyway is to pay for
/// nothing more.
#[cold]
#[inline(never)]
fn takes_flat_code(vcpu: &Vcpu<'_>, mode: Mode) -> Result<(), Event> {
    if let Some(reason) = was_refused(vcpu, mode) {
        return Err(reason);
    }
    if !vcpu.runs_plain_flat_code(mode) {
        return Err(Event::RefusedContext);
    }
    Ok(())
}

/// Completes the access of a fault whose page is known to be MMIO, after a look at the instruction
/// if that is necessary. `None` leaves it to the emulator.
pub(crate) fn fetch_and_complete(vcpu: &mut Vcpu<'_>, fault: &MmioFault<'_>) -> Option<Exit> {
    let page = |vcpu: &Vcpu<'_>, now| known_page(vcpu, fault.addr, now).copied();
    match fetch_and_prepare(vcpu, fault, page) {
        Ok(operation) => Some(carry_out(vcpu, operation, false)),
        Err(reason) => {
            let exit = retry_write(vcpu, fault, reason, false);
            if exit.is_none() {
                vcpu.stats().count(reason);
            }
            exit
        }
    }
}

/// Why an access is not completed.
pub(crate) enum Refusal {
    /// The page is not known to be MMIO.
    UnknownPage,
    /// The instruction has not been read yet, or it has changed.
    UnknownInsn,
    /// The instruction was refused a short time ago.
    Again(Event),
    /// It is nothing for the fast path.
    For(Event),
}

/// Finds out what the access is, after a look at the instruction if that is necessary, and where it
/// goes: `page` tells what is known of its page, as of the memslots' generation.
///
/// # Errors
///
/// Why it is not for the fast path.
#[inline(always)]
pub(crate) fn fetch_and_prepare(
    vcpu: &mut Vcpu<'_>,
    fault: &MmioFault<'_>,
    page: impl FnOnce(&Vcpu<'_>, MemslotGeneration) -> Option<MmioInfo>,
) -> Result<Operation, Event> {
    let mode = fault.mode;
    takes_context(vcpu, mode)?;
    let plan = match known_plan(vcpu, mode, fault.insn, vcpu.memslots_generation()) {
        Err(None) => {
            fetch(vcpu, mode, fault.insn)?;
            known_plan(vcpu, mode, fault.insn, vcpu.memslots_generation())
        }
        known => known,
    };
    // The instruction is just being changed.
    let plan = plan.map_err(|refused| refused.unwrap_or(Event::RefusedFetch))?;
    // It is no MMIO, or the memslots are just being changed.
    let page = page(vcpu, vcpu.memslots_generation()).ok_or(Event::RefusedContext)?;
    operation(vcpu, fault, plan, &page)
}

/// Finds out what the access is, where it goes and which instruction comes next, if its page is
/// known to be MMIO and its instruction is known, as of the memslots' generation `now`. The vCPU
/// runs code that the fast path takes, and the fault's mode says which.
///
/// # Errors
///
/// Why it is not to be completed; nothing has happened then that could be seen.
#[inline(always)]
pub(crate) fn prepare(
    vcpu: &Vcpu<'_>,
    fault: &MmioFault<'_>,
    now: MemslotGeneration,
) -> Result<Operation, Refusal> {
    let plan = known_plan(vcpu, fault.mode, fault.insn, now)
        .map_err(|refused| refused.map_or(Refusal::UnknownInsn, Refusal::Again))?;
    let page = known_page(vcpu, fault.addr, now).ok_or(Refusal::UnknownPage)?;
    operation(vcpu, fault, plan, page).map_err(Refusal::For)
}

/// What remains to be done, by an instruction that does `plan` and has faulted in `page`.
///
/// # Errors
///
/// Why it is not to be done.
#[inline(always)]
fn operation(
    vcpu: &Vcpu<'_>,
    fault: &MmioFault<'_>,
    plan: &Plan,
    page: &MmioInfo,
) -> Result<Operation, Event> {
    if plan.uses_rsp {
        vcpu.read_rsp();
    }
    let register = |number| vcpu.register(number);
    let gpa = locate(vcpu, fault, page, plan, plan.address(register))?;
    let action = match plan.load {
        None => Action::Store(plan.stored(register)),
        Some((register, extend)) => Action::Load(register, extend),
    };

    Ok(Operation {
        gpa,
        size: plan.size,
        next_rip: plan.next_rip,
        action,
    })
}

/// Finds out anew whether a write may be done after all, if it was refused for its rights, and
/// completes it then. `known` is as for [`carry_out`].
pub(crate) fn retry_write(
    vcpu: &mut Vcpu<'_>,
    fault: &MmioFault<'_>,
    reason: Event,
    known: bool,
) -> Option<Exit> {
    if !matches!(reason, Event::RefusedAccess) || fault.is_write != Some(true) {
        return None;
    }
    let FaultAddress::Virtual(gva) = fault.addr else {
        return None;
    };
    let page = *known_page(vcpu, fault.addr, vcpu.memslots_generation())?;
    learn_write_access(vcpu, gva, page, fault.mode);
    takes_context(vcpu, fault.mode).ok()?;
    let operation = prepare(vcpu, fault, vcpu.memslots_generation()).ok()?;
    Some(carry_out(vcpu, operation, known))
}

/// Lets the guest's page tables say anew whether a page of the info cache may be written, which it
/// may not as far as that knows. The vCPU runs plain code with shadow paging.
///
/// A page that is read while its entry is clean is cached without write permission, so that KVM sees
/// it become dirty. With MMIO there is nothing to see: once the entry is dirty the cache can say so.
#[cold]
fn learn_write_access(vcpu: &mut Vcpu<'_>, gva: Gva, page: MmioInfo, mode: Mode) {
    let page = MmioInfo {
        access: page.access | ACC_WRITE,
        ..page
    };
    // If it is not for want of this permission that the write is refused, nothing is learnt.
    if vcpu.may_access_mmio(page.access, mode, true)
        && vcpu.translate(gva, Purpose::Write, mode.is_user()) == Some(page.gfn.gpa_of(gva))
    {
        vcpu.info_cache_mut().insert(page);
    }
}

/// The physical address of the access, if the operand that was computed is what has faulted.
#[inline(always)]
fn locate(
    vcpu: &Vcpu<'_>,
    fault: &MmioFault<'_>,
    page: &MmioInfo,
    plan: &Plan,
    gva: Gva,
) -> Result<Gpa, Event> {
    if crosses_page(plan, gva) {
        return Err(Event::RefusedAddress);
    }
    // Another instruction has faulted than the one that is at RIP now.
    if fault
        .is_write
        .is_some_and(|write| write != plan.load.is_none())
    {
        return Err(Event::RefusedAddress);
    }

    match fault.addr {
        FaultAddress::Physical(gpa) if is_at(vcpu, gva, gpa) => Ok(gpa),
        // With shadow paging it has checked the MMIO SPTE, which denies everything: what the
        // guest's page tables allow is in the info cache. What it reports is canonical.
        FaultAddress::Virtual(addr) if addr == gva => {
            if !vcpu.may_access_mmio(page.access, fault.mode, plan.load.is_none()) {
                return Err(Event::RefusedAccess);
            }
            Ok(page.gfn.gpa_of(gva))
        }
        _ => Err(Event::RefusedAddress),
    }
}

/// Whether the operand that was computed is what has faulted at a physical address.
#[inline(always)]
pub(crate) fn reaches(vcpu: &Vcpu<'_>, plan: &Plan, gva: Gva, gpa: Gpa) -> bool {
    !crosses_page(plan, gva) && is_at(vcpu, gva, gpa)
}

#[inline(always)]
fn crosses_page(plan: &Plan, gva: Gva) -> bool {
    (gva.0 & !PAGE_MASK) + u64::from(plan.size) > 1 << PAGE_SHIFT
}

/// Whether an access to `gva` may have faulted at `gpa`.
///
/// With TDP the processor has checked the guest's page tables. It checks that an address is
/// canonical before it translates it; tagged ones are rare enough for the emulator.
#[inline(always)]
fn is_at(vcpu: &Vcpu<'_>, gva: Gva, gpa: Gpa) -> bool {
    (gpa.0 ^ gva.0) & !PAGE_MASK == 0 && is_canonical(vcpu, gva)
}

/// Whether the vCPU may use a virtual address. Few addresses need a look at the paging mode.
#[inline(always)]
fn is_canonical(vcpu: &Vcpu<'_>, gva: Gva) -> bool {
    gva.is_canonical(48) || (vcpu.has_5_levels() && gva.is_canonical(57))
}

/// Carries out an access: the point of no return. If all of it was `known`, no hit was counted yet.
#[inline(always)]
pub(crate) fn carry_out(vcpu: &mut Vcpu<'_>, operation: Operation, known: bool) -> Exit {
    let Operation {
        gpa,
        size,
        next_rip,
        action,
    } = operation;

    match action {
        Action::Store(value) => {
            let write = Write { gpa, value, size };
            vcpu.write_mmio(write, next_rip, known)
        }
        Action::Load(register, extend) => {
            let pending = PendingLoad {
                gpa,
                register,
                extend,
                size,
                next_rip,
            };
            load(vcpu, pending, known)
        }
    }
}

/// Carries out a load, unless userspace has to provide the value.
#[inline(never)]
fn load(vcpu: &mut Vcpu<'_>, load: PendingLoad, known: bool) -> Exit {
    match vcpu.read_mmio(load, known) {
        Some(value) => {
            load_register(vcpu, load, value);
            vcpu.retire(load.next_rip)
        }
        None => Exit::USERSPACE,
    }
}

/// Completes a load whose value userspace has provided.
#[inline]
pub(crate) fn finish_load(vcpu: &mut Vcpu<'_>, load: PendingLoad, value: u64) -> Exit {
    load_register(vcpu, load, value);
    vcpu.retire_read(load.next_rip)
}

fn load_register(vcpu: &mut Vcpu<'_>, load: PendingLoad, value: u64) {
    let old = vcpu.register(load.register.number);
    let new = load.register.loaded(old, value, load.size, load.extend);
    vcpu.set_register(load.register.number, new);
}
