// SPDX-License-Identifier: GPL-2.0

//! Instructions that the fast path has refused, so that it need not look at them each time.
//!
//! An instruction may change, and is looked at again now and then. Meanwhile some accesses more than
//! necessary go to the emulator, which is no harm; that two addresses are taken for one another is
//! none either.

use crate::pure::hash::mix;
use core::cell::Cell;

/// Places, a power of two: many, as a place is small and a guest may have many such instructions.
const PLACES: usize = 1 << PLACE_BITS;
const PLACE_BITS: u32 = 11;

/// How many refusals it takes until one instruction is looked at again.
const PATIENCE: u16 = 1000;

/// Why an instruction is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is none that can be decoded.
    Insn,
    /// It cannot be read, or not in one piece.
    Fetch,
}

/// The refused instructions of a vCPU. A place holds a mark of the address, and the reason in the
/// lowest bit; 0 is nothing. All zero, it holds none.
pub struct Refused {
    places: [Cell<u16>; PLACES],
    /// Refusals since one was forgotten.
    times: Cell<u16>,
}

impl Refused {
    /// None.
    pub const fn new() -> Self {
        Self {
            places: [const { Cell::new(0) }; PLACES],
            times: Cell::new(0),
        }
    }

    #[inline(always)]
    const fn place_and_mark(rip: u64) -> (usize, u16) {
        let hash = mix(rip);
        let place = (hash >> (64 - PLACE_BITS)) as usize;
        // The bits below those of the place, but for the lowest. Never 0.
        (place, (hash >> (48 - PLACE_BITS)) as u16 | 2)
    }

    /// Refuses an instruction from now on.
    ///
    /// # Examples
    ///
    /// ```
    /// use kvm_mmio_ext::pure::refused::{Reason, Refused};
    ///
    /// let refused = Refused::new();
    /// refused.insert(0x401000, Reason::Insn);
    /// assert_eq!(refused.find(0x401000), Some(Reason::Insn));
    /// assert_eq!(refused.find(0x401003), None);
    /// ```
    pub fn insert(&self, rip: u64, reason: Reason) {
        let (place, mark) = Self::place_and_mark(rip);
        self.places[place].set(mark & !1 | u16::from(reason == Reason::Fetch));
    }

    /// Why an instruction is refused, if it is. Now and then one is forgotten.
    #[inline(always)]
    pub fn find(&self, rip: u64) -> Option<Reason> {
        let (place, mark) = Self::place_and_mark(rip);
        let found = self.places[place].get();
        if (found ^ mark) & !1 != 0 {
            return None;
        }
        self.times.set(self.times.get() + 1);
        if self.times.get() == PATIENCE {
            self.times.set(0);
            self.places[place].set(0);
        }
        Some(if found & 1 == 0 {
            Reason::Insn
        } else {
            Reason::Fetch
        })
    }
}

impl Default for Refused {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_inserted() {
        let refused = Refused::new();
        assert_eq!(refused.find(0), None);
        refused.insert(0x1000, Reason::Insn);
        refused.insert(0x1003, Reason::Fetch);
        assert_eq!(refused.find(0x1000), Some(Reason::Insn));
        assert_eq!(refused.find(0x1003), Some(Reason::Fetch));
        let others = (0..100_000).filter(|&rip| refused.find(rip).is_some());
        assert_eq!(others.collect::<Vec<_>>(), [0x1000, 0x1003]);
    }

    #[test]
    fn looks_again_at_last() {
        let refused = Refused::new();
        refused.insert(7, Reason::Insn);
        let times = (0..)
            .take_while(|_: &u16| refused.find(7).is_some())
            .count();
        assert_eq!(times, usize::from(PATIENCE));
    }

    /// 512 call sites at 16 bytes or so from each other.
    #[test]
    fn holds_many() {
        let refused = Refused::new();
        let sites = || (0..512u64).map(|i| 0xffff_ffff_c000_0000 + i * 16 + i % 3);
        sites().for_each(|rip| refused.insert(rip, Reason::Insn));
        let found = sites().filter(|&rip| refused.find(rip).is_some()).count();
        assert!(found > 400, "{found}");
    }
}
