// SPDX-License-Identifier: GPL-2.0
//! What figures do not contain, though it has happened.

use serde::Serialize;

use crate::reading::{Clock, HEAT, Reading};
use crate::stats_format::INSTRUCTIONS;
use crate::view::Filter;
use crate::words::plural;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// Counting by page was on all the time.
    heat: bool,
    /// Accesses that are counted for no page.
    pub heat_dropped: u64,
    vms_lost: u64,
    events_lost: u64,
    #[serde(skip)]
    clock: Clock,
}

impl Default for Missing {
    fn default() -> Self {
        let flags = HEAT;
        Self::new(
            &Clock {
                flags,
                ..Clock::default()
            },
            0,
        )
    }
}

impl Missing {
    fn new(clock: &Clock, heat_dropped: u64) -> Self {
        Self {
            heat: clock.flags & HEAT != 0,
            heat_dropped,
            vms_lost: clock.vms_lost(),
            events_lost: clock.events_lost(),
            clock: *clock,
        }
    }

    /// In what has grown of these VMs.
    pub fn of(grown: &Reading, filter: &Filter) -> Self {
        let vms = grown.vms.iter().filter(|(id, vm)| filter.has_vm(**id, vm));
        let dropped = vms.map(|(_, vm)| vm.heat_dropped);
        Self::new(&grown.clock, dropped.fold(0, u64::saturating_add))
    }

    /// Adds what is missing later.
    pub fn add(&mut self, later: &Self) {
        *self = Self {
            heat: self.heat && later.heat,
            heat_dropped: self.heat_dropped.saturating_add(later.heat_dropped),
            vms_lost: self.vms_lost.saturating_add(later.vms_lost),
            events_lost: self.events_lost.saturating_add(later.events_lost),
            clock: later.clock,
        };
    }

    /// A line each.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.heat_dropped != 0 {
            let who = match self.clock.is_traced() {
                true => "this program counts",
                false => "the kernel counts",
            };
            let what = match self.clock.flags & INSTRUCTIONS {
                0 => "pages",
                _ => "pairs of a page and an instruction",
            };
            notes.push(format!(
                "{} of no page: {who} {} {what} for each vCPU",
                plural(self.heat_dropped, "access", "accesses"),
                self.clock.pages_per_vcpu
            ));
        }
        if !self.heat {
            notes.push("counting by page was off, at least for a part of the time".to_owned());
        }
        if self.events_lost != 0 {
            notes.push(format!(
                "{} lost, as the kernel had no room for them: there were more accesses",
                plural(self.events_lost, "event was", "events were"),
            ));
        }
        if self.vms_lost != 0 {
            notes.push(format!(
                "{} not in this: they ended, and the kernel keeps {}",
                plural(self.vms_lost, "VM is", "VMs are"),
                self.clock.vms_kept
            ));
        }
        notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::sample;
    use crate::reading::TRACED;

    #[test]
    fn all_that_is_missing_is_said() {
        let mut reading = sample::two_vms();
        reading.clock.lost = 1;
        let all = Filter::default();
        let mut missing = Missing::default();
        assert!(missing.notes().is_empty());
        missing.add(&Missing::of(&reading, &all));
        let pages = "3 accesses of no page: the kernel counts 512 pages for each vCPU";
        let vms = "1 VM is not in this: they ended, and the kernel keeps 64";
        assert_eq!(missing.notes(), [pages, vms]);
        reading.clock.flags |= INSTRUCTIONS;
        let pairs = Missing::of(&reading, &all).notes();
        assert!(pairs[0].contains("512 pairs of a page"), "{pairs:?}");
        reading.clock.flags = TRACED;
        let of_other = Filter {
            vms: vec![2],
            ..all
        };
        let other = Missing::of(&reading, &of_other).notes();
        assert_eq!(other.len(), 2, "{other:?}");
        assert!(other[0].starts_with("counting by page was off"));
        assert!(other[1].starts_with("1 event was lost"));
        missing.add(&Missing::of(&reading, &of_other));
        assert_eq!(missing.notes().len(), 4);
    }
}
