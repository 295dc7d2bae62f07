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
    /// How many bytes: 1, 2, 4 or 8; or 0, of which only zero-length ioeventfds are asked.
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
    ///
    /// # Examples
    ///
    /// ```
    /// use core::cmp::Ordering;
    /// use kvm_mmio_ext::{addr::Gpa, iodev::Range};
    ///
    /// let queue = Range { addr: 0x1000, len: 4 };
    /// assert_eq!(queue.compare(Gpa(0x1000), 4), Ordering::Equal);
    /// // Not all of it: the access is another's.
    /// assert_eq!(queue.compare(Gpa(0x1000), 8), Ordering::Greater);
    /// assert_eq!(queue.compare(Gpa(0xffe), 4), Ordering::Less);
    /// ```
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

/// What can do a write in any context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BellKind {
    /// An ioeventfd's eventfd.
    Eventfd,
    /// A device of this program's.
    Device,
}

/// What a device answers to a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<B> {
    /// It was done by what does it again in any context.
    Rung {
        /// That, as long as the bus is the same.
        bell: B,
        /// By which writes it is rung, too.
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
    /// Names what has done a write, an ioeventfd or a device of this program's, as long as the bus
    /// is the same.
    type Bell: Copy;

    /// How many devices there are.
    fn count(&self) -> usize;

    /// What the device `index`, which is less than [`Bus::count`], is asked for.
    fn range(&self, index: usize) -> Range;

    /// Offers a write to the device `index`, which is less than [`Bus::count`].
    fn write(&self, index: usize, write: &Write) -> Answer<Self::Bell>;

    /// Whether a bell is of this state of the bus.
    fn is_current(&self, bell: Self::Bell) -> bool;

    /// Signals the eventfd that a bell is, if it is one and current. Returns whether it is. To be
    /// called in any context in which spinlocks may be taken.
    fn signal(&self, bell: Self::Bell) -> bool;

    /// Writes a value by the device that a bell is, if it is one and current: another write of the
    /// size and to the address that it stands for. Returns whether it is; otherwise nothing has
    /// happened. To be called in the same contexts.
    fn write_again(&self, bell: Self::Bell, value: u64) -> bool;
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
