// SPDX-License-Identifier: GPL-2.0

//! The fast path: MMIO accesses by plain moves, without the instruction emulator.
//!
//! An access that is known to be MMIO is completed here if the vCPU runs plain 64-bit code of L1
//! and the instruction is one that [`decode`](crate::decode) knows. Until the access itself, which
//! is the last step and cannot fail, nothing has happened that could be seen: any doubt ends in
//! the emulator.

use crate::{
    addr::{Gpa, Gva, PAGE_MASK, PAGE_SHIFT},
    decode::{Extend, Register},
    exit::MmioFault,
    fault::{known_page, FaultAddress},
    generation::MemslotGeneration,
    info_cache::MmioInfo,
    kvm::{Exit, PendingLoad, Vcpu, Write},
    plan::Plan,
    stats::Event, //
};

/// An access that only remains to be carried out.
struct Operation {
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

/// Completes the access of a fault, if its page is known to be MMIO and its instruction is known.
///
/// # Errors
///
/// Why it is not for the fast path; nothing has happened then that could be seen.
#[inline(always)]
pub(crate) fn complete(vcpu: &mut Vcpu<'_>, fault: &MmioFault) -> Result<Exit, Refusal> {
    if !Vcpu::fast_path_enabled() {
        return Err(Refusal::Off);
    }
    let operation = prepare(vcpu, fault)?;

    Ok(carry_out(vcpu, operation))
}

/// Completes the access of a fault whose page is known to be MMIO, after a look at the instruction
/// if that is necessary. `None` leaves it to the emulator.
pub(crate) fn fetch_and_complete(vcpu: &mut Vcpu<'_>, fault: &MmioFault) -> Option<Exit> {
    let mut result = complete(vcpu, fault);
    if let Err(Refusal::UnknownInsn(generation)) = result {
        result = vcpu
            .fetch(fault.mode, fault.insn, generation)
            .map_err(Refusal::For)
            .and_then(|()| complete(vcpu, fault));
    }

    match result {
        Ok(exit) => Some(exit),
        Err(refusal) => {
            if let Some(reason) = refusal.reason() {
                vcpu.stats().count(reason);
            }
            None
        }
    }
}

/// Why an access is not completed.
pub(crate) enum Refusal {
    /// The fast path is switched off.
    Off,
    /// The vCPU does not run plain 64-bit code of L1.
    Context,
    /// The page is not known to be MMIO.
    UnknownPage,
    /// The instruction has not been read yet, or it has changed; with the memslots' generation.
    UnknownInsn(MemslotGeneration),
    /// It is nothing for the fast path. The page is known, and in KVM's own info cache.
    For(Event),
}

impl Refusal {
    /// What it is counted as.
    #[inline(always)]
    pub(crate) const fn reason(&self) -> Option<Event> {
        match self {
            Self::Off => None,
            Self::For(reason) => Some(*reason),
            // Or the memslots are just being changed.
            Self::Context | Self::UnknownPage => Some(Event::RefusedContext),
            // The instruction is just being changed.
            Self::UnknownInsn(_) => Some(Event::RefusedFetch),
        }
    }
}

/// Finds out what the access is, where it goes and which instruction comes next.
#[inline(always)]
fn prepare(vcpu: &Vcpu<'_>, fault: &MmioFault) -> Result<Operation, Refusal> {
    if !vcpu.runs_plain_code(fault.mode) {
        return Err(Refusal::Context);
    }
    let now = vcpu.memslots_generation();
    let page = known_page(vcpu, fault.addr, now).ok_or(Refusal::UnknownPage)?;
    let refuse = |reason| {
        vcpu.set_last_mmio_info(*page);
        Refusal::For(reason)
    };
    let plan = vcpu
        .known_plan(fault.mode, fault.insn, now)
        .map_err(|refused| refused.map_or(Refusal::UnknownInsn(now), refuse))?;

    if plan.uses_rsp {
        vcpu.read_rsp();
    }
    let register = |number| vcpu.register(number);
    let gpa = locate(vcpu, fault, page, plan, plan.address(register)).map_err(refuse)?;
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

/// The physical address of the access, if the operand that was computed is what has faulted.
#[inline(always)]
fn locate(
    vcpu: &Vcpu<'_>,
    fault: &MmioFault,
    page: &MmioInfo,
    plan: &Plan,
    gva: Gva,
) -> Result<Gpa, Event> {
    let offset = gva.0 & !PAGE_MASK;
    if offset + u64::from(plan.size) > 1 << PAGE_SHIFT {
        return Err(Event::RefusedAddress);
    }

    match fault.addr {
        // With TDP the processor has checked the guest's page tables. It checks that an address is
        // canonical before it translates it; tagged ones are rare enough for the emulator.
        FaultAddress::Physical(gpa) if gpa.0 & !PAGE_MASK == offset && is_canonical(vcpu, gva) => {
            Ok(gpa)
        }
        // With shadow paging it has checked the MMIO SPTE, which denies everything: what the
        // guest's page tables allow is in the info cache.
        FaultAddress::Virtual(addr) if addr == gva => {
            if !vcpu.may_access_mmio(page, fault.mode, plan.load.is_none()) {
                return Err(Event::RefusedAccess);
            }
            Ok(Gpa(page.gfn.gpa().0 | offset))
        }
        _ => Err(Event::RefusedAddress),
    }
}

/// Whether the vCPU may use a virtual address. Few addresses need a look at the paging mode.
#[inline(always)]
fn is_canonical(vcpu: &Vcpu<'_>, gva: Gva) -> bool {
    gva.is_canonical(48) || (vcpu.has_5_levels() && gva.is_canonical(57))
}

/// Carries out the access: the point of no return.
#[inline(always)]
fn carry_out(vcpu: &mut Vcpu<'_>, operation: Operation) -> Exit {
    let Operation {
        gpa,
        size,
        next_rip,
        action,
    } = operation;

    match action {
        Action::Store(value) => vcpu.write_mmio(Write { gpa, value, size }, next_rip),
        Action::Load(register, extend) => load(
            vcpu,
            PendingLoad {
                gpa,
                register,
                extend,
                size,
                next_rip,
            },
        ),
    }
}

/// Carries out a load, unless userspace has to provide the value.
#[inline(never)]
fn load(vcpu: &mut Vcpu<'_>, load: PendingLoad) -> Exit {
    match vcpu.read_mmio(load) {
        Some(value) => {
            load_register(vcpu, load, value);
            vcpu.retire(load.next_rip)
        }
        None => Exit::USERSPACE,
    }
}

/// Completes a load whose value userspace has provided.
pub(crate) fn finish_load(vcpu: &mut Vcpu<'_>, load: PendingLoad, value: u64) -> Exit {
    load_register(vcpu, load, value);
    vcpu.retire_read(load.next_rip)
}

fn load_register(vcpu: &mut Vcpu<'_>, load: PendingLoad, value: u64) {
    let old = vcpu.register(load.register.number);
    let new = load.register.loaded(old, value, load.size, load.extend);
    vcpu.set_register(load.register.number, new);
}
