// SPDX-License-Identifier: GPL-2.0
//! The guest, and what is known of it by the threads that use and change it.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::bell::{Bell, KINDS};
use super::slot::Slot;
use super::tally::Tally;
use crate::guest::layout::SCRATCH;
use crate::guest::paging::SUPERVISOR;
use crate::guest::{Machine, PageTables};

/// Slots that change, each between two pages of its own.
pub const SLOTS: usize = 2;
/// The first page of the doorbells, one page for each. Before it are those of the slots.
pub const BELL_PAGE: u64 = 2 * SLOTS as u64;
/// A page that always is a hole.
pub const HOLE_PAGE: u64 = BELL_PAGE + KINDS.len() as u64;

/// What the page of [`HOLE_PAGE`] holds where the second page tables map it.
pub const ALIAS: u32 = 0x00c0_ffee;

/// Page tables in which the page that is a hole is RAM.
fn second_tables(machine: &Machine) -> Option<PageTables> {
    machine.ram().write_u64(SCRATCH, ALIAS.into());
    machine.mode().is_paged().then(|| {
        let tables = machine.new_tables();
        tables.map(machine.gva(HOLE_PAGE), SCRATCH, SUPERVISOR);
        tables
    })
}

/// What all threads share.
pub struct World {
    pub machine: Machine,
    pub slots: [Slot; SLOTS],
    pub bells: Vec<Bell>,
    /// Other page tables, in which the page of [`HOLE_PAGE`] is RAM; None without paging.
    pub second: Option<PageTables>,
    pub tally: Tally,
    /// How many visits each vCPU has made.
    visits: Vec<AtomicU64>,
    /// Actors that have not done their share yet.
    busy: AtomicUsize,
    failed: AtomicBool,
}

impl World {
    pub fn new(machine: Machine, vcpus: u64, actors: usize) -> Result<Self> {
        let second = second_tables(&machine);
        let bells = (BELL_PAGE..).zip(KINDS);
        Ok(Self {
            machine,
            slots: [Slot::new(0)?, Slot::new(1)?],
            bells: bells.map(|(page, kind)| Bell::new(page, *kind)).collect(),
            second,
            tally: Tally::default(),
            visits: (0..vcpus).map(|_| AtomicU64::new(0)).collect(),
            busy: AtomicUsize::new(actors),
            failed: AtomicBool::new(false),
        })
    }

    /// Ends it all: what someone has seen must not be.
    pub fn fail(&self) {
        self.failed.store(true, Ordering::SeqCst);
    }

    /// Whether everyone has done enough, or someone has failed.
    pub fn is_over(&self) -> bool {
        self.busy.load(Ordering::SeqCst) == 0 || self.failed.load(Ordering::SeqCst)
    }

    /// The rounds of an actor: its share, and then more until every actor has done its own.
    pub fn rounds(&self, share: u64) -> impl Iterator<Item = u64> + '_ {
        (0..).take_while(move |round| {
            if *round == share {
                self.busy.fetch_sub(1, Ordering::SeqCst);
            }
            !self.is_over()
        })
    }

    pub fn visited(&self, vcpu: u64) {
        self.visits[vcpu as usize].fetch_add(1, Ordering::SeqCst);
    }

    /// Waits until the vCPUs together have ended `n` more visits.
    pub fn wait_for_visits(&self, n: u64) {
        let sum = || {
            self.visits
                .iter()
                .map(|n| n.load(Ordering::SeqCst))
                .sum::<u64>()
        };
        let goal = sum() + n;
        self.wait_until(|| sum() >= goal);
    }

    /// Waits until each vCPU has ended every visit that it is in now.
    pub fn wait_for_each_vcpu(&self) {
        let visits = || self.visits.iter().map(|n| n.load(Ordering::SeqCst));
        let before: Vec<u64> = visits().collect();
        self.wait_until(|| visits().zip(&before).all(|(now, before)| now > *before));
    }

    fn wait_until(&self, reached: impl Fn() -> bool) {
        while !reached() && !self.is_over() {
            thread::sleep(Duration::from_micros(50));
        }
    }
}
