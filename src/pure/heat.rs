// SPDX-License-Identifier: GPL-2.0

//! Heat: what one vCPU does to which guest page, or what each of its instructions does to it.
//!
//! A vCPU has a table of its own and is the only one to write it, so nothing is shared between
//! vCPUs. Any thread may read it meanwhile.

use super::{
    access_kind::Kind,
    hash::spread,
    heat_page::Page,
    stats_format::UNKNOWN_WIDTH, //
};
use crate::{
    addr::Gfn,
    kvm::counter::{Byte, Counter}, //
};
use core::ops::Deref;

/// Pages that a vCPU records, or pairs of a page and an instruction.
pub const PAGES: usize = 512;

/// Places to look for a page: twice as many as there are pages, so that there is always a free
/// one near.
const PLACES: usize = 2 * PAGES;

/// Spreads neighbouring pages over the places: 2^32 divided by the golden ratio (Knuth, The Art of
/// Computer Programming, volume 3, section 6.4).
const HASH: u32 = 0x9e37_79b9;

/// A page frame that no guest has.
const NO_GFN: u64 = u64::MAX;

/// With the number of a page frame, which is less than this: the record is of one instruction.
const OF_INSTRUCTION: u64 = 1 << 63;

/// What has a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// The page.
    pub gfn: Gfn,
    /// The address of the instruction, or of all that are not told apart.
    pub rip: Option<u64>,
}

/// What is found in a place that no page has taken.
pub static FREE: Record = Record::unused();

/// An access that is done.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// What it was.
    pub kind: Kind,
    /// Bytes, at most 8; 0 of [`Kind::WILDCARD`].
    pub size: u8,
    /// The TSC when it was done.
    pub now: u64,
}

/// What is recorded of a [`Site`].
pub struct Record {
    /// [`OF_INSTRUCTION`] included.
    gfn: Counter,
    rip: Counter,
    counts: [Counter; Kind::COUNT],
    cycles: Counter,
    last_tsc: Counter,
    last_value: Counter,
    last_size: Byte,
    last_kind: Byte,
}

impl Record {
    /// One of a page that is yet to come.
    pub const fn unused() -> Self {
        Self {
            gfn: Counter::new(NO_GFN),
            rip: Counter::new(0),
            counts: [const { Counter::new(0) }; Kind::COUNT],
            cycles: Counter::new(0),
            last_tsc: Counter::new(0),
            last_value: Counter::new(0),
            last_size: Byte::new(0),
            last_kind: Byte::new(0),
        }
    }

    /// Whether it is of a page, whose instructions are not told apart.
    #[inline(always)]
    fn is_of(&self, gfn: Gfn) -> bool {
        self.gfn.get() == gfn.0
    }

    fn is_at(&self, site: Site) -> bool {
        (self.gfn.get(), self.rip.get()) == site.key()
    }

    /// Counts an access.
    #[inline(always)]
    pub fn add(&self, access: &Access) {
        let kind = access.kind.0;
        if let Some(count) = self.counts.get(usize::from(kind)) {
            count.inc();
        }
        self.last_tsc.set(access.now);
        self.last_size.set(access.size);
        self.last_kind.set(kind);
    }

    /// Adds to the time spent, in cycles of the TSC.
    #[inline(always)]
    pub fn add_cycles(&self, cycles: u64) {
        self.cycles.add(cycles);
    }

    /// Sets the value of the last access, which [`Kind::fast`] may have.
    #[inline(always)]
    pub fn set_last_value(&self, value: u64) {
        self.last_value.set(value);
    }

    /// What is recorded now. Each number is right, but another access may come in between.
    fn page(&self) -> Page {
        let (last_size, last_kind) = (self.last_size.get(), Kind(self.last_kind.get()));
        let last_width = if last_kind.has_value() {
            width(self.last_value.get(), last_size)
        } else {
            UNKNOWN_WIDTH
        };
        let gfn = self.gfn.get();
        Page {
            gfn: Gfn(gfn & !OF_INSTRUCTION),
            rip: (gfn & OF_INSTRUCTION != 0).then(|| self.rip.get()),
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

/// Finds the record of a page, for the vCPU that writes them. To be made in place: it is too large
/// for a stack.
pub struct Recorder<'a, R> {
    /// The records, once there are any; all unused when they come.
    pub heat: Option<&'a Heat<R>>,
    /// The record of the page that has taken a place, or [`FREE`]. All are free to begin with.
    pub places: [&'a Record; PLACES],
}

impl<'a, R: Deref<Target = [Record; PAGES]>> Recorder<'a, R> {
    /// The record of a page, if the first look finds it.
    #[inline(always)]
    pub fn look(&self, gfn: Gfn) -> Option<&'a Record> {
        let record = self.places[place(gfn)];
        record.is_of(gfn).then_some(record)
    }

    /// The record of a site, however many places have to be looked at.
    pub fn find(&self, site: Site) -> Option<&'a Record> {
        let record = self.places[self.search(site)];
        record.is_at(site).then_some(record)
    }

    /// The record of a site, a new one if need be, as long as there is any.
    pub fn find_or_take(&mut self, site: Site) -> Option<&'a Record> {
        let at = self.search(site);
        let record = self.places[at];
        if record.is_at(site) {
            return Some(record);
        }
        self.take(at, site)
    }

