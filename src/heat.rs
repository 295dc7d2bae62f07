// SPDX-License-Identifier: GPL-2.0

//! Heat: what one vCPU does to which guest page.
//!
//! A vCPU has a table of its own and is the only one to write it, so nothing is shared between
//! vCPUs. Any thread may read it meanwhile.

use crate::{
    addr::{Gfn, Gpa},
    kvm::{Byte, Counter}, //
};
use core::ops::Deref;

/// Pages that a vCPU records.
pub const PAGES: usize = 256;

/// Places to look for a page: twice as many as there are pages, so that there is always a free
/// one near.
const PLACES: usize = 2 * PAGES;

/// A place that no page has taken. As an index of a byte it is that of the first record, where the
/// quick look then finds another page, or the right one by luck.
const FREE: u16 = PAGES as u16;

/// Spreads neighbouring pages over the places: 2^32 divided by the golden ratio (Knuth, The Art of
/// Computer Programming, volume 3, section 6.4).
const HASH: u32 = 0x9e37_79b9;

/// A page frame that no guest has.
const NO_GFN: u64 = u64::MAX;

/// What is not known of a value.
pub const UNKNOWN_WIDTH: u8 = u8::MAX;

/// Which way an access goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Direction {
    /// Not known.
    Unknown,
    /// From the device.
    Read,
    /// To the device.
    Write,
}

impl Direction {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Unknown, Self::Read, Self::Write];
}

/// What became of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// Completed by the fast path, in the kernel.
    FastKernel,
    /// Carried out by the fast path, for userspace to go on.
    FastUserspace,
    /// Completed by the emulator, in the kernel.
    EmulatedKernel,
    /// Left to userspace by the emulator.
    EmulatedUserspace,
    /// Signalled a zero-length ioeventfd.
    Wildcard,
    /// The page was faulted in, as MMIO; KVM's own code did the access.
    FaultedIn,
}

impl Outcome {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::FastKernel,
        Self::FastUserspace,
        Self::EmulatedKernel,
        Self::EmulatedUserspace,
        Self::Wildcard,
        Self::FaultedIn,
    ];
}

/// Direction and outcome in one number: where an access is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind(u8);

impl Kind {
    /// How many there are.
    const COUNT: usize = Outcome::ALL.len() * Direction::ALL.len();

    /// From its parts.
    #[inline(always)]
    pub const fn new(outcome: Outcome, direction: Direction) -> Self {
        Self(outcome as u8 * Direction::ALL.len() as u8 + direction as u8)
    }

    /// Of the fast path. Adding needs fewer instructions than choosing.
    #[inline(always)]
    pub const fn fast(direction: Direction, userspace: bool) -> Self {
        const USERSPACE: u8 = Direction::ALL.len() as u8;
        Self(Self::new(Outcome::FastKernel, direction).0 + USERSPACE * userspace as u8)
    }

    /// Outcomes of the emulator.
    pub const EMULATED: usize = 2;

    /// Its number among the kinds of the emulator.
    #[inline(always)]
    pub const fn emulated(self) -> usize {
        const FIRST: Kind = Kind::new(Outcome::EmulatedKernel, Direction::ALL[0]);
        (self.0 as usize).wrapping_sub(FIRST.0 as usize)
    }

    /// What became of it.
    pub const fn outcome(self) -> Outcome {
        Outcome::ALL[self.0 as usize / Direction::ALL.len() % Outcome::ALL.len()]
    }

    /// Which way it went.
    pub const fn direction(self) -> Direction {
        Direction::ALL[self.0 as usize % Direction::ALL.len()]
    }

    /// Whether the value was known when such an access was recorded: only the fast path looks, and
    /// what userspace answers comes later.
    const fn has_value(self) -> bool {
        match self.outcome() {
            Outcome::FastKernel => true,
            Outcome::FastUserspace => matches!(self.direction(), Direction::Write),
            _ => false,
        }
    }
}

/// An access that is done.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// Where it went.
    pub gpa: Gpa,
    /// What it was.
    pub kind: Kind,
    /// Bytes of the operand, 0 if unknown.
    pub size: u8,
    /// What was read or written, where [`Kind`] has a value at all.
    pub value: u64,
    /// How long it took, in cycles of the TSC.
    pub cycles: u64,
    /// The TSC when it was done.
    pub now: u64,
}

