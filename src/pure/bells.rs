// SPDX-License-Identifier: GPL-2.0

//! Which eventfd a write signals, or which device of ours takes it, remembered of those before.
//!
//! This answers without a search what [`doorbell`](crate::pure::doorbell) finds on the bus, and with interrupts off. An
//! entry holds as long as neither the bus nor the memslots change: the first says that no device has
//! come or gone, the second that there is no memory at the address.

use crate::{
    addr::Gpa,
    generation::MemslotGeneration,
    iodev::{Again, BellKind, Bus, Write},
    pure::hash::spread_address, //
};

/// Doorbells that are remembered, a power of two: the queues of a large guest.
pub const PLACES: usize = 1 << PLACE_BITS;
const PLACE_BITS: u32 = 10;

/// A doorbell keeps its place until others have wanted it so many times.
const PATIENCE: u8 = 32;

/// A write, and what has done it, which does others as well.
#[repr(align(64))]
struct Bell<E> {
    /// Of the memslots then.
    slots: MemslotGeneration,
    gpa: u64,
    value: u64,
    /// The bits of the value that matter: all or none.
    mask: u64,
    size: u8,
    /// How many others wanted this place, as far as they count.
    wanted: u8,
    bell: Option<E>,
}

impl<E: Copy> Bell<E> {
    const NONE: Self = Self {
        slots: MemslotGeneration(0),
        gpa: 0,
        value: 0,
        mask: 0,
        size: 0,
        wanted: 0,
        bell: None,
    };

    /// Whether what has done that write does this, on the bus that this is of.
    #[inline(always)]
    fn is_rung_by(&self, write: &Write, slots: MemslotGeneration) -> bool {
        self.gpa == write.gpa.0
            && (self.value ^ write.value) & self.mask == 0
            && self.size == write.size
            && self.slots == slots
    }
}

/// What a vCPU remembers.
pub struct Bells<E>([Bell<E>; PLACES]);

impl<E: Copy> Bells<E> {
    /// Nothing is remembered.
    pub const fn new() -> Self {
        Self([const { Bell::NONE }; PLACES])
    }

    /// Whether it is worthwhile to find out more about a write to `gpa`.
    #[inline(always)]
    pub fn may_be_at(&self, gpa: Gpa) -> bool {
        self.0[place(gpa, 0)].gpa == gpa.0
    }

    /// Does a write by what has done such a one before. Returns whether that was so; `done` is told
    /// what it is. `slots` is the memslots' generation. Interrupts may be off.
    #[inline(always)]
    pub fn ring<B: Bus<Bell = E>>(
        &self,
        bus: &B,
        write: &Write,
        slots: MemslotGeneration,
        done: impl Fn(BellKind),
    ) -> bool {
        let Some(bell) = self.find(write, slots) else {
            return false;
        };
        // Of an older bus it does nothing. Told by a call in each case, rather than by a result that
        // every doorbell would pay for to look at again.
        if bus.signal(bell) {
            done(BellKind::Eventfd);
            return true;
        }
        let is_done = bus.write_again(bell, write.value);
        if is_done {
            done(BellKind::Device);
        }
        is_done
    }

    /// What has done such a write on its bus, as far as that is remembered.
    #[inline(always)]
    fn find(&self, write: &Write, slots: MemslotGeneration) -> Option<E> {
        let first = &self.0[place(write.gpa, 0)];
        if first.is_rung_by(write, slots) {
            return first.bell;
        }
        // One address for all queues of a device, told apart by their numbers.
        let own = &self.0[place(write.gpa, number(write))];
        if own.is_rung_by(write, slots) {
            return own.bell;
        }
        None
    }

