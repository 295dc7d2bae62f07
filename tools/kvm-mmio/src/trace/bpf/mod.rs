// SPDX-License-Identifier: GPL-2.0
//! Tracepoints counted in the kernel, by the programs of bpf/count.bpf.c.

mod layout;
mod problem;
mod programs;
mod tally;
#[expect(unsafe_code)]
mod words;

use anyhow::Result;

use super::clock::{clock, now};
use crate::device::System;
use crate::failure::Failure;
use crate::reading::Reading;
use programs::Programs;
use tally::{Place, Time, Totals};
use words::Words;

/// Counts as long as it lives. The kernel ends it with this process.
pub struct Counter {
    programs: Programs,
    places: Words,
    times: Words,
    totals: Words,
}

impl Counter {
    pub fn start(system: &System, times: bool) -> Result<Self, Failure> {
        Self::attach(system, times).map_err(|error| problem::explain(&error))
    }

    fn attach(system: &System, times: bool) -> Result<Self> {
        let mut programs = Programs::load(system, times)?;
        let [places, times, totals] =
            ["places", "times", "totals"].map(|name| programs.words(name));
        programs.attach()?;
        Ok(Self {
            programs,
            places: places?,
            times: times?,
            totals: totals?,
        })
    }

    /// All that has happened since the start.
    pub fn read(&self) -> Reading {
        let now = now();
        let totals = records(&self.totals, 1).map(Totals::new).next();
        let totals = totals.unwrap_or_default();
        let times: Vec<_> = records(&self.times, totals.times).map(Time::new).collect();
        let places: Vec<_> = records(&self.places, totals.places)
            .map(Place::new)
            .collect();
        Reading {
            clock: clock(now, totals.lost.saturating_add(self.programs.missed())),
            counters: Vec::new(),
            vms: tally::vms(&places, &times),
        }
    }
}

/// The first so many records of some words each.
fn records<const WORDS: usize>(words: &Words, count: usize) -> impl Iterator<Item = [u64; WORDS]> {
    let mut words = words.first(count.saturating_mul(WORDS));
    std::iter::from_fn(move || {
        let mut record = [0; WORDS];
        for word in &mut record {
            *word = words.next()?;
        }
        Some(record)
    })
}

/// Why the kernel does not count, if so.
pub fn explain_absence(system: &System) -> Option<Failure> {
    Some(problem::explain(&Programs::load(system, false).err()?))
}
