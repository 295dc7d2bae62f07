// SPDX-License-Identifier: GPL-2.0
//! What the kernel has counted, at one moment or between two.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::AddAssign;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::counts::Counts;
use crate::site::{Place, Site};
use crate::stats_format;

pub use crate::stats_format::{ENABLED, FAST, HEAT};

/// In [`Clock::flags`], beside those of the kernel: the counts are of tracepoints, which do not tell what is fast, and how long it takes.
pub const TRACED: u32 = 1 << 31;

/// Besides: the places of sites have whole addresses, or say that they have not by
/// [`SOMEWHERE`](crate::site::SOMEWHERE).
pub const EXACT: u32 = 1 << 30;

/// When something was read, and what held for all VMs then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// Nanoseconds since boot.
    pub boottime: u64,
    pub tsc: u64,
    pub tsc_khz: u32,
    /// [`HEAT`], [`ENABLED`], [`FAST`].
    pub flags: u32,
    /// Most pages that are counted for a vCPU.
    pub pages_per_vcpu: u32,
    /// Most ended VMs that are kept while somebody reads.
    pub vms_kept: u32,
    /// Ended VMs that were not; with [`TRACED`], events that had no room.
    pub lost: u64,
}

impl Clock {
    pub fn is_traced(&self) -> bool {
        self.flags & TRACED != 0
    }

    /// Whether devices that share a page can be told apart.
    pub fn is_exact(&self) -> bool {
        self.flags & EXACT != 0
    }

    /// Ended VMs that are in no count.
    pub fn vms_lost(&self) -> u64 {
        if self.is_traced() { 0 } else { self.lost }
    }

    /// Events that are in no count.
    pub fn events_lost(&self) -> u64 {
        if self.is_traced() { self.lost } else { 0 }
    }

    /// How long some cycles of the TSC are.
    pub fn seconds(&self, cycles: u64) -> f64 {
        cycles as f64 / (f64::from(self.tsc_khz.max(1)) * 1000.0)
    }
}

/// Outcomes that the extension does not have, as it knows more than tracepoints.
pub const KERNEL: u8 = 5;
pub const USERSPACE: u8 = 6;

/// The last access to a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Last {
    /// Bytes; 0: unknown.
    pub size: u8,
    /// Bits of the value; 255: unknown.
    pub width: u8,
    pub direction: Direction,
    /// An [`Outcome`](stats_format::Outcome), or one of tracepoints.
    pub outcome: u8,
    /// When it was over.
    pub tsc: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    #[default]
    Unknown,
    Read,
    Write,
}

impl Last {
    /// Of accesses that are a part of those to a page.
    pub const UNKNOWN: Self = Self {
        size: 0,
        width: stats_format::UNKNOWN_WIDTH,
        direction: Direction::Unknown,
        outcome: u8::MAX,
        tsc: 0,
    };
}

impl From<u64> for Direction {
    fn from(number: u64) -> Self {
        const READ: u64 = stats_format::Direction::Read as u64;
        const WRITE: u64 = stats_format::Direction::Write as u64;
        match number {
            READ => Self::Read,
            WRITE => Self::Write,
            _ => Self::Unknown,
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "?",
            Self::Read => "read",
            Self::Write => "write",
        })
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    pub counts: Counts,
    pub last: Last,
}