    /// Remembers what has done a write to the devices of the bus. If there are more doorbells
    /// than places, the one that was there before mostly stays: rung in turn they would else drive
    /// each other out, and none would be found.
    pub fn remember<B: Bus<Bell = E>>(
        &mut self,
        bus: &B,
        write: &Write,
        slots: MemslotGeneration,
        (bell, again): (E, Again),
    ) {
        // Nobody can tell what is at the address while they change.
        if slots.update_in_progress() {
            return;
        }
        let mask = match again {
            Again::Unknown => return,
            Again::SameValue => u64::MAX,
            Again::AnyValue => 0,
        };
        let holds = |there: &Bell<E>| {
            there.slots == slots && there.bell.is_some_and(|bell| bus.is_current(bell))
        };
        let first = &self.0[place(write.gpa, 0)];
        let is_taken = first.gpa == write.gpa.0
            && holds(first)
            && first.size == write.size
            && first.value != write.value;
        // The first at an address is where one looks for any of them. What has no length is on a bus of
        // its own, and mostly out of the way of those that have.
        let place = if is_taken && mask != 0 || write.size == 0 {
            place(write.gpa, number(write))
        } else {
            place(write.gpa, 0)
        };
        let there = &mut self.0[place];
        let is_other = holds(there) && (there.gpa != write.gpa.0 || is_taken);
        if is_other {
            there.wanted = (there.wanted + 1) % PATIENCE;
            if there.wanted != 0 {
                return;
            }
        }
        *there = Bell {
            slots,
            gpa: write.gpa.0,
            value: write.value,
            mask,
            size: write.size,
            wanted: 0,
            bell: Some(bell),
        };
    }
}

impl<E: Copy> Default for Bells<E> {
    fn default() -> Self {
        Self::new()
    }
}

/// A number other than 0 for the value of a write.
#[inline(always)]
const fn number(write: &Write) -> u64 {
    write.value.wrapping_add(1).rotate_right(24)
}

