// SPDX-License-Identifier: GPL-2.0
//! What was done, to be told at the end.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, ensure};

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
    irqsoff_switches = "turns of the switch of what it does with interrupts off",
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

impl Tally {
    /// A run in which some outcome never came up, or some switch stood still, would prove less
    /// than it says.
    pub fn check_that_all_was_seen(&self, turned: &[fn(&Self) -> &AtomicU64]) -> Result<()> {
        let seen = [
            &self.saw_ram,
            &self.saw_read_only,
            &self.saw_hole,
            &self.saw_bell,
            &self.saw_no_bell,
            &self.saw_change,
            &self.dirty_logs,
            &self.reloads,
            &self.slot_changes,
            &self.bell_changes,
        ];
        let turned = turned.iter().map(|counter| counter(self));
        for counter in seen.into_iter().chain(turned) {
            ensure!(
                counter.load(Ordering::Relaxed) > 0,
                "something was never seen: do more rounds; {self}"
            );
        }
        Ok(())
    }
}
