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
use core::mem;
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

    fn make_records() -> Result<Arc<VcpuHeat>> {
        let records = VBox::init(init_array_from_fn(|_| Record::unused()), GFP_KERNEL_ACCOUNT)?;
        Ok(Arc::new(Heat::new(records), GFP_KERNEL_ACCOUNT)?)
    }

    fn fill(&mut self, heat: Arc<VcpuHeat>) {
        let records: *const VcpuHeat = &*heat;
        // SAFETY: They live as long as `heat`, which this value holds as long as the recorder; and
        // what the recorder gives away is borrowed from this value.
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
        let Some(record) = self.state().recorder.recorder.look(gpa.gfn()) else {
            return false;
        };
        self.record_in(record, kind, size, value);
        true
    }

    /// The same, however long it takes. An access that there is no room for is counted as dropped.
    pub(crate) fn record_heat(&mut self, gpa: Gpa, kind: Kind, size: u8, value: u64) {
        if let Some(record) = self.state_mut().find_or_take_record(gpa.gfn()) {
            self.record_in(record, kind, size, value);
        }
    }

    #[inline(always)]
    fn record_in(&self, record: &Record, kind: Kind, size: u8, value: u64) {
        let now = observe::tsc();
        record.add(&Access { kind, size, now });
        record.add_cycles(now.wrapping_sub(self.exit_tsc()));
        record.set_last_value(value);
    }

    /// Counts and records an access of the emulator, if its record is found at once. Returns
    /// whether it is done.
    #[inline(always)]
    pub(super) fn record_emulated_quickly(&mut self, gfn: Gfn, kind: Kind, size: u32) -> bool {
        let exit = self.last_exit();
        let state = self.state_mut();
        match state.recorder.recorder.look(gfn) {
            Some(record) => {
                state.record_emulated(exit, record, kind, size);
                true
            }
            None => false,
        }
    }

    /// The same, however long it takes, as [`Vcpu::record_heat`] does.
    pub(crate) fn record_emulated(&mut self, gfn: Gfn, kind: Kind, size: u32) {
        let exit = self.last_exit();
        let state = self.state_mut();
        match state.find_or_take_record(gfn) {
            Some(record) => state.record_emulated(exit, record, kind, size),
            None => state.stats.count_emulated(kind, size),
        }
    }

    /// The TSC when the vCPU exited.
    #[inline(always)]
    fn exit_tsc(&self) -> u64 {
        // SAFETY: The vCPU is alive and in its own thread.
        unsafe { (*self.arch()).exit_tsc }
    }

    #[inline(always)]
    fn last_exit(&self) -> LastExit {
        // INVARIANT: The vCPU is alive.
        LastExit {
            tsc: self.exit_tsc(),
            // SAFETY: The same.
            run: unsafe { (*self.raw()).run },
        }
    }
}

/// The last VM exit of the vCPU that is being handled.
///
/// # Invariants
///
/// `run` points to what the vCPU, which is alive, shares with userspace.
struct LastExit {
    tsc: u64,
    run: *const bindings::kvm_run,
}

impl LastExit {
    /// Whether the vCPU has been in userspace since.
    #[inline(always)]
    fn userspace_was_asked(&self) -> bool {
        // SAFETY: By the type's invariants. Userspace may change it at any time.
        let reason = unsafe { (&raw const (*self.run).exit_reason).read_volatile() };
        // What `vcpu_run()` begins with.
        reason != bindings::KVM_EXIT_UNKNOWN
    }
}

impl State {
    /// Counts and records an access of the emulator.
    ///
    /// It takes the time since the VM exit, or since the access before it: an instruction that
    /// reads and then writes has two, one that is repeated has many. How long it takes is not
    /// known if userspace was asked in between.
    #[inline(always)]
    fn record_emulated(&mut self, exit: LastExit, record: &Record, kind: Kind, size: u32) {
        let now = observe::tsc();
        let before = mem::replace(&mut self.recorder.done, now);
        if before < exit.tsc {
            record.add_cycles(now.wrapping_sub(exit.tsc));
        } else if !exit.userspace_was_asked() {
            record.add_cycles(now.wrapping_sub(before));
        }
        record.add(&Access {
            kind,
            size: size as u8,
            now,
        });
        self.stats.count_emulated(kind, size);
    }

    /// The record of a page, as long as the state; counts the access as dropped if there is none.
    fn find_or_take_record(&mut self, gfn: Gfn) -> Option<&'static Record> {
        let recorder = &mut self.recorder;

        if recorder.heat.is_none() {
            if let Ok(heat) = VcpuRecorder::make_records() {
                registry::add_heat(&self.stats, heat.clone());
                recorder.fill(heat);
            }
        }
        let record = recorder.recorder.find_or_take(gfn);
        if record.is_none() {
            self.stats.count_heat_dropped();
        }
        record
    }
}