/// Queues lie in step and have small numbers: they all have places of their own.
#[inline(always)]
const fn place(gpa: Gpa, number: u64) -> usize {
    spread_address(gpa.0 ^ number, PLACE_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        iodev::{Answer, Range},
        pure::{
            doorbell,
            test_bus::{ioeventfd, other, own, store, Devices}, //
        },
    };
    use std::{cell::Cell, marker::PhantomData};

    const NOW: MemslotGeneration = MemslotGeneration(2);

    /// A bus that never changes.
    struct Still<E>(PhantomData<E>);

    impl<E: Copy> Bus for Still<E> {
        type Bell = E;

        fn count(&self) -> usize {
            0
        }

        fn range(&self, _: usize) -> Range {
            unreachable!()
        }

        fn write(&self, _: usize, _: &Write) -> Answer<E> {
            unreachable!()
        }

        fn is_current(&self, _: E) -> bool {
            true
        }

        fn signal(&self, _: E) -> bool {
            true
        }

        fn write_again(&self, _: E, _: u64) -> bool {
            unreachable!()
        }
    }

    /// Remembers a write to a bus that never changes.
    fn insert<E: Copy>(bells: &mut Bells<E>, write: &Write, again: Again, bell: E) {
        bells.remember(&Still(PhantomData), write, NOW, (bell, again));
    }

    fn write(gpa: u64, value: u64) -> Write {
        Write {
            gpa: Gpa(gpa),
            value,
            size: 4,
        }
    }

    /// How many of these doorbells are found once each has been rung.
    fn found(writes: &[Write], again: Again) -> usize {
        let mut bells = Bells::new();
        for (number, write) in writes.iter().enumerate() {
            insert(&mut bells, write, again, number);
        }
        let is_found = |&(number, write): &(usize, &Write)| {
            let found = bells.find(write, NOW);
            assert!(found.is_none_or(|found| found == number), "{write:?}");
            found.is_some() && bells.may_be_at(write.gpa)
        };
        writes.iter().enumerate().filter(is_found).count()
    }

    #[test]
    fn queues_have_places_of_their_own() {
        for step in [2, 4, 8, 0x1000] {
            let pci: Vec<_> = (0..256).map(|i| write(0xfeb0_3000 + i * step, i)).collect();
            assert!(found(&pci, Again::AnyValue) >= 250, "{step:#x}");
            assert!(found(&pci, Again::SameValue) >= 250, "{step:#x}");
        }
    }

    #[test]
    fn queues_share_an_address() {
        let mmio: Vec<_> = (0..32).map(|i| write(0xd000_0050, i)).collect();
        assert!(found(&mmio, Again::SameValue) >= 31);
    }

    /// How many of some doorbells are found each time when they are rung in turn.
    fn found_in_turn(number: u64) -> u64 {
        let mut bells = Bells::new();
        let mut found = 0;
        for round in 0..20 {
            for queue in 0..number {
                let write = write(0xfeb0_3000 + 4 * queue, queue);
                match bells.find(&write, NOW) {
                    Some(eventfd) => {
                        assert_eq!(eventfd, queue);
                        found += u64::from(round >= 10);
                    }
                    None => insert(&mut bells, &write, Again::AnyValue, queue),
                }
            }
        }
        found / 10
    }

    #[test]
    fn as_many_as_there_are_places_for_or_more() {
        // Some share a place, and one may just be changing hands.
        for (number, at_least) in [(900, 840), (2000, 900)] {
            let found = found_in_turn(number);
            assert!(found >= at_least, "{found} of {number}");
        }
    }

    #[test]
    fn gives_way_to_what_is_rung() {
        let mut bells = Bells::new();
        let old = write(0x1000, 1);
        insert(&mut bells, &old, Again::AnyValue, 'a');
        let new = (1..)
            .map(|i| write(0x1000 + i * 8, 1))
            .find(|new| place(new.gpa, 0) == place(old.gpa, 0));
        let new = new.unwrap();
        insert(&mut bells, &new, Again::AnyValue, 'b');
        assert_eq!(bells.find(&old, NOW), Some('a'));
        for _ in 1..PATIENCE {
            assert_eq!(bells.find(&new, NOW), None);
            insert(&mut bells, &new, Again::AnyValue, 'b');
        }
        assert_eq!(bells.find(&new, NOW), Some('b'));
        assert_eq!(bells.find(&old, NOW), None);
    }

    #[test]
    fn holds_for_a_state_only() {
        let (mut bus, mut bells) = (Devices::default(), Bells::new());
        let write = store(0x1000, 1, 4);
        assert!(!ring(&bells, &bus, &store(0, 0, 0), MemslotGeneration(0)));
        bus.add(ioeventfd(0x1000, 4, Some(1)));
        assert!(search(&mut bells, &bus, &write, NOW));
        assert!(ring(&bells, &bus, &write, NOW));
        assert!(!ring(&bells, &bus, &write, MemslotGeneration(4)));
        bus.add(ioeventfd(0x2000, 4, None));
        assert!(!ring(&bells, &bus, &write, NOW));
    }

    #[test]
    fn devices_take_all_values() {
        let (mut bus, mut bells) = (Devices::default(), Bells::new());
        bus.add(own(0x1000, 4));
        assert!(search(&mut bells, &bus, &store(0x1000, 1, 4), NOW));
        let kinds = Cell::new(0);
        for value in [0, 1, u64::from(u32::MAX)] {
            let count = |kind| kinds.set(kinds.get() + u32::from(kind == BellKind::Device));
            assert!(bells.ring(&bus, &store(0x1000, value, 4), NOW, count));
        }
        assert_eq!(kinds.get(), 3);
        assert!(!ring(&bells, &bus, &store(0x1000, 1, 2), NOW));
    }

    #[test]
    fn is_for_what_was_said() {
        let mut bells = Bells::new();
        insert(&mut bells, &write(0x1000, 1), Again::SameValue, 'a');
        insert(&mut bells, &write(0x2000, 1), Again::AnyValue, 'b');
        insert(&mut bells, &write(0x3000, 1), Again::Unknown, 'c');
        assert_eq!(bells.find(&write(0x1000, 2), NOW), None);
        assert_eq!(bells.find(&write(0x2000, 2), NOW), Some('b'));
        assert_eq!(bells.find(&write(0x3000, 1), NOW), None);
        let wide = Write {
            size: 8,
            ..write(0x2000, 2)
        };
        assert_eq!(bells.find(&wide, NOW), None);
    }

    type DeviceBells = Bells<(u64, usize)>;

    /// Whether what is remembered does a write.
    fn ring(bells: &DeviceBells, bus: &Devices, write: &Write, slots: MemslotGeneration) -> bool {
        let kind = Cell::new(None);
        let is_done = bells.ring(bus, write, slots, |done| kind.set(Some(done)));
        assert_eq!(kind.get().is_some(), is_done);
        is_done
    }

    /// Whether a device takes a write.
    fn search(
        bells: &mut DeviceBells,
        bus: &Devices,
        write: &Write,
        slots: MemslotGeneration,
    ) -> bool {
        let answer = doorbell::write(bus, write);
        if let Some(Answer::Rung { bell, again }) = answer {
            bells.remember(bus, write, slots, (bell, again));
        }
        answer.is_some()
    }

    /// What takes a write on any bus is what C finds, whether it is searched for or remembered, and
    /// also if that was on another bus.
    #[test]
    fn the_same_as_a_search() {
        let mut bells = Bells::new();
        let (mut rung, mut searched) = (0, 0);
        Devices::random(2000, |bus, write| {
            let expected = bus.as_c(write);
            let taker = if ring(&bells, bus, write, NOW) {
                rung += 1;
                expected
            } else {
                search(&mut bells, bus, write, NOW).then(|| expected.unwrap())
            };
            searched += 1;
            assert_eq!(taker, expected);
            let asked = bus.asked.take();
            if expected.is_some() {
                assert_eq!(asked.last().copied(), expected);
            }
        });
        assert!(rung > 1000 && rung < searched, "{rung} of {searched}");
    }

    /// Two that have the same place do not answer for each other.
    #[test]
    fn tells_addresses_apart() {
        const GPA: u64 = 0x1000;
        let (mut bus, mut bells) = (Devices::default(), Bells::new());
        bus.add(ioeventfd(GPA, 4, None));
        assert!(search(&mut bells, &bus, &store(GPA, 1, 4), NOW));
        assert!(ring(&bells, &bus, &store(GPA, 1, 4), NOW));

        let shares_the_place = |&gpa: &u64| place(Gpa(gpa), 0) == place(Gpa(GPA), 0);
        let others = (GPA + 4..).step_by(4).filter(shares_the_place);
        for gpa in others.take(3) {
            assert!(!ring(&bells, &bus, &store(gpa, 1, 4), NOW), "{gpa:#x}");
        }
    }

    /// A queue each, all at one address: the second time none but its own is asked.
    #[test]
    fn remembers_one_of_several() {
        let (mut bus, mut bells) = (Devices::default(), Bells::new());
        for queue in 0..8 {
            bus.add(ioeventfd(0x1050, 4, Some(queue)));
        }
        for queue in 0..8 {
            let write = store(0x1050, queue, 4);
            assert!(!ring(&bells, &bus, &write, NOW));
            assert!(search(&mut bells, &bus, &write, NOW));
            assert_eq!(bus.asked.take().len(), queue as usize + 1);
            assert!(ring(&bells, &bus, &write, NOW));
            assert_eq!(bus.asked.take(), [queue as usize]);
        }

        // Another comes, and its place in the order is in front.
        bus.add(other(0x1040, 0x20, 8));
        assert!(!ring(&bells, &bus, &store(0x1050, 7, 4), NOW));
    }

    #[test]
    fn remembers_nothing_while_memslots_change() {
        let (mut bus, mut bells) = (Devices::default(), Bells::new());
        bus.add(ioeventfd(0x1000, 4, None));
        let write = store(0x1000, 1, 4);
        let changing = MemslotGeneration(NOW.0 | 1 << 63);
        assert!(search(&mut bells, &bus, &write, changing));
        assert!(!ring(&bells, &bus, &write, changing));
    }
}
