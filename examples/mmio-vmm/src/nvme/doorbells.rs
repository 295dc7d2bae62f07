// SPDX-License-Identifier: GPL-2.0
//! Tails and heads of queues, sections 3.1.24 and 3.1.25.
//!
//! Where the guest may have pages as memory each doorbell has one of its own, and those of heads are
//! such memory: nobody waits for a head. The controller looks at it when it has a completion to put.
//! Elsewhere they share a page, as KVM remembers one page of MMIO.

use anyhow::Result;
use vmm_sys_util::eventfd::EventFd;

use crate::layout::PAGE;
use crate::page::RegisterPage;
use crate::wiring::{Wiring, Write};

/// The admin queue's pair and one of I/O.
pub const QUEUES: usize = 2;
/// How many doorbells there are, and pages for them.
pub const DOORBELLS: usize = 2 * QUEUES;

/// Doorbells by number: the tail of a queue's submissions, where its driver puts the next command, is twice
/// the queue's; the head of its completions, where it takes the next one, follows.
#[derive(Clone)]
pub struct Doorbells {
    words: RegisterPage,
    /// How far they are from one another, as the capabilities have it: 4 bytes times 2 to this.
    pub stride: u32,
}

impl Doorbells {
    /// All are 0. Each may be in a page of its own.
    pub fn new(apart: bool) -> Result<Self> {
        let words = RegisterPage::new(DOORBELLS)?;
        let stride = if apart { PAGE.ilog2() - 2 } else { 0 };
        Ok(Self { words, stride })
    }

    /// The number of the one at that offset.
    pub fn at(&self, offset: u64) -> Option<usize> {
        (0..DOORBELLS).find(|&number| u64::from(self.offset(number)) == offset & !3)
    }

    fn offset(&self, number: usize) -> u32 {
        (4 * number as u32) << self.stride
    }

    /// What the driver has written last.
    pub fn get(&self, number: usize) -> u32 {
        self.words.get(self.offset(number))
    }

    /// In the place of the driver.
    pub fn set(&self, number: usize, value: u32) {
        self.words.set(self.offset(number), value);
    }

    /// What the kernel does of them, which are at `base`: they keep their values, and tails ring.
    pub fn wire(&self, base: u64, tails: &EventFd, wiring: &mut Wiring) -> Result<()> {
        for number in 0..DOORBELLS {
            let event = (number % 2 == 0).then_some(tails);
            let word = (&self.words, self.offset(number));
            let gpa = base + u64::from(word.1);
            wiring.post_writes(gpa, word, Write::Store, event)?;
            if event.is_none() {
                wiring.map(gpa, word, true)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_place() {
        for (apart, stride) in [(false, 0), (true, 10)] {
            let doorbells = Doorbells::new(apart).unwrap();
            assert_eq!(doorbells.stride, stride);
            for number in 0..DOORBELLS {
                doorbells.set(number, number as u32);
            }
            let found: Vec<_> = (0..2 * DOORBELLS as u64 * PAGE)
                .step_by(4)
                .filter_map(|offset| Some((offset >> stride, doorbells.at(offset)?)))
                .collect();
            assert_eq!(found, [(0, 0), (4, 1), (8, 2), (12, 3)]);
            let values = [0, 1, 2, 3].map(|number| doorbells.get(number));
            assert_eq!(values, [0, 1, 2, 3]);
        }
    }
}