/// What is recorded of a page.
#[derive(Default)]
pub struct Record {
    gfn: Counter,
    counts: [Counter; Kind::COUNT],
    cycles: Counter,
    last_tsc: Counter,
    last_value: Counter,
    last_size: Byte,
    last_kind: Byte,
}

impl Record {
    /// One of a page that is yet to come.
    pub fn unused() -> Self {
        let record = Self::default();
        record.gfn.set(NO_GFN);
        record
    }

    /// Counts an access.
    #[inline(always)]
    pub fn add(&self, access: &Access) {
        let kind = access.kind.0;
        if let Some(count) = self.counts.get(usize::from(kind)) {
            count.inc();
        }
        self.cycles.add(access.cycles);
        self.last_tsc.set(access.now);
        self.last_value.set(access.value);
        self.last_size.set(access.size);
        self.last_kind.set(kind);
    }

    /// What is recorded now. Each number is right, but another access may come in between.
    fn page(&self) -> Page {
        let (last_size, last_kind) = (self.last_size.get(), Kind(self.last_kind.get()));
        let last_width = if last_kind.has_value() {
            width(self.last_value.get(), last_size)
        } else {
            UNKNOWN_WIDTH
        };
        Page {
            gfn: Gfn(self.gfn.get()),
            counts: core::array::from_fn(|kind| self.counts[kind].get()),
            cycles: self.cycles.get(),
            last_tsc: self.last_tsc.get(),
            last_size,
            last_width,
            last_direction: last_kind.direction(),
            last_outcome: last_kind.outcome(),
        }
    }
}

/// The significant bits of the low `size` bytes of a value.
fn width(value: u64, size: u8) -> u8 {
    let unused = u64::BITS.saturating_sub(u32::from(size) * u8::BITS);
    let mask = u64::MAX.checked_shr(unused).unwrap_or(0);
    (u64::BITS - (value & mask).leading_zeros()) as u8
}

/// What a vCPU has done to a page.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// The page.
    pub gfn: Gfn,
    counts: [u64; Kind::COUNT],
    /// Time spent, in cycles of the TSC.
    pub cycles: u64,
    /// The TSC at the end of the last access.
    pub last_tsc: u64,
    /// Of the last access: bytes, 0 if unknown.
    pub last_size: u8,
    /// Of the last access: significant bits of the value, or [`UNKNOWN_WIDTH`].
    pub last_width: u8,
    /// Of the last access.
    pub last_direction: Direction,
    /// Of the last access.
    pub last_outcome: Outcome,
}

impl Page {
    /// Accesses.
    pub fn count(&self) -> u64 {
        self.sum(|_| true)
    }

    /// Accesses in one direction.
    pub fn with_direction(&self, direction: Direction) -> u64 {
        self.sum(|kind| kind.direction() == direction)
    }

    /// Accesses with one of some outcomes.
    pub fn with_outcome(&self, outcomes: &[Outcome]) -> u64 {
        self.sum(|kind| outcomes.contains(&kind.outcome()))
    }

    /// Accesses that were completed in the kernel.
    pub fn kernel(&self) -> u64 {
        use Outcome::*;
        self.with_outcome(&[FastKernel, EmulatedKernel, Wildcard])
    }

    /// Accesses that exited to userspace.
    pub fn userspace(&self) -> u64 {
        use Outcome::*;
        self.with_outcome(&[FastUserspace, EmulatedUserspace])
    }

    /// Accesses by the fast path.
    pub fn fast(&self) -> u64 {
        use Outcome::*;
        self.with_outcome(&[FastKernel, FastUserspace])
    }

    fn sum(&self, select: impl Fn(Kind) -> bool) -> u64 {
        (0..)
            .zip(self.counts)
            .filter(|&(kind, _)| select(Kind(kind)))
            .fold(0, |sum, (_, count)| sum.wrapping_add(count))
    }
}

/// The records of a vCPU, in the order in which it came by the pages. `R` holds them.
pub struct Heat<R> {
    used: Counter,
    records: R,
}

