// SPDX-License-Identifier: GPL-2.0
//! From events of threads to accesses of vCPUs.

use std::collections::{BTreeMap, HashMap};

use crate::counts::Counts;
use crate::reading::{Direction, KERNEL, Last, USERSPACE, Vcpu, Vm};
use crate::region::PAGE;
use crate::site::{Place, SOMEWHERE, Site};
use crate::stats_format::{Outcome, UNKNOWN_WIDTH};
use crate::trace::clock::PAGES;
use crate::trace::event::{Access, Event, Sample};

/// Most pairs of an address and an instruction that are counted apart for a vCPU, so that no
/// guest can fill our memory.
const SITES: usize = 16384;

/// So many of these with their whole address, those beyond with that of the page.
const ADDRESSES: usize = 8192;

/// Bytes that a device sees at once.
const WIDEST: u32 = 8;

/// Most parts of an instruction's operand that KVM asks userspace for (`KVM_MAX_MMIO_FRAGMENTS`).
const FRAGMENTS: usize = 2;

/// What a thread that runs a vCPU is about.
#[derive(Default)]
struct Thread {
    vcpu: u32,
    /// The instruction that has left the guest.
    rip: u64,
    /// When it has.
    left: u64,
    /// What it has first accessed.
    first: Option<u64>,
    /// Userspace has been asked for a value; what is read next is its answer.
    asked: bool,
    /// Where the last writes went, of which it is not known yet who takes them.
    written: Vec<u64>,
}

/// Counts accesses.
#[derive(Default)]
pub struct Follower {
    /// By process: the tracepoints do not tell the VMs of a process apart.
    pub vms: BTreeMap<u64, Vm>,
    threads: HashMap<u32, Thread>,
}

/// An access to be counted.
struct Seen {
    direction: Direction,
    outcome: u8,
    gpa: u64,
    size: u32,
    value: Option<u64>,
    time: u64,
}

impl Follower {
    pub fn see(&mut self, sample: &Sample) {
        if let Event::Exit { vcpu, rip } = sample.event {
            let thread = Thread {
                vcpu,
                rip,
                left: sample.time,
                ..Thread::default()
            };
            self.threads.insert(sample.tid, thread);
            return;
        }
        // What began before we looked is not counted, as it would be by half.
        let Some(thread) = self.threads.get_mut(&sample.tid) else {
            return;
        };
        let vm = self.vms.entry(sample.pid.into()).or_insert_with(|| Vm {
            tgid: sample.pid,
            ..Vm::default()
        });
        thread.see(sample, vm);
    }
}

impl Thread {
    fn see(&mut self, sample: &Sample, vm: &mut Vm) {
        let time = sample.time;
        match sample.event {
            Event::Exit { .. } => {}
            Event::Entry => self.enter(vm, time),
            Event::Read(_) if self.asked => self.asked = false,
            Event::Read(access) => {
                let value = Some(access.value);
                self.count(vm, access, Direction::Read, KERNEL, value, time);
            }
            Event::ReadUnsatisfied(access) => {
                self.asked = true;
                self.count(vm, access, Direction::Read, USERSPACE, None, time);
            }
            Event::Write(access) => {
                let value = Some(access.value);
                let parts = self.count(vm, access, Direction::Write, KERNEL, value, time);
                let at = |part: u32| access.gpa.wrapping_add((part * WIDEST).into());
                self.written.extend((0..parts).map(at));
                let old = self.written.len().saturating_sub(FRAGMENTS);
                self.written.drain(..old);
            }
            Event::FastMmio { gpa } => self.add(
                vm,
                &Seen {
                    direction: Direction::Unknown,
                    outcome: Outcome::Wildcard as u8,
                    gpa,
                    size: 0,
                    value: None,
                    time,
                },
            ),
            Event::UserspaceExit if self.asked => {}
            Event::UserspaceExit => self.take_by_userspace(vm),
        }
    }

    /// Counts what a device sees of an access, each up to 8 bytes. How many that are.
    fn count(
        &mut self,
        vm: &mut Vm,
        access: Access,
        direction: Direction,
        outcome: u8,
        value: Option<u64>,
        time: u64,
    ) -> u32 {
        let parts = access.len.div_ceil(WIDEST).clamp(1, FRAGMENTS as u32);
        for part in 0..parts {
            let done = part * WIDEST;
            let seen = Seen {
                direction,
                outcome,
                gpa: access.gpa.wrapping_add(done.into()),
                size: (access.len - done).min(WIDEST),
                value,
                time,
            };
            self.add(vm, &seen);
        }
        parts
    }

