// SPDX-License-Identifier: GPL-2.0

//! Recording heat: what a vCPU does to which page, or with which instruction, and the time that its
//! accesses take.

use crate::{
    addr::{Gfn, Gpa},
    kvm::{instructions_are_told, tsc, LastExit},
    pure::{
        access_kind::Kind,
        heat::{Access, Record, Site}, //
    },
    report::{
        recorder,
        registry, //
    },
    state::{State, Vcpu}, //
};

/// Records an access of the fast path which has taken the time `since` then, if the record of its
/// page is found at once. Returns whether it is done.
#[inline(always)]
pub(crate) fn record_heat_quickly(
    vcpu: &Vcpu<'_>,
    gpa: Gpa,
    kind: Kind,
    size: u8,
    value: u64,
    since: u64,
) -> bool {
    let record = look(vcpu, gpa.gfn());
    record
        .inspect(|record| add_fast(record, since, (kind, size), value))
        .is_some()
}

/// The same, however long it takes. An access that there is no room for is counted as dropped.
#[cold]
#[inline(never)]
pub(crate) fn record_heat(vcpu: &mut Vcpu<'_>, gpa: Gpa, kind: Kind, size: u8, value: u64) {
    let exit = vcpu.exit_tsc();
    let site = site(vcpu, gpa.gfn());
    let state = vcpu.state_mut();
    make_records(state);
    let done = state
        .recorder
        .find_or_take(site, |record| add_fast(record, exit, (kind, size), value));
    if done.is_none() {
        state.stats.count_heat_dropped();
    }
}

/// Counts and records an access of the emulator, if its record is found at once. Returns whether it
/// is done.
#[inline(always)]
pub(crate) fn record_emulated_quickly(
    vcpu: &mut Vcpu<'_>,
    gfn: Gfn,
    kind: Kind,
    size: u32,
) -> bool {
    if instructions_are_told() {
        return false;
    }
    let exit = vcpu.last_exit();
    let State {
        stats, recorder, ..
    } = vcpu.state_mut();

    let before = recorder.done;
    let Some(record) = recorder.look(gfn) else {
        return false;
    };
    recorder.done = add_emulated(record, &exit, before, (kind, size as u8));
    stats.count_emulated(kind, size);
    true
}

/// The same, however long it takes, as [`record_heat`] does.
#[inline]
pub(crate) fn record_emulated(vcpu: &mut Vcpu<'_>, gfn: Gfn, kind: Kind, size: u32) {
    let site = site(vcpu, gfn);
    let exit = vcpu.last_exit();
    let state = vcpu.state_mut();
    make_records(state);
    let State {
        stats, recorder, ..
    } = state;

    let before = recorder.done;
    let done = recorder.find_or_take(site, |record| {
        add_emulated(record, &exit, before, (kind, size as u8))
    });
    recorder.done = match done {
        Some(done) => done,
        None => {
            stats.count_heat_dropped();
            tsc()
        }
    };
    stats.count_emulated(kind, size);
}

/// Records an access of the fast path or one that was skipped: the only one since a VM exit.
#[inline(always)]
fn add_fast(record: &Record, since: u64, (kind, size): (Kind, u8), value: u64) {
    let now = tsc();
    record.add(&Access { kind, size, now });
    // Where processors' counters differ, a vCPU may have been moved to one that lags.
    record.add_cycles(now.saturating_sub(since));
    record.set_last_value(value);
}

/// Records an access of the emulator. Returns the TSC when it is done, as it was `before`.
///
/// It takes the time since the VM exit, or since the access before it: an instruction that reads
/// and then writes has two, one that is repeated has many. How long it takes is not known if
/// userspace was asked in between.
#[inline(always)]
fn add_emulated(
    record: &Record,
    exit: &LastExit<'_>,
    before: u64,
    (kind, size): (Kind, u8),
) -> u64 {
    let now = tsc();
    if before < exit.tsc() {
        record.add_cycles(now.saturating_sub(exit.tsc()));
    } else if !exit.userspace_was_asked() {
        // The TSC begins anew when the host wakes up.
        record.add_cycles(now.saturating_sub(before));
    }
    record.add(&Access { kind, size, now });
    now
}

/// The record of what is accessed, if it is found at once, or told by instruction.
#[inline(always)]
pub(super) fn look<'a>(vcpu: &'a Vcpu<'_>, gfn: Gfn) -> Option<&'a Record> {
    if instructions_are_told() {
        return find(vcpu, gfn);
    }
    vcpu.state().recorder.look(gfn)
}

#[cold]
#[inline(never)]
fn find<'a>(vcpu: &'a Vcpu<'_>, gfn: Gfn) -> Option<&'a Record> {
    vcpu.state().recorder.find(site(vcpu, gfn))
}

/// What is accessed. RIP is that of the instruction until the access is done.
fn site(vcpu: &Vcpu<'_>, gfn: Gfn) -> Site {
    Site {
        gfn,
        rip: instructions_are_told().then(|| vcpu.rip()),
    }
}

/// Makes records if there are none. Whoever finds none then counts an access as dropped.
fn make_records(state: &mut State) {
    if !state.recorder.has_records() {
        if let Ok(heat) = recorder::make_records() {
            registry::add_heat(&state.stats, heat.clone());
            state.recorder.fill(heat);
        }
    }
}