impl<R: Deref<Target = [Record; PAGES]>> Heat<R> {
    /// Without any page. `records` must be unused.
    pub fn new(records: R) -> Self {
        Self {
            used: Counter::default(),
            records,
        }
    }

    /// The pages, and what was done to them.
    pub fn pages(&self) -> impl Iterator<Item = Page> + '_ {
        // A record is counted as used after its page was set, see `Recorder::take()`.
        let used = self.used.get() as usize;
        self.records.iter().take(used).map(Record::page)
    }

    /// How many pages there are.
    pub fn page_count(&self) -> usize {
        self.used.get() as usize
    }
}

/// Finds the record of a page, for the vCPU that writes them.
pub struct Recorder<H> {
    heat: H,
    /// The number of the record of the page that has taken this place, or [`FREE`].
    places: [u16; PLACES],
}

impl<R: Deref<Target = [Record; PAGES]>, H: Deref<Target = Heat<R>>> Recorder<H> {
    /// A recorder for records that are all unused.
    pub fn new(heat: H) -> Self {
        Self {
            heat,
            places: [FREE; PLACES],
        }
    }

    /// The record of a page, if the first look finds it.
    #[inline(always)]
    pub fn look<'a>(&'a self, gfn: Gfn) -> Option<&'a Record>
    where
        R: 'a,
    {
        // The number's low byte: there is a record of any such number, see `FREE`.
        let number = self.places[place(gfn)] as u8;
        let record = &self.heat.records[usize::from(number)];
        (record.gfn.get() == gfn.0).then_some(record)
    }

    /// Records an access. Returns whether there was room for its page.
    pub fn record(&mut self, access: &Access) -> bool {
        let number = self.find_or_take(access.gpa.gfn());
        if let Some(number) = number {
            self.heat.records[usize::from(number)].add(access);
        }
        number.is_some()
    }

    fn find_or_take(&mut self, gfn: Gfn) -> Option<u8> {
        let mut at = place(gfn);
        loop {
            match self.places[at] {
                FREE => return self.take(at, gfn),
                number if self.heat.records[usize::from(number)].gfn.get() == gfn.0 => {
                    return Some(number as u8);
                }
                _ => at = (at + 1) % PLACES,
            }
        }
    }

    /// Gives the next record to a new page, if there is one.
    fn take(&mut self, at: usize, gfn: Gfn) -> Option<u8> {
        let used = self.heat.page_count();
        let record = self.heat.records.get(used)?;
        record.gfn.set(gfn.0);
        self.heat.used.inc();
        self.places[at] = used as u16;
        Some(used as u8)
    }
}

/// Where to look for a page first.
#[inline(always)]
const fn place(gfn: Gfn) -> usize {
    ((gfn.0 as u32).wrapping_mul(HASH) >> (u32::BITS - PLACES.ilog2())) as usize
}

