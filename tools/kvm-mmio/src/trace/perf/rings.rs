// SPDX-License-Identifier: GPL-2.0
//! The rings that the kernel writes events into: one for each tracepoint and processor.

use std::fs;
use std::io;

use perf_event_open::config::{All, Clock, Cpu, Opts, SampleOn};
use perf_event_open::count::Counter;
use perf_event_open::event::tp::Tracepoint;
use perf_event_open::sample::Sampler;
use perf_event_open::sample::record::Record;
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::device::System;
use crate::trace::event::{Format, Kind, Sample};

/// Pages of a ring, as a power of two: 1 MiB, some 9000 events.
const RING: u8 = 8;

struct Ring {
    format: Format,
    sampler: Sampler,
    /// Events are told as long as it is open.
    counter: Counter,
}

pub struct Rings {
    rings: Vec<Ring>,
    /// Read already, though later than what may be in another ring.
    waiting: Vec<Sample>,
}

impl Rings {
    pub fn open(system: &System, kinds: &[Kind]) -> io::Result<Self> {
        let cpus = online(system)?;
        allow_files();
        let mut rings = Vec::new();
        for kind in kinds {
            let format = Format::read(system, *kind)?;
            for cpu in &cpus {
                rings.push(Ring::open(*kind, format.clone(), *cpu)?);
            }
        }
        for ring in &rings {
            ring.counter.enable()?;
        }
        Ok(Self {
            rings,
            waiting: Vec::new(),
        })
    }

    /// Opens one ring, and closes it.
    pub fn try_one(system: &System, kind: Kind) -> io::Result<()> {
        let cpu = online(system)?.first().copied().unwrap_or_default();
        Ring::open(kind, Format::read(system, kind)?, cpu).map(drop)
    }

    /// Hands on all events up to a time, in their order. How many were lost.
    pub fn drain(&mut self, until: u64, mut each: impl FnMut(&Sample)) -> u64 {
        let mut lost = 0;
        for ring in &self.rings {
            // There is one iterator at a time, which ends with this.
            for (_, record) in ring.sampler.iter().into_iter().flatten() {
                match record {
                    Record::Sample(sample) => self.waiting.extend(ring.decode(&sample)),
                    Record::LostRecords(records) => lost += records.lost_records,
                    _ => {}
                }
            }
        }
        self.waiting.sort_by_key(|sample| sample.time);
        let ready = self.waiting.partition_point(|sample| sample.time <= until);
        self.waiting.drain(..ready).for_each(|sample| each(&sample));
        lost
    }
}

impl Ring {
    fn open(kind: Kind, format: Format, cpu: u32) -> io::Result<Self> {
        let mut opts = Opts {
            sample_on: SampleOn::Count(1),
            timer: Some(Clock::Monotonic),
            ..Opts::default()
        };
        opts.sample_format.raw = true;
        opts.record_id_format.task = true;
        opts.record_id_format.time = true;
        let event = Tracepoint { id: format.id };
        let counter = Counter::new(event, (All, Cpu(cpu)), &opts)?;
        if let Some(filter) = kind.filter() {
            counter.with_ftrace_filter(filter)?;
        }
        let sampler = counter.sampler(RING)?;
        Ok(Self {
            format,
            sampler,
            counter,
        })
    }

    fn decode(&self, sample: &perf_event_open::sample::record::sample::Sample) -> Option<Sample> {
        let task = sample.record_id.task.as_ref()?;
        Some(Sample {
            time: sample.record_id.time?,
            pid: task.pid,
            tid: task.tid,
            event: self.format.decode(sample.raw.as_ref()?)?,
        })
    }
}

fn online(system: &System) -> io::Result<Vec<u32>> {
    let path = system.path("/sys/devices/system/cpu/online");
    Ok(cpus(&fs::read_to_string(path)?))
}

/// `0-3,8` as numbers.
fn cpus(text: &str) -> Vec<u32> {
    let ranges = text.trim().split(',').filter_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    });
    ranges.flatten().collect()
}

/// With many processors, more files are open than processes may have by default.
fn allow_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // If there are too few, opening says so.
    let _ = setrlimit(Resource::Nofile, limit);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors() {
        assert_eq!(cpus("0\n"), [0]);
        assert_eq!(cpus("0-2,5,7-8\n"), [0, 1, 2, 5, 7, 8]);
        assert!(cpus("").is_empty());
    }
}