    fn add(&mut self, vm: &mut Vm, seen: &Seen) {
        let vcpu = vm.vcpus.entry(self.vcpu).or_default();
        let gpa = page_of(seen.gpa);
        self.first.get_or_insert(seen.gpa);
        if vcpu.pages.len() >= PAGES && !vcpu.pages.contains_key(&gpa) {
            vm.heat_dropped += 1;
            return;
        }
        site(vcpu, seen.gpa, self.rip).counts += counts(seen);
        let page = vcpu.pages.entry(gpa).or_default();
        page.counts += counts(seen);
        page.last = Last {
            size: seen.size as u8,
            width: seen
                .value
                .map_or(UNKNOWN_WIDTH, |value| 64 - value.leading_zeros() as u8),
            direction: seen.direction,
            outcome: seen.outcome,
            tsc: seen.time,
        };
    }

    /// The last write is left to userspace.
    fn take_by_userspace(&mut self, vm: &mut Vm) {
        let Some(gpa) = self.written.pop() else {
            return;
        };
        let Some(vcpu) = vm.vcpus.get_mut(&self.vcpu) else {
            return;
        };
        let Some(page) = vcpu.pages.get_mut(&page_of(gpa)) else {
            return;
        };
        page.last.outcome = USERSPACE;
        move_to_userspace(&mut page.counts);
        move_to_userspace(&mut site(vcpu, gpa, self.rip).counts);
    }

    /// The guest goes on: what it has left for is over.
    fn enter(&mut self, vm: &mut Vm, time: u64) {
        let Some(gpa) = self.first.take() else {
            return;
        };
        let vcpu = vm.vcpus.entry(self.vcpu).or_default();
        if vcpu.pages.contains_key(&page_of(gpa)) {
            let took = time.saturating_sub(self.left);
            site(vcpu, gpa, self.rip).times.record(took);
        }
    }
}

fn move_to_userspace(counts: &mut Counts) {
    counts.kernel = counts.kernel.saturating_sub(1);
    counts.userspace += 1;
}

fn page_of(gpa: u64) -> u64 {
    gpa & !(PAGE - 1)
}

/// Where an instruction's accesses to an address are counted.
fn site(vcpu: &mut Vcpu, gpa: u64, rip: u64) -> &mut Site {
    let page = page_of(gpa) | SOMEWHERE;
    let full = [(ADDRESSES, (page, Some(rip))), (SITES, (page, None))];
    let mut place: Place = (gpa, Some(rip));
    for (most, wider) in full {
        if vcpu.sites.len() >= most && !vcpu.sites.contains_key(&place) {
            place = wider;
        }
    }
    vcpu.sites.entry(place).or_default()
}

