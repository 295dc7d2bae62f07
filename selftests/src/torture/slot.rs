// SPDX-License-Identifier: GPL-2.0
//! A memslot, and what the pages are that it can be at.

use anyhow::Result;

use super::truth::Truth;
use crate::guest::{Machine, PAGE, Region};

/// What a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    Hole,
    /// RAM that holds this number at its start.
    Ram(u32),
    /// As above; writes are MMIO.
    ReadOnly(u32),
}

/// A slot, at one of two pages or nowhere, with one of two regions.
pub struct Slot {
    pub id: u64,
    pub pages: [Truth<Page>; 2],
    pub regions: [Region; 2],
}

/// Where each vCPU writes in a region. It writes increasing numbers, and nobody else does.
pub const fn own_word(vcpu: u64) -> u64 {
    64 * (1 + vcpu)
}

/// The numbers at the start of regions; MMIO reads return none like that, see `visit`.
pub const MAGIC: u32 = 0xa5 << 24;

pub const fn is_magic(value: u32) -> bool {
    value >> 24 == MAGIC >> 24
}

impl Slot {
    pub fn new(id: u64) -> Result<Self> {
        Ok(Self {
            id,
            pages: [Truth::new(Page::Hole), Truth::new(Page::Hole)],
            regions: [Region::new(PAGE)?, Region::new(PAGE)?],
        })
    }

    /// The slot that page `page` of the MMIO window belongs to, and what that page is.
    pub fn of_page(slots: &[Self], page: u64) -> (&Self, &Truth<Page>) {
        let slot = &slots[page as usize / 2];
        (slot, &slot.pages[page as usize % 2])
    }

    /// Whether the word of a vCPU holds `value` in one of the regions.
    pub fn holds(&self, vcpu: u64, value: u32) -> bool {
        let word = |region: &Region| region.read_u64(own_word(vcpu)) as u32;
        self.regions.iter().any(|region| word(region) == value)
    }

    /// KVM's number of the slot; 0 is that of the guest's own memory.
    pub fn number(&self) -> u32 {
        1 + self.id as u32
    }

    pub fn gpa(&self, machine: &Machine, side: usize) -> u64 {
        machine.gpa(2 * self.id + side as u64)
    }
}
