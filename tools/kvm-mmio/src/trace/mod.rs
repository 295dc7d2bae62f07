// SPDX-License-Identifier: GPL-2.0
//! The tracepoints that every KVM has, as a source of counts where the extension is not: any
//! kernel since 6.1, without a patch or a module.

mod event;
mod follow;
mod rings;

use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};
use rustix::time::{ClockId, clock_gettime};

use crate::device::System;
use crate::failure::Failure;
use crate::reading::{Clock, ENABLED, HEAT, Reading, TRACED};
use event::{Format, Kind};
use follow::Follower;
use rings::Rings;

/// How often the rings are emptied.
const STEP: Duration = Duration::from_millis(20);

/// Counts what the tracepoints tell, as long as it lives. The kernel ends it with this process.
pub struct Trace {
    requests: Sender<Sender<Reading>>,
    system: System,
}

impl Trace {
    /// With the times that accesses take, if these are wanted: that costs an event for each entry
    /// of any vCPU.
    pub fn start(system: &System, times: bool) -> Result<Self> {
        let more: &[Kind] = if times { &[Kind::Entry] } else { &[] };
        let kinds = [&Kind::COUNTED, more].concat();
        let rings = Rings::open(system, &kinds).map_err(|error| explain(&error))?;
        let (requests, received) = mpsc::channel();
        thread::Builder::new()
            .name("trace".to_owned())
            .spawn(move || follow(rings, &received))?;
        Ok(Self {
            requests,
            system: system.clone(),
        })
    }

    /// All that has happened since the start.
    pub fn read(&self) -> Result<Reading> {
        let (answer, answered) = mpsc::channel();
        let gone = || anyhow!("the tracepoints are not followed any more");
        self.requests.send(answer).map_err(|_| gone())?;
        let mut reading = answered.recv().map_err(|_| gone())?;
        for vm in reading.vms.values_mut() {
            vm.ended = !self.system.path(&format!("/proc/{}", vm.tgid)).exists();
        }
        Ok(reading)
    }
}

/// Why the tracepoints cannot be read, if so.
pub fn explain_absence(system: &System) -> Option<Failure> {
    let mut formats = Kind::COUNTED.iter().map(|kind| Format::read(system, *kind));
    formats.find_map(|format| Some(explain(&format.err()?)))
}

fn explain(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::PermissionDenied => Failure::Denied(
            "you may not read KVM's tracepoints: run this as root, or with CAP_PERFMON and \
             tracefs readable"
                .to_owned(),
        ),
        io::ErrorKind::NotFound => Failure::Unavailable(
            "there are no tracepoints of KVM: load it with `modprobe kvm`, and mount tracefs at \
             /sys/kernel/tracing"
                .to_owned(),
        ),
        _ => Failure::Unavailable(format!("KVM's tracepoints cannot be read: {error}")),
    }
}

/// Empties the rings until nobody asks any more.
fn follow(mut rings: Rings, requests: &Receiver<Sender<Reading>>) {
    let mut follower = Follower::default();
    let mut lost = 0;
    loop {
        let request = match requests.recv_timeout(STEP) {
            Ok(request) => Some(request),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let now = nanoseconds(ClockId::Monotonic);
        lost += rings.drain(now, |sample| follower.see(sample));
        if let Some(request) = request {
            // Who has asked may have gone meanwhile.
            let _ = request.send(Reading {
                clock: clock(now, lost),
                counters: Vec::new(),
                vms: follower.vms.clone(),
            });
        }
    }
}

/// A clock whose cycles are nanoseconds.
fn clock(now: u64, lost: u64) -> Clock {
    Clock {
        boottime: nanoseconds(ClockId::Boottime),
        tsc: now,
        tsc_khz: 1_000_000,
        flags: HEAT | ENABLED | TRACED,
        pages_per_vcpu: follow::PAGES as u32,
        vms_kept: 0,
        lost,
    }
}

fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
