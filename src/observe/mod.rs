// SPDX-License-Identifier: GPL-2.0

//! Seeing each access where it ends: counters by size, heat, tracepoints.

pub(crate) mod record;

use crate::{
    access::{FaultAddress, MmioFault},
    addr::Gpa,
    iodev::Write,
    kvm::{access_is_traced, heat_is_on, miss_is_traced, tsc, Exit},
    observe::record::{record_emulated, record_heat, record_heat_quickly},
    pure::{
        access_kind::Kind,
        stats_format::{Direction, Outcome}, //
    },
    report::stats::{Event, Taker},
    state::Vcpu, //
};

/// Sees an access of the fast path, done in the kernel or left to userspace. The value of a read
/// is known in the first case only. If all of the access was `known`, no hit was counted yet.
#[inline(always)]
pub(crate) fn fast(
    vcpu: &mut Vcpu<'_>,
    gpa: Gpa,
    (write, size): (bool, u8),
    value: u64,
    taker: Taker,
    known: bool,
) {
    vcpu.stats().count_fast(known, taker, write, size);
    let kind = Kind::fast(write, matches!(taker, Taker::Userspace));
    see(vcpu, gpa, kind, size, value);
}

/// A doorbell that is answered before interrupts are on again, and is to be seen.
pub(crate) struct Rung {
    /// The TSC when KVM has asked, if heat is on: KVM reads none between the exit and then.
    since: Option<u64>,
}

impl Rung {
    /// `None` if it would take more than may be done there.
    #[inline(always)]
    pub(crate) fn new(vcpu: &Vcpu<'_>, gpa: Gpa) -> Option<Self> {
        if !heat_is_on() {
            return Some(Self { since: None });
        }
        // The ordinary path makes a record.
        record::look(vcpu, gpa.gfn())?;
        Some(Self { since: Some(tsc()) })
    }

    /// Sees it, once the write is done.
    #[inline(always)]
    pub(crate) fn see(self, vcpu: &Vcpu<'_>, write: &Write) {
        if let Some(since) = self.since {
            let kind = Kind::fast(true, false);
            record_heat_quickly(vcpu, write.gpa, kind, write.size, write.value, since);
        }
        if access_is_traced() {
            trace(
                vcpu,
                write.gpa,
                Direction::Write,
                write.size,
                Outcome::FastIrqsoff,
            );
        }
    }
}

/// Sees an access that has signalled a zero-length ioeventfd.
#[inline(always)]
pub(crate) fn wildcard(vcpu: &mut Vcpu<'_>, gpa: Gpa) {
    see(vcpu, gpa, Kind::WILDCARD, 0, 0);
}

#[inline(always)]
fn see(vcpu: &mut Vcpu<'_>, gpa: Gpa, kind: Kind, size: u8, value: u64) {
    if heat_is_on() && !record_heat_quickly(vcpu, gpa, kind, size, value, vcpu.exit_tsc()) {
        record_heat(vcpu, gpa, kind, size, value);
    }
    if access_is_traced() {
        trace(vcpu, gpa, kind.direction(), size, kind.outcome());
    }
}

/// Whether somebody looks at what the emulator does.
#[inline(always)]
fn sees_emulated() -> bool {
    heat_is_on() || access_is_traced()
}

/// Counts a fault that goes to the emulator, if nobody looks there.
#[inline(always)]
pub(crate) fn to_emulator(vcpu: &Vcpu<'_>) {
    if !sees_emulated() {
        vcpu.stats().count_unseen();
    }
}

/// Counts a fault that KVM's own handler goes on with, of a page that an info cache knows.
#[inline(always)]
pub(crate) fn hit_left_to_kvm(vcpu: &Vcpu<'_>) {
    vcpu.stats().count_hit_left_to_kvm(sees_emulated());
}

/// Lets the emulator do an access that is to be counted as a hit already.
#[inline(always)]
pub(crate) fn emulate(vcpu: &mut Vcpu<'_>, fault: &MmioFault<'_>) -> Exit {
    to_emulator(vcpu);
    vcpu.emulate_instruction(fault)
}

/// Lets the emulator do an access that the fast path has refused at once.
#[inline(always)]
pub(crate) fn emulate_refused(vcpu: &mut Vcpu<'_>, fault: &MmioFault<'_>, reason: Event) -> Exit {
    vcpu.stats().count_refused(reason, sees_emulated());
    vcpu.emulate_instruction(fault)
}

/// Sees an access of the emulator that is done, or leaves for userspace.
#[inline]
pub(crate) fn emulated(vcpu: &mut Vcpu<'_>, gpa: Gpa, kind: Kind, size: u32) {
    if heat_is_on() {
        record_emulated(vcpu, gpa.gfn(), kind, size);
    } else {
        vcpu.stats().count_emulated(kind, size);
    }
    if access_is_traced() {
        trace(vcpu, gpa, kind.direction(), size as u8, kind.outcome());
    }
}

#[cold]
#[inline(never)]
fn trace(vcpu: &Vcpu<'_>, gpa: Gpa, direction: Direction, size: u8, outcome: Outcome) {
    let (direction, outcome) = (direction as u8, outcome as u8);
    vcpu.id().trace_access(gpa, size, direction, outcome);
}

/// Sees a fault that was no access: there was a stale MMIO SPTE, or none any more.
#[inline(always)]
pub(crate) fn miss(vcpu: &Vcpu<'_>, addr: FaultAddress, stale: bool) {
    if miss_is_traced() {
        let is_virtual = matches!(addr, FaultAddress::Virtual(_));
        vcpu.id().trace_miss(addr.raw(), is_virtual, stale);
    }
}
