// SPDX-License-Identifier: GPL-2.0
//! Tracepoints counted in the kernel, by the programs of bpf/count.bpf.c.

mod kept;
mod layout;
mod problem;
mod programs;
mod room;
mod tally;
#[expect(unsafe_code)]
mod words;

use std::cell::RefCell;
use std::collections::BTreeSet;

use anyhow::Result;

use super::clock::{clock, now};
use crate::device::System;
use crate::failure::Failure;
use crate::reading::Reading;
use kept::Kept;
use programs::Programs;
use room::Room;
use tally::{Place, Tally, Time, Totals};
use words::Words;

/// Counts as long as it lives. The kernel ends it with this process.
pub struct Counter {
    programs: Programs,
    places: Words,
    times: Words,
    totals: Words,
    /// What becomes of VMs that have ended.
    past: RefCell<Past>,
}

struct Past {
    room: Room,
    kept: Kept,
}

impl Counter {
    pub fn start(system: &System, times: bool) -> Result<Self, Failure> {
        Self::attach(system, times).map_err(|error| problem::explain(system, &error))
    }

    fn attach(system: &System, times: bool) -> Result<Self> {
        let mut programs = Programs::load(system, times)?;
        let [places, times, totals] =
            ["places", "times", "totals"].map(|name| programs.words(name));
        let past = Past {
            room: Room::new(&mut programs)?,
            kept: Kept::default(),
        };
        programs.attach()?;
        Ok(Self {
            programs,
            places: places?,
            times: times?,
            totals: totals?,
            past: RefCell::new(past),
        })
    }

    /// All that has happened since the start. Of VMs that have ended it is here from now on, and
    /// not in the kernel any more, where the next ones have room then.
    pub fn read(&self) -> Reading {
        let now = now();
        let Past { room, kept } = &mut *self.past.borrow_mut();
        let (mut totals, mut tally) = self.tally();
        let ended: BTreeSet<u32> = room.ended(tally.processes());
        if !ended.is_empty() {
            // They count nothing any more, so this is all of theirs.
            (totals, tally) = self.tally();
            let words = [&self.places, &self.times, &self.totals];
            if room.free(&tally, &ended, totals.given, words).is_ok() {
                kept.add(tally.vms(|process| ended.contains(&process)));
                return self.reading(now, totals, kept, &tally, |it| !ended.contains(&it));
            }
        }
        self.reading(now, totals, kept, &tally, |_| true)
    }

    fn tally(&self) -> (Totals, Tally) {
        let totals = self.totals.records(1).map(Totals::new).next();
        let totals = totals.unwrap_or_default();
        let times = self.times.records(totals.times).map(Time::new).collect();
        let places = self.places.records(totals.places).map(Place::new);
        let places = places.collect();
        (totals, Tally { places, times })
    }

    /// What is kept of VMs that have ended, and what the kernel has of others.
    fn reading(
        &self,
        now: u64,
        totals: Totals,
        kept: &Kept,
        tally: &Tally,
        others: impl Fn(u32) -> bool,
    ) -> Reading {
        Reading {
            clock: clock(now, totals.lost.saturating_add(self.programs.missed())),
            counters: Vec::new(),
            vms: kept.with(tally.vms(others)),
        }
    }
}

/// Why the kernel does not count, if so: what a start has shown, which has ended since.
pub fn explain_absence(system: &System) -> Option<Failure> {
    Counter::start(system, false).err()
}
