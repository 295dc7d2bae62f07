// SPDX-License-Identifier: GPL-2.0

//! Which device of the I/O bus takes a write, as `kvm_io_bus_write()` finds it.
//!
//! C bisects the bus with a callback, and calls each device at the address through a pointer. Here
//! the bisection is inlined, so that it costs a few instructions a step whatever a guest does: no
//! address or value has to be remembered. Only where several devices share an address (virtio-mmio
//! has an ioeventfd for each queue there, told apart by the data) it is remembered which of them
//! took a write: an ioeventfd takes one or not for its address, length and data alone, and no two
//! of a VM take the same (`ioeventfd_check_collision()`).

use crate::{
    addr::Gpa,
    iodev::{Again, Answer, Bus, Write},
    pure::hash::spread, //
};
use core::cmp::Ordering;

/// Writes that are remembered, a power of two.
const ENTRIES: usize = 1 << ENTRY_BITS;
const ENTRY_BITS: u32 = 6;

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

/// A write that an ioeventfd has taken before which only other ioeventfds come.
#[derive(Clone, Copy)]
struct Known {
    generation: u64,
    gpa: u64,
    value: u64,
    size: u8,
    index: u32,
}

impl Known {
    /// No write has no bytes.
    const NONE: Self = Self {
        generation: 0,
        gpa: 0,
        value: 0,
        size: 0,
        index: 0,
    };

    fn is(&self, write: &Write, generation: u64) -> bool {
        self.gpa == write.gpa.0
            && self.value == write.value
            && self.size == write.size
            && self.generation == generation
    }
}

/// What a vCPU remembers of writes to addresses that several devices share. All zero, it is nothing.
pub struct Doorbells([Known; ENTRIES]);

impl Doorbells {
    /// Nothing is remembered.
    pub const fn new() -> Self {
        Self([Known::NONE; ENTRIES])
    }

    /// Offers a write to the devices at its address, one after the other, until one takes it.
    /// `None` if none does.
    #[inline(always)]
    pub fn write<B: Bus>(&mut self, bus: &B, write: &Write) -> Option<Answer<B::Eventfd>> {
        let first = first_device(bus, write.gpa, write.size)?;
        if is_for(bus, first + 1, write.gpa, write.size) {
            return self.write_to_one_of_several(bus, first, write);
        }
        taken(bus.write(first, write))
    }

    #[inline(never)]
    fn write_to_one_of_several<B: Bus>(
        &mut self,
        bus: &B,
        first: usize,
        write: &Write,
    ) -> Option<Answer<B::Eventfd>> {
        let known = self.entry(write);
        if known.is(write, bus.generation()) && (known.index as usize) < bus.count() {
            return taken(again(
                bus.write(known.index as usize, write),
                Again::SameValue,
            ));
        }

        let mut first_to_take = true;
        for index in first.. {
            if !is_for(bus, index, write.gpa, write.size) {
                break;
            }
            match bus.write(index, write) {
                Answer::Declined { always } => first_to_take &= always,
                answer @ Answer::Signalled { .. } if first_to_take => {
                    *known = Known {
                        generation: bus.generation(),
                        gpa: write.gpa.0,
                        value: write.value,
                        size: write.size,
                        index: index as u32,
                    };
                    return Some(again(answer, Again::SameValue));
                }
                answer => return Some(again(answer, Again::Unknown)),
            }
        }
        None
    }

    /// The place of a write. Queues have small numbers as data, often with addresses in step.
    fn entry(&mut self, write: &Write) -> &mut Known {
        let key = write.gpa.0.rotate_left(32) ^ write.value;
        &mut self.0[spread(key, ENTRY_BITS)]
    }
}

impl Default for Doorbells {
    fn default() -> Self {
        Self::new()
    }
}

/// The same answer, with less known of other writes.
fn again<E>(answer: Answer<E>, again: Again) -> Answer<E> {
    match answer {
        Answer::Signalled { eventfd, .. } => Answer::Signalled { eventfd, again },
        other => other,
    }
}

