// SPDX-License-Identifier: GPL-2.0

//! Which device of the I/O bus takes a write, as `kvm_io_bus_write()` finds it.
//!
//! C bisects the bus with a callback, and calls each device at the address through a pointer. Here
//! the bisection is inlined, so that it costs a few instructions a step whatever a guest does.

use crate::{
    addr::Gpa,
    iodev::{Again, Answer, Bus, Write}, //
};
use core::cmp::Ordering;

/// The first of the devices that an access is offered to: `kvm_io_bus_get_first_dev()`.
#[inline(always)]
pub fn first_device(bus: &impl Bus, gpa: Gpa, size: u8) -> Option<usize> {
    // As `bsearch()` halves: of ranges that overlap, C may miss some, and so must this.
    let (mut base, mut count) = (0, bus.count());
    while count > 0 {
        let middle = base + (count >> 1);
        match bus.range(middle).compare(gpa, size) {
            Ordering::Equal => return Some(first_of_group(bus, middle, gpa, size)),
            Ordering::Greater => {
                base = middle + 1;
                count -= 1;
            }
            Ordering::Less => (),
        }
        count >>= 1;
    }
    None
}

#[inline(always)]
fn first_of_group(bus: &impl Bus, mut index: usize, gpa: Gpa, size: u8) -> usize {
    while index > 0 && is_for(bus, index - 1, gpa, size) {
        index -= 1;
    }
    index
}

/// Whether the device `index`, if there is one, is offered an access.
#[inline(always)]
fn is_for(bus: &impl Bus, index: usize, gpa: Gpa, size: u8) -> bool {
    index < bus.count() && bus.range(index).compare(gpa, size) == Ordering::Equal
}

/// Offers a write to the devices at its address, one after the other, until one takes it. `None` if
/// none does.
#[inline(always)]
pub fn write<B: Bus>(bus: &B, write: &Write) -> Option<Answer<B::Bell>> {
    let first = first_device(bus, write.gpa, write.size)?;
    if is_for(bus, first + 1, write.gpa, write.size) {
        return write_to_one_of_several(bus, first, write);
    }
    match bus.write(first, write) {
        Answer::Declined { .. } => None,
        answer => Some(answer),
    }
}

/// The same from the first of several devices on. virtio-mmio has an ioeventfd for each queue at one
/// address, told apart by the data: such a one takes a write or not for its address, length and data
/// alone, and no two of a VM take the same (`ioeventfd_check_collision()`).
#[inline(never)]
fn write_to_one_of_several<B: Bus>(
    bus: &B,
    first: usize,
    write: &Write,
) -> Option<Answer<B::Bell>> {
    let mut known = Again::SameValue;
    for index in first.. {
        if !is_for(bus, index, write.gpa, write.size) {
            break;
        }
        match bus.write(index, write) {
            Answer::Declined { always: true } => (),
            Answer::Declined { always: false } => known = Again::Unknown,
            answer => return Some(again(answer, known)),
        }
    }
    None
}

/// The same answer, with less known of other writes.
fn again<E>(answer: Answer<E>, again: Again) -> Answer<E> {
    match answer {
        Answer::Rung { bell, .. } => Answer::Rung { bell, again },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::test_bus::{ioeventfd, other, store, Devices};

    /// Random buses, and random writes: always the device that C finds.
    #[test]
    fn finds_who_c_finds() {
        let mut taken = 0;
        Devices::random(2000, |bus, write| {
            let expected = bus.as_c(write);
            let answer = super::write(bus, write);
            let as_c = expected.and_then(|i| bus.answer(i, write));
            match (answer, as_c) {
                (Some(Answer::Rung { bell, again }), Some(Answer::Rung { bell: c, .. })) => {
                    assert_eq!(bell, c);
                    holds_again(bus, write, expected, again);
                }
                _ => assert_eq!(answer, as_c),
            }
            let asked = bus.asked.take();
            if expected.is_some() {
                assert_eq!(asked.last().copied(), expected);
                taken += 1;
            }
        });
        assert!(taken > 10_000, "{taken}");
    }

    /// What is said of other writes is so with C.
    fn holds_again(bus: &Devices, write: &Write, taker: Option<usize>, again: Again) {
        for value in 0..5 {
            let other = Write { value, ..*write };
            if again == Again::AnyValue || again == Again::SameValue && value == write.value {
                assert_eq!(bus.as_c(&other), taker, "{other:?} as {write:?}");
            }
        }
    }

    /// What may take a write today and not tomorrow is asked each time.
    #[test]
    fn asks_other_devices_first() {
        let bus = Devices {
            devices: vec![other(0x1000, 0x100, 1), ioeventfd(0x1000, 4, Some(1))],
            ..Devices::default()
        };
        let answer = super::write(&bus, &store(0x1000, 1, 4));
        assert_eq!(
            answer,
            Some(Answer::Rung {
                bell: (0, 1),
                again: Again::Unknown
            })
        );
        assert_eq!(bus.asked.take(), [0, 1]);
    }

    #[test]
    fn nobody_is_there() {
        let mut bus = Devices::default();
        assert_eq!(super::write(&bus, &store(0, 0, 4)), None);
        bus.add(ioeventfd(0x1000, 4, Some(1)));
        for (gpa, value, size) in [
            (0x1000, 2, 4),
            (0x1000, 1, 8),
            (0xffc, 1, 4),
            (0x1004, 1, 4),
            (!0, 1, 1),
        ] {
            assert_eq!(super::write(&bus, &store(gpa, value, size)), None);
        }
    }
}
