// SPDX-License-Identifier: GPL-2.0
//! What the programs of BPF have counted, as words of the structures in bpf/counts.h.

use std::collections::{BTreeMap, BTreeSet};

use crate::counts::Counts;
use crate::reading::{Direction, KERNEL, Last, Page, USERSPACE, Vcpu, Vm};
use crate::region::PAGE;
use crate::site::SOMEWHERE;
use crate::stats_format::{Outcome, UNKNOWN_WIDTH};

/// The address of no page, and of no instruction.
const NOWHERE: u64 = u64::MAX;

/// `struct totals`
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    pub places: usize,
    pub times: usize,
    /// Events that had no room.
    pub lost: u64,
    /// Places and times that were freed.
    pub given: [u64; 2],
}

impl Totals {
    pub const WORDS: usize = 7;

    /// The words of [`given`](Self::given).
    pub const GIVEN: [usize; 2] = [3, 5];

    pub fn new(words: [u64; Self::WORDS]) -> Self {
        let [places, times, lost, ..] = words;
        Self {
            places: places as usize,
            times: times as usize,
            lost,
            given: Self::GIVEN.map(|word| words[word]),
        }
    }
}

/// `struct place`: what an instruction of a vCPU does to an address.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// What it is found by.
    pub key: [u64; 3],
    gpa: u64,
    rip: Option<u64>,
    tgid: u32,
    vcpu: u32,
    counts: Counts,
    last: Last,
}

/// What `type` of the last access is.
mod kind {
    pub const READ_UNSATISFIED: u8 = 0;
    pub const READ: u8 = 1;
    pub const WRITE: u8 = 2;
}

impl Place {
    pub const WORDS: usize = 10;

    pub fn new(words: [u64; Self::WORDS]) -> Self {
        let [
            gpa,
            rip,
            whose,
            reads,
            writes,
            bells,
            userspace,
            time,
            value,
            last,
        ] = words;
        let count = reads.saturating_add(writes).saturating_add(bells);
        Self {
            key: [gpa, rip, whose],
            gpa,
            rip: (rip != NOWHERE).then_some(rip),
            tgid: whose as u32,
            vcpu: (whose >> 32) as u32,
            counts: Counts {
                count,
                reads,
                writes,
                wildcard: bells,
                // They are not read at one moment.
                userspace: userspace.min(count),
                kernel: count.saturating_sub(userspace),
                ..Counts::default()
            },
            last: last_access(time, value, last),
        }
    }
}

/// Of the last word: four bytes of size, one of the type, one that is 1 if userspace had it.
fn last_access(time: u64, value: u64, word: u64) -> Last {
    let [size, _, _, _, kind, by_userspace, _, _] = word.to_le_bytes();
    let width = 64 - value.leading_zeros() as u8;
    let known = Last {
        size,
        width,
        direction: Direction::Unknown,
        outcome: if by_userspace == 0 { KERNEL } else { USERSPACE },
        tsc: time,
    };
    match kind {
        kind::READ_UNSATISFIED => Last {
            width: UNKNOWN_WIDTH,
            direction: Direction::Read,
            ..known
        },
        kind::READ => Last {
            direction: Direction::Read,
            ..known
        },
        kind::WRITE => Last {
            direction: Direction::Write,
            ..known
        },
        _ => Last {
            size: 0,
            width: UNKNOWN_WIDTH,
            outcome: Outcome::Wildcard as u8,
            ..known
        },
    }
}

/// `struct time`: how often something took so long, to be added to a place.
#[derive(Clone, Copy, Debug)]
pub struct Time {
    /// What it is found by.
    pub key: u64,
    /// The index of the place.
    place: usize,
    bucket: u16,
    count: u64,
}

impl Time {
    pub const WORDS: usize = 2;