fn counts(seen: &Seen) -> Counts {
    let (is_read, is_write) = (
        seen.direction == Direction::Read,
        seen.direction == Direction::Write,
    );
    let userspace = seen.outcome == USERSPACE;
    Counts {
        count: 1,
        reads: is_read.into(),
        writes: is_write.into(),
        wildcard: (seen.direction == Direction::Unknown).into(),
        kernel: (!userspace).into(),
        userspace: userspace.into(),
        ..Counts::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE_A: u64 = 0xd000_0000;
    const PAGE_B: u64 = 0xd000_1000;

    fn access(gpa: u64, len: u32) -> Access {
        Access {
            gpa,
            len,
            value: 0x80,
        }
    }

    const RIP: u64 = 0xffff_ffff_8100_0000;

    fn exit() -> Event {
        Event::Exit { vcpu: 3, rip: RIP }
    }

    /// What vCPU 3 of process 100 has done: (count, reads, writes, kernel, userspace) of a page.
    fn followed(events: &[Event]) -> impl Fn(u64) -> [u64; 5] + use<> {
        let mut follower = Follower::default();
        for (time, event) in (1..).zip(events) {
            follower.see(&Sample {
                time,
                pid: 100,
                tid: 101,
                event: *event,
            });
        }
        move |gpa| {
            let vcpu = follower.vms.get(&100).and_then(|vm| vm.vcpus.get(&3));
            let page = vcpu.and_then(|vcpu| vcpu.pages.get(&gpa));
            let counts = page.copied().unwrap_or_default().counts;
            [
                counts.count,
                counts.reads,
                counts.writes,
                counts.kernel,
                counts.userspace,
            ]
        }
    }

    #[test]
    fn who_takes_an_access() {
        let write = Event::Write(access(PAGE_A, 4));
        let read = Event::Read(access(PAGE_A, 4));
        let unsatisfied = Event::ReadUnsatisfied(access(PAGE_A, 4));
        for (events, wanted) in [
            (&[exit(), write][..], [1, 0, 1, 1, 0]),
            (&[exit(), write, Event::UserspaceExit], [1, 0, 1, 0, 1]),
            (&[exit(), read], [1, 1, 0, 1, 0]),
            (
                &[exit(), unsatisfied, Event::UserspaceExit, read],
                [1, 1, 0, 0, 1],
            ),
            // It reads and then writes, both by userspace.
            (
                &[
                    exit(),
                    unsatisfied,
                    Event::UserspaceExit,
                    read,
                    write,
                    Event::UserspaceExit,
                ],
                [2, 1, 1, 0, 2],
            ),
            // The last element of a repeated one is userspace's.
            (
                &[exit(), write, write, write, Event::UserspaceExit],
                [3, 0, 3, 2, 1],
            ),
            (
                &[exit(), Event::FastMmio { gpa: PAGE_A + 8 }],
                [1, 0, 0, 1, 0],
            ),
            // Nobody answers, and the guest goes on all the same.
            (
                &[exit(), unsatisfied, Event::UserspaceExit, exit(), read],
                [2, 2, 0, 1, 1],
            ),
            // It began before.
            (&[read, write, Event::UserspaceExit], [0; 5]),
        ] {
            assert_eq!(followed(events)(PAGE_A), wanted, "{events:?}");
        }
    }

    #[test]
    fn wide_and_crossing_ones_are_two() {
        let wide = [
            exit(),
            Event::Write(access(PAGE_A, 16)),
            Event::UserspaceExit,
            Event::UserspaceExit,
        ];
        assert_eq!(followed(&wide)(PAGE_A), [2, 0, 2, 0, 2]);
        let crossing = followed(&[
            exit(),
            Event::Write(access(PAGE_B - 2, 2)),
            Event::Write(access(PAGE_B, 2)),
            Event::UserspaceExit,
            Event::UserspaceExit,
        ]);
        assert_eq!(crossing(PAGE_A), [1, 0, 1, 0, 1]);
        assert_eq!(crossing(PAGE_B), [1, 0, 1, 0, 1]);
    }

    #[test]
    fn instructions_are_apart_and_take_time() {
        let other = Event::Exit { vcpu: 3, rip: 7 };
        let write = Event::Write(access(PAGE_A, 4));
        let events = [
            (100, exit()),
            (110, write),
            (120, Event::UserspaceExit),
            (160, Event::Entry),
            // Of something else.
            (170, Event::Entry),
            (200, other),
            (201, Event::Read(access(PAGE_A, 4))),
            (202, Event::Read(access(PAGE_B, 4))),
            (215, Event::Entry),
        ];
        let mut follower = Follower::default();
        for (time, event) in events {
            let (pid, tid) = (100, 101);
            follower.see(&Sample {
                time,
                pid,
                tid,
                event,
            });
        }
        let sites = &follower.vms[&100].vcpus[&3].sites;
        let of = |gpa, rip| {
            let site = &sites[&(gpa, Some(rip))];
            let times = site.times.quantiles().map(|times| (times.min, times.max));
            (site.counts.count, site.counts.userspace, times)
        };
        assert_eq!(sites.len(), 3);
        assert_eq!(of(PAGE_A, RIP), (1, 1, Some((60, 60))));
        assert_eq!(of(PAGE_A, 7), (1, 0, Some((15, 15))));
        // An exit is timed once.
        assert_eq!(of(PAGE_B, 7), (1, 0, None));
    }

    #[test]
    fn a_guest_cannot_fill_our_memory() {
        let mut follower = Follower::default();
        let mut see = |event| {
            follower.see(&Sample {
                time: 1,
                pid: 100,
                tid: 101,
                event,
            });
        };
        for page in 0..PAGES as u64 + 5 {
            see(exit());
            see(Event::Read(access(page * PAGE, 4)));
        }
        for rip in 0..SITES as u64 {
            see(Event::Exit { vcpu: 3, rip });
            see(Event::Read(access(0, 4)));
        }
        let vm = &follower.vms[&100];
        let vcpu = &vm.vcpus[&3];
        assert_eq!((vcpu.pages.len(), vm.heat_dropped), (PAGES, 5));
        assert_eq!(vcpu.sites[&(SOMEWHERE, None)].counts.count, PAGES as u64);
    }
}
