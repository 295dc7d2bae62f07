// SPDX-License-Identifier: GPL-2.0
//! The guest, and the threads that use and change it.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Limits;
use super::bells::{self, Bell};
use super::slots::{self, Slot};
use super::switches::{self, Switch};
use super::visit::{self, Visitor};
use crate::guest::{Machine, Mode, PageTables, Zap};
use crate::stats::Mark;
use crate::tap::note;

/// Slots that change, each between two pages of its own.
pub const SLOTS: usize = 2;
/// The first page of the doorbells, one page for each. Before it are those of the slots.
pub const BELL_PAGE: u64 = 2 * SLOTS as u64;
/// A page that always is a hole.
pub const HOLE_PAGE: u64 = BELL_PAGE + bells::KINDS.len() as u64;

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
    fn new(machine: Machine, vcpus: u64, actors: usize) -> Result<Self> {
        let second = visit::second_tables(&machine);
        let bells = (BELL_PAGE..).zip(bells::KINDS);
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

    /// Runs a thread's job; if it fails, the others need not go on.
    fn watch(&self, job: Job<'_>) -> Result<()> {
        job().inspect_err(|_| self.failed.store(true, Ordering::SeqCst))
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

/// Declares what is counted, with the words under which it is shown.
macro_rules! tally {
    ($($counter:ident = $name:literal,)*) => {
        /// What was done, counted by all threads.
        #[derive(Default)]
        pub struct Tally {
            $(pub $counter: AtomicU64,)*
        }

        impl fmt::Display for Tally {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let counts = [$(($name, &self.$counter)),*];
                counts.iter().try_for_each(|(name, counter)| {
                    write!(f, "\n{:>10} {name}", counter.load(Ordering::Relaxed))
                })
            }
        }
    };
}

tally! {
    accesses = "accesses",
    switches = "turns of the switch",
    fast_switches = "turns of the fast path's switch",
    zaps = "zaps of all page tables",
    slot_changes = "changes of memslots",
    dirty_logs = "dirty logs with a write to find",
    bell_changes = "ioeventfds added or removed",
    reloads = "reloads of CPUID and registers",
    saw_ram = "visits to RAM while nothing changed",
    saw_read_only = "visits to read-only RAM while nothing changed",
    saw_hole = "visits to a hole while nothing changed",
    saw_bell = "visits to a doorbell while nothing changed",
    saw_no_bell = "visits to a removed doorbell while nothing changed",
    saw_change = "visits while something changed",
    longest_run = "ms until an event, at most",
}

/// Adds to one of the counts.
pub fn count(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// Runs all threads until each actor has done its share, and checks the sums.
pub fn torture(mode: Mode, zap: Zap, limits: Limits) -> Result<()> {
    let mut machine = Machine::new(mode)?;
    machine.zap(zap)?;
    let visitors = (0..limits.vcpus)
        .map(|id| Ok(Visitor::new(id, machine.add_vcpu()?, limits.seed)))
        .collect::<Result<Vec<_>>>()?;
    let switches = switches::all(limits)?;
    let turned: Vec<_> = switches.iter().map(Switch::counter).collect();
    let actors = SLOTS + bells::KINDS.len() + switches.len();
    let world = World::new(machine, limits.vcpus, actors)?;

    let start = Mark::here(&[])?;
    let begun = Instant::now();
    let outcome = run_threads(&world, visitors, switches, limits);
    note(format!(
        "{mode}, {} s:{}",
        begun.elapsed().as_secs(),
        world.tally
    ));
    outcome?;
    for bell in &world.bells {
        bell.check_sum()?;
    }
    world.check_that_all_was_seen(&turned)?;
    start.delta(&[])?.expect_balance().map(|_| ())
}

type Job<'a> = Box<dyn FnOnce() -> Result<()> + Send + 'a>;

fn run_threads(
    world: &World,
    visitors: Vec<Visitor>,
    switches: Vec<Switch>,
    limits: Limits,
) -> Result<()> {
    let mut jobs: Vec<(String, Job<'_>)> = Vec::new();
    for visitor in visitors {
        let name = format!("vCPU {}", visitor.id());
        jobs.push((name, Box::new(|| visitor.run(world))));
    }
    for id in 0..SLOTS {
        let churn = move || slots::churn(world, id, limits);
        jobs.push((format!("slot {id}"), Box::new(churn)));
    }
    for id in 0..world.bells.len() {
        let churn = move || bells::churn(world, id, limits);
        jobs.push((format!("doorbell {id}"), Box::new(churn)));
    }
    for switch in switches {
        jobs.push((switch.name().to_owned(), Box::new(|| switch.turn(world))));
    }
    thread::scope(|scope| {
        let threads: Vec<_> = jobs
            .into_iter()
            .map(|(name, job)| scope.spawn(|| world.watch(job).context(name)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a thread panicked"))
            .fold(Ok(()), Result::and)
    })
}

impl World {
    /// A run in which some outcome never came up, or some switch stood still, would prove less
    /// than it says.
    fn check_that_all_was_seen(&self, turned: &[fn(&Tally) -> &AtomicU64]) -> Result<()> {
        let tally = &self.tally;
        let seen = [
            &tally.saw_ram,
            &tally.saw_read_only,
            &tally.saw_hole,
            &tally.saw_bell,
            &tally.saw_no_bell,
            &tally.saw_change,
            &tally.dirty_logs,
            &tally.reloads,
            &tally.slot_changes,
            &tally.bell_changes,
        ];
        let turned = turned.iter().map(|counter| counter(tally));
        for counter in seen.into_iter().chain(turned) {
            ensure!(
                counter.load(Ordering::Relaxed) > 0,
                "something was never seen: do more rounds; {tally}"
            );
        }
        Ok(())
    }
}
