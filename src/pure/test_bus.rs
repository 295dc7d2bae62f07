// SPDX-License-Identifier: GPL-2.0

//! A bus for tests, with KVM's search as C has it.

use crate::{
    addr::Gpa,
    iodev::{Again, Answer, Bus, Range, Write}, //
};
use std::cell::RefCell;

#[derive(Clone, Copy, Debug)]
pub(super) struct Device {
    pub(super) addr: u64,
    pub(super) len: i32,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// With the data that it is for, if not for any.
    Ioeventfd(Option<u64>),
    /// A register of this module, for all of it.
    Own,
    /// One that takes values below.
    Other(u64),
}

#[derive(Default)]
pub(super) struct Devices {
    pub(super) generation: u64,
    pub(super) devices: Vec<Device>,
    /// Who was asked, or signalled without being asked.
    pub(super) asked: RefCell<Vec<usize>>,
}

impl Devices {
    /// Calls `check` with some buses, each as it grows, and with writes to where devices may be,
    /// half of them twice.
    pub(super) fn random(buses: u32, mut check: impl FnMut(&Self, &Write)) {
        let mut seed = 0x2545_f491_4f6c_dd1du64;
        let mut random = move |below: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % below
        };
        // All are of one VM.
        let mut generation = 0;
        for _ in 0..buses {
            let mut bus = Self {
                generation,
                ..Self::default()
            };
            for _ in 0..random(12) {
                let addr = 0x1000 + random(24);
                bus.add(match random(5) {
                    0 => other(addr, 1 + random(16) as i32, random(4)),
                    4 => own(addr, 1 << random(4)),
                    1 => ioeventfd(addr, 0, None),
                    2 => ioeventfd(addr, 1 << random(4), None),
                    _ => ioeventfd(addr, 1 << random(4), Some(random(4))),
                });
                for _ in 0..20 {
                    let write = store(0xffe + random(28), random(4), 1 << random(4));
                    for _ in 0..=random(2) {
                        check(&bus, &write);
                    }
                }
            }
            generation = bus.generation;
        }
    }

    /// `kvm_io_bus_register_dev()`
    pub(super) fn add(&mut self, new: Device) {
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
    pub(super) fn as_c(&self, write: &Write) -> Option<usize> {
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

    pub(super) fn answer(&self, index: usize, write: &Write) -> Option<Answer<(u64, usize)>> {
        let device = &self.devices[index];
        let is_at = device.addr == write.gpa.0;
        let is_all = is_at && device.len == i32::from(write.size);
        let rung = |again| Answer::Rung {
            bell: (self.generation, index),
            again,
        };
        match device.kind {
            Kind::Other(below) => (write.value < below).then_some(Answer::Taken),
            Kind::Own => is_all.then_some(rung(Again::AnyValue)),
            Kind::Ioeventfd(_) if device.len == 0 => is_at.then_some(rung(Again::AnyValue)),
            Kind::Ioeventfd(None) => is_all.then_some(rung(Again::AnyValue)),
            Kind::Ioeventfd(Some(data)) => {
                (is_all && data == write.value).then_some(rung(Again::SameValue))
            }
        }
    }

    /// Whether a bell is a device that is one of this module, or an eventfd, and is current; it is
    /// rung then.
    fn rings(&self, bell: (u64, usize), is_own: bool) -> bool {
        let is_one = self.is_current(bell) && (self.devices[bell.1].kind == Kind::Own) == is_own;
        if is_one {
            self.asked.borrow_mut().push(bell.1);
        }
        is_one
    }
}

impl Bus for Devices {
    /// Generation and index.
    type Bell = (u64, usize);

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

    fn write(&self, index: usize, write: &Write) -> Answer<(u64, usize)> {
        self.asked.borrow_mut().push(index);
        self.answer(index, write).unwrap_or(Answer::Declined {
            always: !matches!(self.devices[index].kind, Kind::Other(_)),
        })
    }

    fn is_current(&self, (generation, _): (u64, usize)) -> bool {
        generation == self.generation
    }

    fn signal(&self, bell: (u64, usize)) -> bool {
        self.rings(bell, false)
    }

    fn write_again(&self, bell: (u64, usize), _: u64) -> bool {
        self.rings(bell, true)
    }
}

pub(super) fn store(gpa: u64, value: u64, size: u8) -> Write {
    Write {
        gpa: Gpa(gpa),
        value,
        size,
    }
}

pub(super) fn ioeventfd(addr: u64, len: i32, data: Option<u64>) -> Device {
    Device {
        addr,
        len,
        kind: Kind::Ioeventfd(data),
    }
}

pub(super) fn own(addr: u64, len: i32) -> Device {
    Device {
        addr,
        len,
        kind: Kind::Own,
    }
}

/// One that takes values below another.
pub(super) fn other(addr: u64, len: i32, below: u64) -> Device {
    Device {
        addr,
        len,
        kind: Kind::Other(below),
    }
}
