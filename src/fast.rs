// SPDX-License-Identifier: GPL-2.0

//! The fast path: MMIO accesses by plain moves, without the instruction emulator.
//!
//! An access that is known to be MMIO is completed here if the vCPU runs plain 64-bit code of L1
//! and the instruction is one that [`decode`](crate::decode) knows. Until the access itself, which
//! is the last step and cannot fail, nothing has happened that could be seen: any doubt ends in
//! the emulator.

use crate::{
    addr::{Gfn, Gpa, Gva, PAGE_MASK, PAGE_SHIFT},
    decode::{Access, Operation},
    exit::MmioFault,
    fault::FaultAddress,
    info_cache::MmioInfo,
    kvm::{Exit, PendingLoad, Vcpu},
    stats::Event, //
};

/// Completes the access of a fault that is MMIO. `None` leaves it to the emulator.
#[inline(always)]
pub(crate) fn complete(vcpu: &mut Vcpu<'_>, fault: &MmioFault) -> Option<Exit> {
    if !Vcpu::fast_path_enabled() {
        return None;
    }

    match prepare(vcpu, fault) {
        Ok((access, gpa, next_rip)) => {
            vcpu.stats().count(Event::Fast);
            Some(carry_out(vcpu, access, gpa, next_rip))
        }
        Err(refused) => {
            vcpu.stats().count(refused);
            None
        }
    }
}

/// Finds out what the access is, where it goes and which instruction comes next; or why this is
/// not for the fast path.
#[inline(always)]
fn prepare(vcpu: &mut Vcpu<'_>, fault: &MmioFault) -> Result<(Access, Gpa, u64), Event> {
    // Cheapest first: an instruction that was refused before.
    if vcpu.is_known_unfit() {
        return Err(Event::RefusedInsn);
    }

    let page = faulting_page(vcpu, fault.addr).ok_or(Event::RefusedContext)?;
    let context = vcpu.enter_context().ok_or(Event::RefusedContext)?;
    let access = vcpu.fetch(&context, fault.insn, page.generation)?;
    let next_rip = context.rip().wrapping_add(access.length.into());
    let gva = access
        .address
        .effective(next_rip, |number| vcpu.register(number));
    let gpa = locate(vcpu, fault.addr, page.gfn, &access, Gva(gva))?;

    Ok((access, gpa, next_rip))
}

/// What KVM's info cache says of the page that has faulted. It was found there, or has been put
/// there since, unless the memslots are just being changed.
#[inline(always)]
fn faulting_page(vcpu: &Vcpu<'_>, addr: FaultAddress) -> Option<MmioInfo> {
    let now = vcpu.memslots_generation();
    let info = vcpu.last_mmio_info();
    addr.matches(&info, now).then_some(info)
}

/// The physical address of the access, if the operand that was computed is what has faulted.
#[inline(always)]
fn locate(
    vcpu: &Vcpu<'_>,
    addr: FaultAddress,
    gfn: Gfn,
    access: &Access,
    gva: Gva,
) -> Result<Gpa, Event> {
    let offset = gva.0 & !PAGE_MASK;
    // The processor checks that an address is canonical before it translates it. Those of 5-level
    // paging, and tagged ones, are rare enough for the emulator.
    let canonical = (gva.0 << 16) as i64 >> 16 == gva.0 as i64;
    if !canonical || offset + u64::from(access.size) > 1 << PAGE_SHIFT {
        return Err(Event::RefusedAddress);
    }

    match addr {
        // With TDP the processor has checked the guest's page tables.
        FaultAddress::Physical(gpa) if gpa.0 & !PAGE_MASK == offset => Ok(gpa),
        // With shadow paging it has checked the MMIO SPTE, which denies everything: what the
        // guest's page tables allow is in the info cache.
        FaultAddress::Virtual(fault) if fault == gva => {
            let write = !matches!(access.operation, Operation::Load { .. });
            if !vcpu.may_access_mmio(write) {
                return Err(Event::RefusedAccess);
            }
            Ok(Gpa(gfn.gpa().0 | offset))
        }
        _ => Err(Event::RefusedAddress),
    }
}

/// Carries out the access: the point of no return.
#[inline(always)]
fn carry_out(vcpu: &mut Vcpu<'_>, access: Access, gpa: Gpa, next_rip: u64) -> Exit {
    match access.operation {
        Operation::Store(register) => {
            let value = register.stored(vcpu.register(register.number), access.size);
            vcpu.write_mmio(gpa, access.size, value, next_rip)
        }
        Operation::StoreImmediate(value) => vcpu.write_mmio(gpa, access.size, value, next_rip),
        Operation::Load { register, extend } => {
            let load = PendingLoad {
                register,
                extend,
                size: access.size,
                next_rip,
            };
            match vcpu.read_mmio(gpa, load) {
                Some(value) => {
                    load_register(vcpu, load, value);
                    vcpu.retire(load.next_rip)
                }
                None => Exit::Userspace,
            }
        }
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