    pub fn new([whose, count]: [u64; Self::WORDS]) -> Self {
        Self {
            key: whose,
            // It is one more there; 0 is none, which is in no list.
            place: (whose as u32).wrapping_sub(1) as usize,
            bucket: (whose >> 32) as u16,
            count,
        }
    }
}

/// All that has been counted, at a moment.
#[derive(Default)]
pub struct Tally {
    pub places: Vec<Place>,
    pub times: Vec<Time>,
}

impl Tally {
    /// The processes that it is of.
    pub fn processes(&self) -> BTreeSet<u32> {
        self.counted().map(|(_, place)| place.tgid).collect()
    }

    /// VMs of these processes, by process: the tracepoints do not tell the VMs of one apart.
    pub fn vms(&self, whose: impl Fn(u32) -> bool) -> BTreeMap<u64, Vm> {
        let mut vms = BTreeMap::new();
        for (_, place) in self.counted().filter(|(_, place)| whose(place.tgid)) {
            add_place(&mut vms, place);
        }
        for time in &self.times {
            let place = self.place_of(time);
            if let Some(place) = place.filter(|it| it.gpa != NOWHERE && whose(it.tgid)) {
                let site = vcpu_of(&mut vms, place).sites.entry((place.gpa, place.rip));
                site.or_default().times.add(time.bucket, time.count);
            }
        }
        vms
    }

    /// The indices of the places that processes have, and of the times of these.
    pub fn of(&self, processes: &BTreeSet<u32>) -> [Vec<usize>; 2] {
        let theirs = |place: &Place| processes.contains(&place.tgid);
        let places = self.counted().filter(|(_, place)| theirs(place));
        let times = (0..).zip(&self.times);
        let times = times.filter(|(_, time)| self.place_of(time).is_some_and(theirs));
        [
            places.map(|(index, _)| index).collect(),
            times.map(|(index, _)| index).collect(),
        ]
    }

    /// None if either was freed.
    fn place_of(&self, time: &Time) -> Option<&Place> {
        let place = self.places.get(time.place).filter(|_| time.count != 0)?;
        (place.counts.count != 0).then_some(place)
    }

    /// What has no count is being made, or was freed.
    fn counted(&self) -> impl Iterator<Item = (usize, &Place)> {
        let all = (0..).zip(&self.places);
        all.filter(|(_, place)| place.counts.count != 0)
    }
}

fn vcpu_of<'a>(vms: &'a mut BTreeMap<u64, Vm>, place: &Place) -> &'a mut Vcpu {
    let vm = vms.entry(place.tgid.into()).or_default();
    vm.tgid = place.tgid;
    vm.vcpus.entry(place.vcpu).or_default()
}