    /// The place that a site has taken, or else a free one for it.
    fn search(&self, site: Site) -> usize {
        let mut at = site.place();
        loop {
            let record = self.places[at];
            if record.is_at(site) || record.is_of(Gfn(NO_GFN)) {
                return at;
            }
            at = (at + 1) % PLACES;
        }
    }

    /// Gives the next record to a new site, if there is one.
    fn take(&mut self, at: usize, site: Site) -> Option<&'a Record> {
        let heat = self.heat?;
        let record = heat.records.get(heat.page_count())?;
        let (gfn, rip) = site.key();
        record.gfn.set(gfn);
        record.rip.set(rip);
        heat.used.inc();
        self.places[at] = record;
        Some(record)
    }
}

impl Site {
    /// How it stands in its record.
    fn key(self) -> (u64, u64) {
        match self.rip {
            Some(rip) => (self.gfn.0 | OF_INSTRUCTION, rip),
            None => (self.gfn.0, 0),
        }
    }

    /// Where to look for it first.
    fn place(self) -> usize {
        match self.rip {
            Some(rip) => spread(rip.rotate_left(32) ^ self.gfn.0, PLACES.ilog2()),
            None => place(self.gfn),
        }
    }
}

/// Where to look for a page first.
#[inline(always)]
const fn place(gfn: Gfn) -> usize {
    ((gfn.0 as u32).wrapping_mul(HASH) >> (u32::BITS - PLACES.ilog2())) as usize
}