// The low byte of a number is an index, see `Recorder::look()`.
const _: () = assert!(PAGES == 1 << u8::BITS);
const _: () = assert!(Kind::COUNT <= u8::MAX as usize);
// What `Kind::fast()` adds, and `Kind::emulated()` subtracts.
const _: () = assert!(Outcome::FastUserspace as u8 == Outcome::FastKernel as u8 + 1);
const _: () = assert!(Outcome::EmulatedUserspace as u8 == Outcome::EmulatedKernel as u8 + 1);

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    type Owned = Heat<Box<[Record; PAGES]>>;

    fn heat() -> Owned {
        Heat::new(Box::new(core::array::from_fn(|_| Record::unused())))
    }

    fn access(gfn: u64, outcome: Outcome, direction: Direction) -> Access {
        Access {
            gpa: Gpa(gfn << 12 | 0x123),
            kind: Kind::new(outcome, direction),
            size: 4,
            value: 0x80,
            cycles: 7,
            now: 1000,
        }
    }

    fn write(gfn: u64) -> Access {
        access(gfn, Outcome::FastKernel, Direction::Write)
    }

    fn only_page(heat: &Owned) -> Page {
        assert_eq!(heat.page_count(), 1);
        heat.pages().next().unwrap()
    }

    #[test]
    fn a_kind_keeps_its_parts() {
        for outcome in Outcome::ALL {
            for direction in Direction::ALL {
                let kind = Kind::new(outcome, direction);
                assert_eq!((kind.outcome(), kind.direction()), (outcome, direction));
            }
        }
    }

    #[test]
    fn accesses_are_counted_by_kind() {
        let heat = heat();
        let mut recorder = Recorder::new(&heat);
        for outcome in Outcome::ALL {
            for direction in Direction::ALL {
                assert!(recorder.record(&access(5, outcome, direction)));
            }
        }
        let page = only_page(&heat);
        assert_eq!(page.gfn, Gfn(5));
        assert_eq!(page.count(), 18);
        assert_eq!(page.with_direction(Direction::Read), 6);
        assert_eq!(page.with_direction(Direction::Write), 6);
        for outcome in Outcome::ALL {
            assert_eq!(page.with_outcome(&[outcome]), 3);
        }
        assert_eq!(
            page.with_outcome(&[Outcome::FastKernel, Outcome::Wildcard]),
            6
        );
        assert_eq!(page.cycles, 18 * 7);
    }

    #[test]
    fn the_last_access_is_remembered() {
        let heat = heat();
        let mut recorder = Recorder::new(&heat);
        for (value, width) in [(0, 0), (1, 1), (0x80, 8), (u64::MAX, 64)] {
            let last = Access {
                value,
                size: 8,
                now: value ^ 55,
                ..write(9)
            };
            recorder.record(&last);
            let page = only_page(&heat);
            assert_eq!((page.last_size, page.last_width), (8, width));
            assert_eq!(page.last_tsc, value ^ 55);
            assert_eq!(page.last_direction, Direction::Write);
            assert_eq!(page.last_outcome, Outcome::FastKernel);
        }
        for (outcome, direction) in [
            (Outcome::FastUserspace, Direction::Read),
            (Outcome::EmulatedKernel, Direction::Write),
            (Outcome::Wildcard, Direction::Unknown),
        ] {
            recorder.record(&access(9, outcome, direction));
            assert_eq!(only_page(&heat).last_width, UNKNOWN_WIDTH, "{outcome:?}");
        }
    }

    #[test]
    fn the_first_pages_have_room_and_no_more() {
        let heat = heat();
        let mut recorder = Recorder::new(&heat);
        for turn in 1..=3 {
            for gfn in 0..PAGES as u64 + 50 {
                assert_eq!(recorder.record(&write(gfn)), gfn < PAGES as u64, "{gfn}");
            }
            assert_eq!(heat.page_count(), PAGES);
            assert!(heat.pages().all(|page| page.count() == turn));
        }
        let gfns: Vec<u64> = heat.pages().map(|page| page.gfn.0).collect();
        assert_eq!(gfns, (0..PAGES as u64).collect::<Vec<_>>());
    }

    /// Pages that all want the same place, among them the first and the last.
    #[test]
    fn pages_that_collide_are_told_apart() {
        let heat = heat();
        let mut recorder = Recorder::new(&heat);
        let wanted = place(Gfn(0xfee00));
        let gfns: Vec<u64> = (0xfee00..)
            .filter(|&gfn| place(Gfn(gfn)) == wanted)
            .take(PAGES)
            .collect();
        for (times, gfn) in (1..).zip(&gfns) {
            for _ in 0..times {
                assert!(recorder.record(&write(*gfn)));
            }
        }
        for (times, page) in (1..).zip(heat.pages()) {
            assert_eq!((page.gfn.0, page.count()), (gfns[times - 1], times as u64));
        }
    }

    #[test]
    fn counts_are_those_of_a_map() {
        let heat = heat();
        let mut recorder = Recorder::new(&heat);
        let mut model: HashMap<u64, u64> = HashMap::new();
        let mut state = 1u64;
        for _ in 0..100_000 {
            // A linear congruential generator; Knuth's MMIX.
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let gfn = (state >> 33) % 300 * 0x1_0001;
            let room = model.len() < PAGES || model.contains_key(&gfn);
            assert_eq!(recorder.record(&write(gfn)), room);
            if room {
                *model.entry(gfn).or_default() += 1;
            }
        }
        let recorded: HashMap<u64, u64> = heat.pages().map(|p| (p.gfn.0, p.count())).collect();
        assert_eq!(recorded, model);
    }
}