fn add_place(vms: &mut BTreeMap<u64, Vm>, place: &Place) {
    let vcpu = vcpu_of(vms, place);
    if place.gpa == NOWHERE {
        let vm = vms.entry(place.tgid.into()).or_default();
        vm.heat_dropped = vm.heat_dropped.saturating_add(place.counts.count);
        return;
    }
    vcpu.sites.entry((place.gpa, place.rip)).or_default().counts += place.counts;
    let page: &mut Page = vcpu
        .pages
        .entry(place.gpa & !(SOMEWHERE | (PAGE - 1)))
        .or_default();
    page.counts += place.counts;
    if place.last.tsc >= page.last.tsc {
        page.last = place.last;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: u64 = 0xd000_0000;
    const RIP: u64 = 0xffff_ffff_8100_0000;

    /// Of vCPU 3 of process 100, with its counts, when it was last accessed and by what.
    fn place(gpa: u64, rip: u64, counts: [u64; 4], time: u64, kind: u8) -> Place {
        let [reads, writes, bells, userspace] = counts;
        let last = u64::from_le_bytes([4, 0, 0, 0, kind, u8::from(userspace != 0), 0, 0]);
        let whose = 100 | 3 << 32;
        Place::new([
            gpa, rip, whose, reads, writes, bells, userspace, time, 0x80, last,
        ])
    }

    #[test]
    fn places_add_up_to_pages() {
        let places = [
            place(AT + 8, RIP, [0, 5, 0, 2], 20, kind::WRITE),
            place(SOMEWHERE | AT, NOWHERE, [3, 0, 0, 0], 10, kind::READ),
            place(NOWHERE, 0, [0, 7, 0, 0], 30, kind::WRITE),
            // It is being made.
            place(AT + PAGE, RIP, [0; 4], 0, 0),
            place(AT + 2 * PAGE, RIP, [0, 0, 9, 0], 5, 3),
        ];
        let times = [[1 | 17 << 32, 4], [1 | 18 << 32, 1], [3 | 18 << 32, 7]].map(Time::new);
        let (places, times) = (places.to_vec(), times.to_vec());
        let vms = Tally { places, times }.vms(|_| true);
        assert_eq!(vms.len(), 1);
        let vm = &vms[&100];
        assert_eq!((vm.tgid, vm.heat_dropped), (100, 7));
        let vcpu = &vm.vcpus[&3];
        let page = vcpu.pages[&AT];
        let counts = page.counts;
        assert_eq!(
            [
                counts.count,
                counts.reads,
                counts.writes,
                counts.kernel,
                counts.userspace
            ],
            [8, 3, 5, 6, 2]
        );
        let last = Last {
            size: 4,
            width: 8,
            direction: Direction::Write,
            outcome: USERSPACE,
            tsc: 20,
        };
        assert_eq!(page.last, last);
        let bell = vcpu.pages[&(AT + 2 * PAGE)];
        assert_eq!((bell.counts.wildcard, bell.counts.kernel), (9, 9));
        assert_eq!(
            (bell.last.size, bell.last.direction),
            (0, Direction::Unknown)
        );
        let sites: Vec<_> = vcpu.sites.keys().copied().collect();
        assert_eq!(
            sites,
            [
                (AT + 8, Some(RIP)),
                (AT + 2 * PAGE, Some(RIP)),
                (SOMEWHERE | AT, None)
            ]
        );
        let took = vcpu.sites[&(AT + 8, Some(RIP))].times.quantiles().unwrap();
        assert_eq!((took.min, took.p50, took.max), (17, 17, 18));
    }

    #[test]
    fn what_processes_have() {
        let other = |gpa| {
            let mut place = place(gpa, RIP, [1, 0, 0, 0], 1, kind::READ);
            place.tgid = 101;
            place
        };
        let freed = Place::new([0; Place::WORDS]);
        let mine = |gpa| place(gpa, RIP, [0, 1, 0, 1], 1, kind::WRITE);
        let tally = Tally {
            places: vec![mine(AT), freed, other(AT), mine(NOWHERE), other(AT + 8)],
            // Of the first, of what was freed, of the last, freed, and of the one of no page.
            times: [[1, 1], [2, 1], [5, 1], [1, 0], [4, 1]]
                .map(Time::new)
                .to_vec(),
        };
        assert_eq!(tally.processes(), [100, 101].into());
        assert_eq!(tally.of(&[100].into()), [vec![0, 3], vec![0, 4]]);
        assert_eq!(tally.of(&[101].into()), [vec![2, 4], vec![2]]);
        let vms = tally.vms(|process| process != 100);
        assert_eq!(vms.into_keys().collect::<Vec<_>>(), [101]);
    }

    #[test]
    fn a_read_that_userspace_answers_has_no_value() {
        let asked = place(AT, RIP, [1, 0, 0, 1], 1, kind::READ_UNSATISFIED);
        assert_eq!(asked.last.width, UNKNOWN_WIDTH);
        assert_eq!(asked.last.direction, Direction::Read);
        let torn = place(AT, RIP, [1, 0, 0, 2], 1, kind::READ_UNSATISFIED);
        assert_eq!((torn.counts.kernel, torn.counts.userspace), (0, 1));
    }
}
