// SPDX-License-Identifier: GPL-2.0

//! Recording heat: the records of a vCPU, and the time that its accesses take.

use super::{
    observe,
    registry::{self, VcpuHeat, VcpuRecords},
    vcpu::{State, Vcpu}, //
};
use crate::{
    addr::{Gfn, Gpa},
    heat::{Access, Heat, Kind, Record, Recorder, FREE}, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};
use kvm_bindings as bindings;
use pin_init::init_array_from_fn;

/// What a vCPU has to record heat.
///
/// # Invariants
///
/// What `recorder` refers to is of `heat`, which is not replaced, or static.
pub(super) struct VcpuRecorder {
    recorder: Recorder<'static, VcpuRecords>,
    /// Made with the first access for which heat is on.
    heat: Option<Arc<VcpuHeat>>,
    /// The TSC when the emulator's last access was done.
    done: u64,
}

impl VcpuRecorder {
    /// Without any records.
    pub(super) fn init() -> impl Init<Self> {
        // INVARIANT: What the recorder refers to is static.
        init!(Self {
            recorder <- init!(Recorder {
                heat: None,
                places <- init_array_from_fn(|_| &FREE),
            }),
            heat: None,
            done: 0,
        })
    }

    /// The record of a page, if it is found at once.
    #[inline(always)]
    fn look(&self, gfn: Gfn) -> Option<&Record> {
        self.recorder.look(gfn)
    }

    /// The record of a page, if there is any left for it.
    fn find_or_take(&mut self, gfn: Gfn) -> Option<&Record> {
        self.recorder.find_or_take(gfn)
    }

    /// Without memory it is done without, which is nothing for the kernel to warn of.
    fn make_records() -> Result<Arc<VcpuHeat>> {
        let quietly = GFP_KERNEL_ACCOUNT | __GFP_NOWARN;
        let records = VBox::init(init_array_from_fn(|_| Record::unused()), quietly)?;
        Ok(Arc::new(Heat::new(records), GFP_KERNEL_ACCOUNT)?)
    }

    fn fill(&mut self, heat: Arc<VcpuHeat>) {
        let records: *const VcpuHeat = &*heat;
        // SAFETY: They live as long as `heat`, which this value holds as long as the recorder. It
        // only gives away what is borrowed from itself, see `look()` and `find_or_take()`.
        self.recorder.heat = Some(unsafe { &*records });
        // INVARIANT: It was `None` before, as there were no records.
        self.heat = Some(heat);
    }
}

impl Vcpu<'_> {
    /// Records the only access of a VM exit, if the record is found at once: without any call, the
    /// caller's registers stay where they are. Returns whether it is done.
    #[inline(always)]
    pub(crate) fn record_heat_quickly(&self, gpa: Gpa, kind: Kind, size: u8, value: u64) -> bool {
        let record = self.state().recorder.look(gpa.gfn());
        record
            .inspect(|record| record_fast(record, self.exit_tsc(), (kind, size), value))
            .is_some()
    }

    /// The same, however long it takes. An access that there is no room for is counted as dropped.
    #[cold]
    #[inline(never)]
    pub(crate) fn record_heat(&mut self, gpa: Gpa, kind: Kind, size: u8, value: u64) {
        let exit = self.exit_tsc();
        let state = self.state_mut();
        state.make_records();
        match state.recorder.find_or_take(gpa.gfn()) {
            Some(record) => record_fast(record, exit, (kind, size), value),
            None => state.stats.count_heat_dropped(),
        }
    }

    /// Counts and records an access of the emulator, if its record is found at once. Returns
    /// whether it is done.
    #[inline(always)]
    pub(super) fn record_emulated_quickly(&mut self, gfn: Gfn, kind: Kind, size: u32) -> bool {
        let exit = self.last_exit();
        let State {
            stats, recorder, ..
        } = self.state_mut();

        let before = recorder.done;
        let Some(record) = recorder.look(gfn) else {
            return false;
        };
        recorder.done = record_emulated(record, &exit, before, (kind, size as u8));
        stats.count_emulated(kind, size);
        true
    }

    /// The same, however long it takes, as [`Vcpu::record_heat`] does.
    pub(crate) fn record_emulated(&mut self, gfn: Gfn, kind: Kind, size: u32) {
        let exit = self.last_exit();
        let state = self.state_mut();
        state.make_records();
        let State {
            stats, recorder, ..
        } = state;

        let before = recorder.done;
        recorder.done = match recorder.find_or_take(gfn) {
            Some(record) => record_emulated(record, &exit, before, (kind, size as u8)),
            None => {
                stats.count_heat_dropped();
                observe::tsc()
            }
        };
        stats.count_emulated(kind, size);
    }

    /// The TSC when the vCPU exited.
    #[inline(always)]
    fn exit_tsc(&self) -> u64 {
        // SAFETY: The vCPU is alive and in its own thread.
        unsafe { (*self.arch()).exit_tsc }
    }

    #[inline(always)]
    fn last_exit(&self) -> LastExit {
        // INVARIANT: The vCPU is alive, and in its own thread.
        LastExit {
            tsc: self.exit_tsc(),
            vcpu: self.raw(),
        }
    }
}

/// The VM exit that is being handled.
///
/// # Invariants
///
/// `vcpu` points to the vCPU that has exited, which is alive and in its own thread.
struct LastExit {
    tsc: u64,
    vcpu: *mut bindings::kvm_vcpu,
}

impl LastExit {
    /// Whether userspace was asked since.
    #[inline(always)]
    fn userspace_was_asked(&self) -> bool {
        // SAFETY: By the type's invariants. Userspace may change the page at any time.
        let reason = unsafe { (&raw const (*(*self.vcpu).run).exit_reason).read_volatile() };
        // What `vcpu_run()` begins with.
        reason != bindings::KVM_EXIT_UNKNOWN
    }
}

/// Records an access of the fast path or one that was skipped: the only one since a VM exit at
/// `exit`.
#[inline(always)]
fn record_fast(record: &Record, exit: u64, (kind, size): (Kind, u8), value: u64) {
    let now = observe::tsc();
    record.add(&Access { kind, size, now });
    // Where processors' counters differ, a vCPU may have been moved to one that lags.
    record.add_cycles(now.saturating_sub(exit));
    record.set_last_value(value);
}

/// Records an access of the emulator. Returns the TSC when it is done, as it was `before`.
///
/// It takes the time since the VM exit, or since the access before it: an instruction that reads
/// and then writes has two, one that is repeated has many. How long it takes is not known if
/// userspace was asked in between.
#[inline(always)]
fn record_emulated(record: &Record, exit: &LastExit, before: u64, (kind, size): (Kind, u8)) -> u64 {
    let now = observe::tsc();
    if before < exit.tsc {
        record.add_cycles(now.saturating_sub(exit.tsc));
    } else if !exit.userspace_was_asked() {
        // The TSC begins anew when the host wakes up.
        record.add_cycles(now.saturating_sub(before));
    }
    record.add(&Access { kind, size, now });
    now
}

impl State {
    /// Makes records if there are none. Whoever finds none then counts an access as dropped.
    fn make_records(&mut self) {
        if self.recorder.heat.is_none() {
            if let Ok(heat) = VcpuRecorder::make_records() {
                registry::add_heat(&self.stats, heat.clone());
                self.recorder.fill(heat);
            }
        }
    }
}
