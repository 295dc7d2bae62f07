// SPDX-License-Identifier: GPL-2.0

//! Seeing each access where it ends: counters by size, heat, tracepoints.

use crate::{
    addr::{Gfn, Gpa},
    exit::MmioFault,
    fault::FaultAddress,
    heat::{Access, Direction, Kind, Outcome},
    kvm::{access_is_traced, heat_is_on, miss_is_traced, tsc, Exit, Vcpu},
    stats::{Event, Taker}, //
};

/// What the emulator did, if nobody looks.
const UNSEEN: Kind = Kind::new(Outcome::EmulatedKernel, Direction::Unknown);

/// Sees an access of the fast path, done in the kernel or left to userspace. The value of a read
/// is known in the first case only. If all of the access was `known`, no hit was counted yet.
#[inline(always)]
pub(crate) fn fast(
    vcpu: &mut Vcpu<'_>,
    gpa: Gpa,
    (direction, size): (Direction, u8),
    value: u64,
    taker: Taker,
    known: bool,
) {
    let write = direction == Direction::Write;
    vcpu.stats().count_fast(known, taker, write, size);
    let kind = Kind::fast(direction, matches!(taker, Taker::Userspace));
    see_value(vcpu, gpa, kind, size, value);
}

/// Whether somebody wants to know what the emulator does.
#[inline(always)]
fn sees_emulated() -> bool {
    heat_is_on() || access_is_traced()
}

/// Lets the emulator do an access that is to be counted as a hit already. What it did is found out
/// only if somebody looks, and if the page is known.
#[inline(always)]
pub(crate) fn emulate(vcpu: &mut Vcpu<'_>, fault: &MmioFault) -> Exit {
    if sees_emulated() {
        match gpa(vcpu, fault.addr) {
            Some(gpa) => return emulate_and_see(vcpu, fault, gpa),
            None if heat_is_on() => vcpu.stats().count_heat_dropped(),
            None => {}
        }
    }
    vcpu.stats().count_emulated(UNSEEN, 0);
    vcpu.emulate_instruction(fault)
}

/// Where a fault was. `None` if the memslots are just being changed.
fn gpa(vcpu: &Vcpu<'_>, addr: FaultAddress) -> Option<Gpa> {
    match addr {
        FaultAddress::Physical(gpa) => Some(gpa),
        FaultAddress::Virtual(gva) => {
            let info = vcpu.last_mmio_info();
            addr.matches(&info, vcpu.memslots_generation())
                .then_some(info.gfn.gpa_of(gva))
        }
    }
}

/// Lets the emulator do an access that the fast path has refused at once. The emulator knows the
/// page.
#[inline(always)]
pub(crate) fn emulate_refused(
    vcpu: &mut Vcpu<'_>,
    fault: &MmioFault,
    reason: Option<Event>,
) -> Exit {
    let seen = sees_emulated();
    vcpu.stats().count_refused(reason, seen);
    if !seen {
        return vcpu.emulate_instruction(fault);
    }

    let gpa = match fault.addr {
        FaultAddress::Physical(gpa) => gpa,
        FaultAddress::Virtual(gva) => vcpu.last_mmio_info().gfn.gpa_of(gva),
    };
    emulate_and_see(vcpu, fault, gpa)
}

/// Lets the emulator do an access, and sees it.
#[inline(never)]
fn emulate_and_see(vcpu: &mut Vcpu<'_>, fault: &MmioFault, gpa: Gpa) -> Exit {
    let (exit, kind, size) = vcpu.emulate_and_classify(fault);
    vcpu.stats().count_emulated(kind, size);
    see(vcpu, gpa, kind, size);
    exit
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
    see_value(vcpu, gpa, kind, size, 0);
}

#[inline(always)]
fn see_value(vcpu: &mut Vcpu<'_>, gpa: Gpa, kind: Kind, size: u8, value: u64) {
    if heat_is_on() && !vcpu.record_heat_quickly(gpa, kind, size, value) {
        record(vcpu, gpa, kind, size, value);
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
