// SPDX-License-Identifier: GPL-2.0

//! Seeing each access where it ends: counters by size, heat, tracepoints.

use crate::{
    addr::{Gfn, Gpa, PAGE_MASK},
    exit::MmioFault,
    fault::FaultAddress,
    heat::{Access, Direction, Kind, Outcome},
    kvm::{access_is_traced, heat_is_on, miss_is_traced, tsc, Exit, Vcpu}, //
};

/// Sees an access of the fast path, done in the kernel or left to userspace. The value of a read
/// is known in the first case only.
#[inline(always)]
pub(crate) fn fast(
    vcpu: &mut Vcpu<'_>,
    gpa: Gpa,
    (direction, size): (Direction, u8),
    value: u64,
    userspace: bool,
) {
    let kind = Kind::fast(direction, userspace);
    if heat_is_on() && !vcpu.record_heat_quickly(gpa, kind, size, value) {
        record(vcpu, gpa, kind, size, value);
    }
    if access_is_traced() {
        trace(vcpu, gpa, kind, size);
    }
}

/// Whether somebody wants to know what the emulator does.
#[inline(always)]
pub(crate) fn sees_emulated() -> bool {
    heat_is_on() || access_is_traced()
}

/// Lets the emulator do an access. What it did is found out only if somebody looks.
#[inline(always)]
pub(crate) fn emulate(vcpu: &mut Vcpu<'_>, fault: &MmioFault) -> Exit {
    if sees_emulated() {
        return emulate_and_see(vcpu, fault);
    }
    vcpu.stats().count_emulated(Direction::Unknown, 0);
    vcpu.emulate_instruction(fault)
}

#[cold]
fn emulate_and_see(vcpu: &mut Vcpu<'_>, fault: &MmioFault) -> Exit {
    // The emulator may change what KVM knows of the page.
    let gpa = gpa(vcpu, fault.addr);
    let (exit, direction, size) = vcpu.emulate_and_classify(fault);
    vcpu.stats().count_emulated(direction, size);

    let outcome = match exit {
        Exit::RESUME => Outcome::EmulatedKernel,
        _ => Outcome::EmulatedUserspace,
    };
    let kind = Kind::new(outcome, direction);
    match gpa {
        Some(gpa) => see(vcpu, gpa, kind, size),
        None if heat_is_on() => vcpu.stats().count_heat_dropped(),
        None => (),
    }
    exit
}

/// Where a fault was. `None` if the memslots are just being changed.
fn gpa(vcpu: &Vcpu<'_>, addr: FaultAddress) -> Option<Gpa> {
    match addr {
        FaultAddress::Physical(gpa) => Some(gpa),
        FaultAddress::Virtual(gva) => {
            let info = vcpu.last_mmio_info();
            addr.matches(&info, vcpu.memslots_generation())
                .then_some(Gpa(info.gfn.gpa().0 | gva.0 & !PAGE_MASK))
        }
    }
}

/// Sees an access that has signalled a zero-length ioeventfd.
#[inline(always)]
pub(crate) fn wildcard(vcpu: &mut Vcpu<'_>, gpa: Gpa) {
    let kind = Kind::new(Outcome::Wildcard, Direction::Unknown);
    see(vcpu, gpa, kind, 0);
}

/// Sees an access for which a page is being faulted in as MMIO. KVM's own code goes on with it.
pub(crate) fn faulted_in(vcpu: &mut Vcpu<'_>, gfn: Gfn) {
    let kind = Kind::new(Outcome::FaultedIn, Direction::Unknown);
    see(vcpu, gfn.gpa(), kind, 0);
}

/// Sees an access other than by the fast path, whose value is not known.
#[inline(always)]
fn see(vcpu: &mut Vcpu<'_>, gpa: Gpa, kind: Kind, size: u8) {
    if heat_is_on() {
        record(vcpu, gpa, kind, size, 0);
    }
    if access_is_traced() {
        trace(vcpu, gpa, kind, size);
    }
}

#[cold]
#[inline(never)]
fn record(vcpu: &mut Vcpu<'_>, gpa: Gpa, kind: Kind, size: u8, value: u64) {
    let now = tsc();
    vcpu.record_heat(&Access {
        gpa,
        kind,
        size,
        value,
        cycles: vcpu.cycles_since_exit(now),
        now,
    });
}

#[cold]
#[inline(never)]
fn trace(vcpu: &Vcpu<'_>, gpa: Gpa, kind: Kind, size: u8) {
    vcpu.id()
        .trace_access(gpa, size, kind.direction(), kind.outcome());
}

/// Sees a fault that was no access: there was a stale MMIO SPTE, or none any more.
#[inline(always)]
pub(crate) fn miss(vcpu: &Vcpu<'_>, addr: FaultAddress, stale: bool) {
    if miss_is_traced() {
        vcpu.id().trace_miss(addr, stale);
    }
}