/// `None` for what nobody has taken.
#[inline(always)]
fn taken<E>(answer: Answer<E>) -> Option<Answer<E>> {
    (!matches!(answer, Answer::Declined { .. })).then_some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iodev::Range;
    use std::cell::RefCell;

    #[derive(Clone, Copy, Debug)]
    struct Device {
        addr: u64,
        len: i32,
        /// That of an ioeventfd; none takes any value. `Err` for a device of another kind that
        /// takes values below.
        data: Result<Option<u64>, u64>,
    }

    #[derive(Default)]
    struct Devices {
        generation: u64,
        devices: Vec<Device>,
        /// Who was asked.
        asked: RefCell<Vec<usize>>,
    }

    impl Devices {
        /// `kvm_io_bus_register_dev()`
        fn add(&mut self, new: Device) {
            let after = |old: &Device| {
                let end = |device: &Device| match old.len {
                    0 => device.addr,
                    _ => device.addr + device.len as u64,
                };
                old.addr >= new.addr && end(old) > end(&new) || old.addr > new.addr
            };
            let at = self.devices.iter().position(after);
            self.devices.insert(at.unwrap_or(self.devices.len()), new);
            self.generation += 1;
        }

        /// `kvm_io_bus_cmp()` as C writes it.
        fn cmp(gpa: u64, size: u64, range: &Device) -> i32 {
            let (mut addr1, mut addr2) = (gpa, range.addr);
            if addr1 < addr2 {
                return -1;
            }
            if range.len != 0 {
                addr1 += size;
                addr2 += range.len as u64;
            }
            i32::from(addr1 > addr2)
        }

        /// `kvm_io_bus_write()` as C has it: who takes a write.
        fn as_c(&self, write: &Write) -> Option<usize> {
            let cmp = |i: usize| Self::cmp(write.gpa.0, write.size.into(), &self.devices[i]);
            let (mut base, mut num) = (0, self.devices.len());
            let mut off = loop {
                if num == 0 {
                    return None;
                }
                let pivot = base + (num >> 1);
                match cmp(pivot) {
                    0 => break pivot,
                    1 => {
                        base = pivot + 1;
                        num -= 1;
                    }
                    _ => (),
                }
                num >>= 1;
            };
            while off > 0 && cmp(off - 1) == 0 {
                off -= 1;
            }
            (off..self.devices.len())
                .take_while(|&i| cmp(i) == 0)
                .find(|&i| self.answer(i, write).is_some())
        }

        fn answer(&self, index: usize, write: &Write) -> Option<Answer<usize>> {
            let device = &self.devices[index];
            let signalled = Answer::Signalled {
                eventfd: index,
                again: match device.data {
                    Ok(Some(_)) => Again::SameValue,
                    _ => Again::AnyValue,
                },
            };
            match device.data {
                Err(below) => (write.value < below).then_some(Answer::Taken),
                Ok(data) => (device.addr == write.gpa.0
                    && (device.len == 0
                        || device.len == i32::from(write.size)
                            && data.is_none_or(|data| data == write.value)))
                .then_some(signalled),
            }
        }
    }

    impl Bus for Devices {
        type Eventfd = usize;

        fn generation(&self) -> u64 {
            self.generation
        }

        fn count(&self) -> usize {
            self.devices.len()
        }

        fn range(&self, index: usize) -> Range {
            let device = &self.devices[index];
            Range {
                addr: device.addr,
                len: device.len,
            }
        }

        fn write(&self, index: usize, write: &Write) -> Answer<usize> {
            self.asked.borrow_mut().push(index);
            self.answer(index, write).unwrap_or(Answer::Declined {
                always: self.devices[index].data.is_ok(),
            })
        }
    }

    fn write(gpa: u64, value: u64, size: u8) -> Write {
        Write {
            gpa: Gpa(gpa),
            value,
            size,
        }
    }

    fn ioeventfd(addr: u64, len: i32, data: Option<u64>) -> Device {
        Device {
            addr,
            len,
            data: Ok(data),
        }
    }

    fn signalled(eventfd: usize, again: Again) -> Option<Answer<usize>> {
        Some(Answer::Signalled { eventfd, again })
    }

    /// Who has taken a write, whatever is known of others.
    fn taker(answer: Option<Answer<usize>>) -> Option<Answer<usize>> {
        answer.map(|answer| again(answer, Again::Unknown))
    }

    /// Random buses that change, and random writes: always the device that C finds.
    #[test]
    fn finds_who_c_finds() {
        let mut seed = 0x2545_f491_4f6c_dd1du64;
        let mut random = move |below: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % below
        };
        let mut taken = 0;
        for _ in 0..2000 {
            let (mut bus, mut doorbells) = (Devices::default(), Doorbells::new());
            for _ in 0..random(12) {
                let addr = 0x1000 + random(24);
                bus.add(match random(4) {
                    0 => Device {
                        addr,
                        len: 1 + random(16) as i32,
                        data: Err(random(4)),
                    },
                    1 => ioeventfd(addr, 0, None),
                    2 => ioeventfd(addr, 1 << random(4), None),
                    _ => ioeventfd(addr, 1 << random(4), Some(random(4))),
                });
                for _ in 0..20 {
                    let write = write(0xffe + random(28), random(4), 1 << random(4));
                    let expected = bus.as_c(&write);
                    let answer = doorbells.write(&bus, &write);
                    let expected_answer = expected.and_then(|i| bus.answer(i, &write));
                    assert_eq!(taker(answer), taker(expected_answer));
                    if let Some(Answer::Signalled { again, .. }) = answer {
                        holds_again(&bus, &write, expected, again);
                    }
                    if answer.is_some() {
                        assert_eq!(bus.asked.borrow().last().copied(), expected);
                        taken += 1;
                    }
                    bus.asked.borrow_mut().clear();
                }
            }
        }
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

    /// A queue each, all at one address: the second time only one is asked.
    #[test]
    fn remembers_one_of_several() {
        let (mut bus, mut doorbells) = (Devices::default(), Doorbells::new());
        for queue in 0..8 {
            bus.add(ioeventfd(0x1050, 4, Some(queue)));
        }
        for round in 0..3 {
            for queue in 0..8 {
                let answer = doorbells.write(&bus, &write(0x1050, queue, 4));
                assert_eq!(answer, signalled(queue as usize, Again::SameValue));
                let asked = bus.asked.take();
                assert_eq!(asked.len(), if round == 0 { queue as usize + 1 } else { 1 });
            }
        }

        // Another comes, and its place in the order is in front.
        bus.add(Device {
            addr: 0x1040,
            len: 0x20,
            data: Err(8),
        });
        let write = write(0x1050, 7, 4);
        let answer = doorbells.write(&bus, &write);
        let expected = bus.as_c(&write).and_then(|i| bus.answer(i, &write));
        assert_eq!(taker(answer), taker(expected));
    }

    /// What may take a write today and not tomorrow is asked each time.
    #[test]
    fn asks_other_devices_first() {
        let (mut bus, mut doorbells) = (Devices::default(), Doorbells::new());
        bus.devices = vec![
            Device {
                addr: 0x1000,
                len: 0x100,
                data: Err(1),
            },
            ioeventfd(0x1000, 4, Some(1)),
        ];
        for _ in 0..2 {
            let answer = doorbells.write(&bus, &write(0x1000, 1, 4));
            assert_eq!(answer, signalled(1, Again::Unknown));
            assert_eq!(bus.asked.take(), [0, 1]);
        }
    }

    #[test]
    fn nobody_is_there() {
        let (mut bus, mut doorbells) = (Devices::default(), Doorbells::new());
        assert_eq!(doorbells.write(&bus, &write(0, 0, 4)), None);
        bus.add(ioeventfd(0x1000, 4, Some(1)));
        for (gpa, value, size) in [
            (0x1000, 2, 4),
            (0x1000, 1, 8),
            (0xffc, 1, 4),
            (0x1004, 1, 4),
            (!0, 1, 1),
        ] {
            assert_eq!(doorbells.write(&bus, &write(gpa, value, size)), None);
        }
    }
}
