// SPDX-License-Identifier: GPL-2.0
//! Tails and heads of queues, sections 3.1.24 and 3.1.25.
//!
//! Where the guest may have pages as memory each doorbell is in one of its own, and those for heads are
//! such memory: nobody waits for a head. The controller looks at it when it has a completion to put.
//! Elsewhere they share a page, which suits KVM, as it remembers one page of MMIO.

use anyhow::Result;
use vmm_sys_util::eventfd::EventFd;

use crate::layout::PAGE;
use crate::page::RegisterPage;
use crate::wiring::{Wiring, Write};

/// The admin queue's pair and one of I/O.
pub const QUEUES: usize = 2;
/// How many doorbells there are, and pages for them.
pub const DOORBELLS: usize = 2 * QUEUES;

/// The tail of each queue of submissions, followed by the head of its completions.
#[derive(Clone)]
pub struct Doorbells {
    pages: Vec<RegisterPage>,
    stride: u32,
}

impl Doorbells {
    /// All are 0. Each may be in a page of its own.
    pub fn new(apart: bool) -> Result<Self> {
        let pages: Result<_> = (0..DOORBELLS).map(|_| RegisterPage::new()).collect();
        Ok(Self {
            pages: pages?,
            stride: if apart { PAGE as u32 } else { 4 },
        })
    }

    /// How far they are from one another: 4 bytes times 2 to the power of that (CAP.DSTRD).
    pub fn stride(&self) -> u32 {
        self.stride.ilog2() - 2
    }

    /// The number of the one at that offset.
    pub fn at(&self, offset: u32) -> Option<usize> {
        let number = (offset / self.stride) as usize;
        (offset % self.stride == 0 && number < DOORBELLS).then_some(number)
    }

    /// From the first one, in bytes.
    fn offset(&self, number: usize) -> u64 {
        number as u64 * u64::from(self.stride)
    }

    /// Its page, and where it is in that.
    fn word(&self, number: usize) -> (&RegisterPage, u32) {
        let offset = self.offset(number);
        let page = &self.pages[(offset / PAGE) as usize];
        (page, (offset % PAGE) as u32)
    }

    fn get(&self, number: usize) -> u32 {
        let (page, at) = self.word(number);
        page.get(at)
    }

    fn set(&self, number: usize, value: u32) {
        let (page, at) = self.word(number);
        page.set(at, value);
    }

    /// Where the driver puts the next command.
    pub fn tail(&self, queue: usize) -> u32 {
        self.get(2 * queue)
    }

    /// Where it takes the next completion.
    pub fn head(&self, queue: usize) -> u32 {
        self.get(2 * queue + 1)
    }

    /// In the place of the driver.
    pub fn set_tail(&self, queue: usize, value: u32) {
        self.set(2 * queue, value);
    }

    /// The same.
    pub fn set_head(&self, queue: usize, value: u32) {
        self.set(2 * queue + 1, value);
    }

    /// What the kernel does of them, which are at `base`: they keep their values, and tails ring.
    pub fn wire(&self, base: u64, tails: &EventFd, wiring: &mut Wiring) -> Result<()> {
        for number in 0..DOORBELLS {
            let is_tail = number % 2 == 0;
            let (gpa, word) = (base + self.offset(number), self.word(number));
            wiring.post_writes(gpa, word, Write::Store, is_tail.then_some(tails))?;
            if !is_tail && u64::from(self.stride) == PAGE {
                wiring.map(gpa, word.0)?;
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
            assert_eq!(doorbells.stride(), stride);
            doorbells.set_tail(1, 5);
            doorbells.set_head(1, 6);
            let found: Vec<_> = (0..2 * DOORBELLS as u32 * PAGE as u32)
                .filter_map(|offset| Some((offset >> stride, doorbells.at(offset)?)))
                .collect();
            assert_eq!(found, [(0, 0), (4, 1), (8, 2), (12, 3)]);
            let values = [0, 1].map(|queue| (doorbells.tail(queue), doorbells.head(queue)));
            assert_eq!(values, [(0, 0), (5, 6)]);
        }
    }
}
