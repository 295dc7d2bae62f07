// SPDX-License-Identifier: GPL-2.0

//! What the devices on an I/O bus are to those who look for one: the seam between KVM's buses and
//! a search.
//!
//! C header: [`include/kvm/iodev.h`](srctree/include/kvm/iodev.h).

use super::addr::Gpa;
use core::cmp::Ordering;

/// A write.
#[derive(Clone, Copy, Debug)]
pub struct Write {
    /// Where to.
    pub gpa: Gpa,
    /// Up to 8 bytes, the rest is 0.
    pub value: u64,
    /// How many bytes: 1, 2, 4 or 8.
    pub size: u8,
}

/// What a device is asked for: `struct kvm_io_range`.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    /// The first address.
    pub addr: u64,
    /// Bytes; 0 stands for accesses of any size that begin just there.
    pub len: i32,
}

impl Range {
    /// Whether an access can be offered to both this and another.
    pub fn overlaps(self, other: Self) -> bool {
        // No length stands for the place itself. The last byte, as the end may be no address.
        let last = |range: Self| range.addr + (range.len.max(1) as u64 - 1);
        self.addr <= last(other) && other.addr <= last(self)
    }

    /// Where an access lies: `kvm_io_bus_cmp()` with the access as the first operand.
    #[inline(always)]
    pub fn compare(self, gpa: Gpa, size: u8) -> Ordering {
        if gpa.0 < self.addr {
            return Ordering::Less;
        }
        let (end, last) = match self.len {
            0 => (self.addr, gpa.0),
            len => (
                self.addr.wrapping_add(len as u64),
                gpa.0.wrapping_add(size.into()),
            ),
        };
        if last > end {
            Ordering::Greater
        } else {
            Ordering::Equal
        }
    }
}

/// Which writes of the same size to the same address do the same, as long as the bus is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// Nobody knows: another device is asked before.
    Unknown,
    /// Those of the same value.
    SameValue,
    /// All.
    AnyValue,
}

/// What a device answers to a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<E> {
    /// An eventfd has been signalled.
    Signalled {
        /// Which one, as long as the bus is the same.
        eventfd: E,
        /// By which writes it is, too.
        again: Again,
    },
    /// A device of another kind has taken it.
    Taken,
    /// It is nothing for the device, and nothing has happened.
    Declined {
        /// It will decline the same write again, as ioeventfds do.
        always: bool,
    },
}

/// The devices of a bus, in its order. They do not change while it is looked at.
pub trait Bus {
    /// Names an eventfd that a device of the bus has signalled.
    type Eventfd: Copy;

    /// How many devices there are.
    fn count(&self) -> usize;

    /// What the device `index`, which is less than [`Bus::count`], is asked for.
    fn range(&self, index: usize) -> Range;

    /// Offers a write to the device `index`, which is less than [`Bus::count`].
    fn write(&self, index: usize, write: &Write) -> Answer<Self::Eventfd>;

    /// Whether the bus is still the one that an eventfd is from.
    fn is_current(&self, eventfd: Self::Eventfd) -> bool;

    /// Signals an eventfd again, if the bus is still the one that it is from. Returns whether it
    /// is. To be called in any context in which spinlocks may be taken.
    fn signal(&self, eventfd: Self::Eventfd) -> bool;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps() {
        let range = |addr, len| Range { addr, len };
        for (addr, len) in (8..16).flat_map(|addr| (0..8).map(move |len| (addr, len))) {
            for (addr2, len2) in (0..32).flat_map(|addr| (0..8).map(move |len| (addr, len))) {
                let has =
                    |addr: u64, len: i32, byte| byte >= addr && byte < addr + len.max(1) as u64;
                let wanted = (0..64).any(|byte| has(addr, len, byte) && has(addr2, len2, byte));
                let got = range(addr, len).overlaps(range(addr2, len2));
                assert_eq!(got, wanted, "{addr}+{len} {addr2}+{len2}");
            }
        }
        assert!(range(u64::MAX - 7, 8).overlaps(range(u64::MAX, 0)));
        assert!(!range(u64::MAX - 7, 8).overlaps(range(0, 8)));
    }
}
