// SPDX-License-Identifier: GPL-2.0
//! The tracepoints that every KVM has, as a source of counts where the extension is not: any
//! kernel since 6.1, without a patch or a module.

mod bpf;
mod clock;
mod event;
mod perf;
mod rights;

use std::io;

use anyhow::Result;

use crate::device::System;
use crate::failure::Failure;
use crate::reading::Reading;
use event::{Format, Kind};
use rights::Refused;

/// Who counts what the tracepoints tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The kernel if it can and may, else this program.
    Best,
    /// The kernel, by programs of BPF.
    Bpf,
    /// This program, by rings of perf.
    Perf,
}

/// Counts what the tracepoints tell, as long as it lives.
pub struct Trace {
    counter: Counter,
    system: System,
}

enum Counter {
    Bpf(Box<bpf::Counter>),
    Perf(perf::Counter),
}

impl Trace {
    /// With the times that accesses take, if these are wanted: that costs an event for each entry
    /// of any vCPU.
    pub fn start(system: &System, way: Way, times: bool) -> Result<Self> {
        if let Some(why) = explain_absence(system) {
            return Err(why.into());
        }
        Ok(Self {
            counter: Counter::start(system, way, times)?,
            system: system.clone(),
        })
    }

    /// All that has happened since the start.
    pub fn read(&self) -> Result<Reading> {
        let mut reading = match &self.counter {
            Counter::Bpf(counter) => counter.read(),
            Counter::Perf(counter) => counter.read()?,
        };
        for vm in reading.vms.values_mut() {
            vm.ended = !self.system.path(&format!("/proc/{}", vm.tgid)).exists();
        }
        Ok(reading)
    }
}

impl Counter {
    fn start(system: &System, way: Way, times: bool) -> Result<Self, Failure> {
        let perf =
            || perf::Counter::start(system, times).map_err(|error| not_opened(system, &error));
        let bpf = || bpf::Counter::start(system, times).map(Box::new);
        match way {
            Way::Bpf => Ok(Self::Bpf(bpf()?)),
            Way::Perf => Ok(Self::Perf(perf()?)),
            Way::Best => bpf().map(Self::Bpf).or_else(|_| Ok(Self::Perf(perf()?))),
        }
    }
}

/// Why the tracepoints cannot be read, if so.
pub fn explain_absence(system: &System) -> Option<Failure> {
    let mut formats = Kind::COUNTED.iter().map(|kind| Format::read(system, *kind));
    formats.find_map(|format| Some(explain(system, &format.err()?)))
}

/// Why this program cannot follow their events, if so, as one that was opened has shown.
pub fn explain_no_perf(system: &System) -> Option<Failure> {
    let refused = || Some(not_opened(system, &perf::try_event(system).err()?));
    explain_absence(system).or_else(refused)
}

/// Why it is not the kernel that counts what they tell, if so, as programs that were attached have
/// shown.
pub fn explain_no_bpf(system: &System) -> Option<Failure> {
    bpf::explain_absence(system)
}

fn explain(system: &System, error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::PermissionDenied => rights::explain(system, Refused::Tracefs),
        io::ErrorKind::NotFound => Failure::Unavailable(
            "there are no tracepoints of KVM: load it with `modprobe kvm`, and mount tracefs at \
             /sys/kernel/tracing"
                .to_owned(),
        ),
        _ => Failure::Unavailable(format!("KVM's tracepoints cannot be read: {error}")),
    }
}

/// What is there to be read, but not to be followed.
fn not_opened(system: &System, error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::PermissionDenied => rights::explain(system, Refused::Perf),
        _ => Failure::Unavailable(format!(
            "events of KVM's tracepoints cannot be opened: {error}"
        )),
    }
}