// There is always a free place, where a search ends.
const _: () = assert!(PAGES < PLACES);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::stats_format::{Direction, Outcome};
    use std::collections::HashMap;

    type Owned = Heat<Box<[Record; PAGES]>>;

    fn heat() -> Owned {
        Heat::new(Box::new([const { Record::unused() }; PAGES]))
    }

    fn recorder(heat: &Owned) -> Recorder<'_, Box<[Record; PAGES]>> {
        Recorder {
            heat: Some(heat),
            ..empty()
        }
    }

    /// No constant: rustc 1.85 has none that refer to cells.
    fn empty<'a>() -> Recorder<'a, Box<[Record; PAGES]>> {
        Recorder {
            heat: None,
            places: [&FREE; PLACES],
        }
    }

    fn access(kind: Kind) -> Access {
        Access {
            kind,
            size: 4,
            now: 1000,
        }
    }

    const WRITE: Kind = Kind::fast(true, false);

    /// Records a write; returns whether there is room for its page.
    fn write<R: Deref<Target = [Record; PAGES]>>(recorder: &mut Recorder<'_, R>, gfn: u64) -> bool {
        let record = recorder.find_or_take(of_page(gfn));
        record
            .inspect(|record| record.add(&access(WRITE)))
            .is_some()
    }

    fn of_page(gfn: u64) -> Site {
        Site {
            gfn: Gfn(gfn),
            rip: None,
        }
    }

    fn only_page(heat: &Owned) -> Page {
        assert_eq!(heat.page_count(), 1);
        heat.pages().next().unwrap()
    }

    #[test]
    fn accesses_are_counted_by_kind() {
        let heat = heat();
        let mut recorder = recorder(&heat);
        for (number, times) in (0..Kind::COUNT as u8).zip(1..) {
            for _ in 0..times {
                let record = recorder.find_or_take(of_page(5)).unwrap();
                record.add(&access(Kind(number)));
                record.add_cycles(7);
            }
        }
        let page = only_page(&heat);
        assert_eq!(page.gfn, Gfn(5));
        assert_eq!(page.count(), 45);
        assert_eq!(page.with_direction(Direction::Read), 1 + 3 + 5 + 7);
        assert_eq!(page.with_direction(Direction::Write), 2 + 4 + 6 + 8);
        assert_eq!(page.with_direction(Direction::Unknown), 9);
        assert_eq!(page.with_outcome(&[Outcome::EmulatedKernel]), 1 + 2);
        assert_eq!(page.with_outcome(&[Outcome::EmulatedUserspace]), 3 + 4);
        assert_eq!(page.fast(), 5 + 6 + 7 + 8);
        assert_eq!(page.kernel(), 1 + 2 + 5 + 6 + 9);
        assert_eq!(page.userspace(), 3 + 4 + 7 + 8);
        assert_eq!(page.cycles, 45 * 7);
    }

    #[test]
    fn the_last_access_is_remembered() {
        let heat = heat();
        let mut recorder = recorder(&heat);
        let record = recorder.find_or_take(of_page(9)).unwrap();
        for (value, width) in [(0, 0), (1, 1), (0x80, 8), (u64::MAX, 64)] {
            record.add(&Access {
                size: 8,
                now: value ^ 55,
                ..access(WRITE)
            });
            record.set_last_value(value);
            let page = only_page(&heat);
            assert_eq!((page.last_size, page.last_width), (8, width));
            assert_eq!(page.last_tsc, value ^ 55);
            assert_eq!(page.last_direction, Direction::Write);
            assert_eq!(page.last_outcome, Outcome::FastKernel);
        }
        for kind in [
            Kind::fast(false, true),
            Kind::emulated(true, false),
            Kind::WILDCARD,
        ] {
            record.add(&access(kind));
            assert_eq!(only_page(&heat).last_width, UNKNOWN_WIDTH, "{kind:?}");
        }
    }

    #[test]
    fn there_is_no_room_without_records() {
        let mut recorder = empty();
        assert!(recorder.look(Gfn(5)).is_none());
        assert!(!write(&mut recorder, 5));
        let heat = heat();
        recorder.heat = Some(&heat);
        assert!(recorder.look(Gfn(5)).is_none());
        assert!(write(&mut recorder, 5));
        assert!(recorder.look(Gfn(5)).is_some());
        assert!(recorder.look(Gfn(6)).is_none());
    }

    #[test]
    fn the_first_pages_have_room_and_no_more() {
        let heat = heat();
        let mut recorder = recorder(&heat);
        for turn in 1..=3 {
            for gfn in 0..PAGES as u64 + 50 {
                assert_eq!(write(&mut recorder, gfn), gfn < PAGES as u64, "{gfn}");
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
        let mut recorder = recorder(&heat);
        let wanted = place(Gfn(0xfee00));
        let gfns: Vec<u64> = (0xfee00..)
            .filter(|&gfn| place(Gfn(gfn)) == wanted)
            .take(PAGES)
            .collect();
        for (times, gfn) in (1..).zip(&gfns) {
            for _ in 0..times {
                assert!(write(&mut recorder, *gfn));
            }
        }
        for (times, page) in (1..).zip(heat.pages()) {
            assert_eq!((page.gfn.0, page.count()), (gfns[times - 1], times as u64));
        }
    }

    /// Nor is the page itself one of them, nor an instruction at 0.
    #[test]
    fn instructions_are_told_apart() {
        let heat = heat();
        let mut recorder = recorder(&heat);
        let rips = [None, Some(0), Some(0x1000), Some(u64::MAX)];
        let sites: Vec<_> = [5, 6]
            .into_iter()
            .flat_map(|gfn| rips.map(|rip| Site { gfn: Gfn(gfn), rip }))
            .collect();
        for (times, &site) in (1..).zip(&sites) {
            assert!(recorder.find(site).is_none(), "{site:?}");
            for _ in 0..times {
                recorder.find_or_take(site).unwrap().add(&access(WRITE));
            }
            assert!(recorder.find(site).is_some(), "{site:?}");
        }
        assert!(heat
            .pages()
            .map(|page| (
                Site {
                    gfn: page.gfn,
                    rip: page.rip
                },
                page.count()
            ))
            .eq(sites.into_iter().zip(1..)));
        assert!(recorder
            .look(Gfn(5))
            .is_some_and(|record| record.page().rip.is_none()));
    }

    #[test]
    fn counts_are_those_of_a_map() {
        let heat = heat();
        let mut recorder = recorder(&heat);
        let mut model: HashMap<(u64, Option<u64>), u64> = HashMap::new();
        let mut state = 1u64;
        for _ in 0..100_000 {
            // A linear congruential generator; Knuth's MMIX.
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let gfn = (state >> 33) % 60 * 0x1_0001;
            let rip = match (state >> 40) % 10 {
                0 => None,
                number => Some(0xffff_ffff_8100_0000 + number * 0x37),
            };
            let site = Site { gfn: Gfn(gfn), rip };
            let room = model.len() < PAGES || model.contains_key(&(gfn, rip));
            let record = recorder.find_or_take(site);
            assert_eq!(record.is_some(), room);
            if let Some(record) = record {
                record.add(&access(WRITE));
                *model.entry((gfn, rip)).or_default() += 1;
            }
        }
        let recorded: HashMap<_, _> = heat
            .pages()
            .map(|page| ((page.gfn.0, page.rip), page.count()))
            .collect();
        assert_eq!(recorded, model);
        assert_eq!(recorded.len(), PAGES);
    }
}