impl AddAssign<&Self> for Page {
    /// The last access is that of the one or the other that was later.
    fn add_assign(&mut self, other: &Self) {
        self.counts += other.counts;
        if other.last.tsc >= self.last.tsc {
            self.last = other.last;
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vcpu {
    /// In the order of [`Reading::counters`].
    pub counters: Vec<u64>,
    /// By guest-physical address.
    pub pages: BTreeMap<u64, Page>,
    /// By address and instruction; by page, without [`EXACT`].
    pub sites: BTreeMap<Place, Site>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vm {
    /// Its process, in the initial PID namespace.
    pub tgid: u32,
    pub ended: bool,
    /// Accesses that are counted for no page.
    pub heat_dropped: u64,
    /// By the number that `KVM_CREATE_VCPU` was given.
    pub vcpus: BTreeMap<u32, Vcpu>,
}

/// Everything that the kernel has counted, at a moment or since one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    pub clock: Clock,
    /// Names of the counters of vCPUs, as the kernel gives them.
    pub counters: Vec<String>,
    /// By VM id.
    pub vms: BTreeMap<u64, Vm>,
}

impl Reading {
    /// How much everything has grown since an earlier reading. What was not there then has grown
    /// from nothing; pages that were not accessed are left out.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut grown = self.clone();
        grown.clock.lost -= earlier.clock.lost.min(grown.clock.lost);
        for (id, vm) in &mut grown.vms {
            let before = earlier.vms.get(id);
            vm.heat_dropped -= before.map_or(0, |vm| vm.heat_dropped).min(vm.heat_dropped);
            for (id, vcpu) in &mut vm.vcpus {
                if let Some(before) = before.and_then(|vm| vm.vcpus.get(id)) {
                    vcpu.subtract(before);
                }
                vcpu.pages.retain(|_, page| page.counts.count != 0);
                vcpu.sites.retain(|_, site| *site != Site::default());
            }
        }
        grown
    }

    /// Adds what has grown later.
    pub fn add(&mut self, later: &Self) {
        let lost = self.clock.lost.saturating_add(later.clock.lost);
        self.clock = Clock {
            lost,
            ..later.clock
        };
        self.counters.clone_from(&later.counters);
        for (id, later) in &later.vms {
            let vm = self.vms.entry(*id).or_default();
            vm.tgid = later.tgid;
            vm.ended = later.ended;
            vm.heat_dropped = vm.heat_dropped.saturating_add(later.heat_dropped);
            for (id, later) in &later.vcpus {
                vm.vcpus.entry(*id).or_default().add(later);
            }
        }
    }

    /// Has no count of a page less than before: an access may have moved from one to the other
    /// when it became known who completes it, and what was told stays told.
    pub fn keep_up_with(&mut self, earlier: &Self) {
        for (id, vm) in &mut self.vms {
            let before = earlier.vms.get(id);
            for (id, vcpu) in &mut vm.vcpus {
                if let Some(before) = before.and_then(|vm| vm.vcpus.get(id)) {
                    vcpu.keep_up_with(before);
                }
            }
        }
    }

    /// The time from an earlier reading to this one.
    pub fn elapsed_since(&self, earlier: &Self) -> Duration {
        Duration::from_nanos(self.clock.boottime.saturating_sub(earlier.clock.boottime))
    }

    /// One counter of a VM, summed over its vCPUs; None if the kernel has no such counter.
    pub fn counter(&self, vm: &Vm, name: &str) -> Option<u64> {
        let index = self.counters.iter().position(|counter| counter == name)?;
        Some(vm.counter(index))
    }
}

impl Vm {
    /// The sum over the vCPUs of the counter at a place in [`Reading::counters`].
    pub fn counter(&self, index: usize) -> u64 {
        let values = self
            .vcpus
            .values()
            .filter_map(|vcpu| vcpu.counters.get(index));
        values.fold(0, |sum, value| sum.saturating_add(*value))
    }
}

impl Vcpu {
    fn subtract(&mut self, earlier: &Self) {
        for (value, before) in self.counters.iter_mut().zip(&earlier.counters) {
            *value = value.saturating_sub(*before);
        }
        for (gpa, page) in &mut self.pages {
            if let Some(before) = earlier.pages.get(gpa) {
                page.counts = page.counts - before.counts;
            }
        }
        for (place, site) in &mut self.sites {
            if let Some(before) = earlier.sites.get(place) {
                *site = site.since(before);
            }
        }
    }

    fn keep_up_with(&mut self, earlier: &Self) {
        for (gpa, page) in &mut self.pages {
            if let Some(before) = earlier.pages.get(gpa) {
                page.counts = page.counts.max(before.counts);
            }
        }
        for (place, site) in &mut self.sites {
            if let Some(before) = earlier.sites.get(place) {
                site.counts = site.counts.max(before.counts);
            }
        }
    }

    fn add(&mut self, later: &Self) {
        self.counters.resize(later.counters.len(), 0);
        for (value, more) in self.counters.iter_mut().zip(&later.counters) {
            *value = value.saturating_add(*more);
        }
        for (gpa, later) in &later.pages {
            let page = self.pages.entry(*gpa).or_default();
            page.counts += later.counts;
            page.last = later.last;
        }
        for (place, later) in &later.sites {
            *self.sites.entry(*place).or_default() += later;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(vm: u64, faults: u64, pages: &[(u64, u64)]) -> Reading {
        let page = |count| Page {
            counts: Counts {
                count,
                ..Counts::default()
            },
            ..Page::default()
        };
        let vcpu = Vcpu {
            counters: vec![faults],
            pages: pages
                .iter()
                .map(|&(gpa, count)| (gpa, page(count)))
                .collect(),
            ..Vcpu::default()
        };
        let vm_state = Vm {
            vcpus: [(0, vcpu)].into(),
            ..Vm::default()
        };
        Reading {
            counters: vec!["faults".to_owned()],
            vms: [(vm, vm_state)].into(),
            ..Reading::default()
        }
    }

    #[test]
    fn a_difference_has_what_is_new() {
        let grown = reading(1, 9, &[(0x1000, 5), (0x2000, 4), (0x3000, 2)]).since(&reading(
            1,
            5,
            &[(0x1000, 5), (0x2000, 1)],
        ));
        assert_eq!(grown, reading(1, 4, &[(0x2000, 3), (0x3000, 2)]));
        let new = reading(2, 1, &[(0x1000, 1)]);
        assert_eq!(new.since(&reading(1, 5, &[(0x1000, 5)])), new);
    }

    #[test]
    fn differences_add_up() {
        let readings = [
            reading(1, 2, &[(0x1000, 1)]),
            reading(1, 5, &[(0x1000, 1), (0x2000, 3)]),
            reading(1, 9, &[(0x1000, 4), (0x2000, 4)]),
        ];
        let mut sum = Reading::default();
        for pair in readings.windows(2) {
            sum.add(&pair[1].since(&pair[0]));
        }
        assert_eq!(sum, readings[2].since(&readings[0]));
    }
}
