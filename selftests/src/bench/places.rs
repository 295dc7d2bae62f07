// SPDX-License-Identifier: GPL-2.0
//! Where the accesses of a row go, and the guest's table of these places.

use crate::guest::layout::{RAM_SIZE, SCRATCH};
use crate::guest::{Machine, PAGE};

/// Which instructions make the accesses to several places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sites {
    /// Each place has one of its own.
    Each,
    /// One for all, which goes round a table in the guest's memory. For 64-bit guests.
    One,
    /// One for all, at one place, in as many address spaces: a driver's that processes call. For
    /// 64-bit guests.
    Spaces,
}

/// Where the accesses of one turn of the loop go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    pub count: u64,
    /// Bytes from one to the next; 0 if they are the same.
    pub stride: u64,
    pub sites: Sites,
}

/// The table of [`Sites::One`] and [`Sites::Spaces`] in the guest's memory: of each place the address,
/// then the value, or the root of the page tables.
pub const TABLE: u64 = SCRATCH;
pub const TABLE_ENTRY: u64 = 16;

/// The roots, a page each: up to the end of the guest's memory.
const ROOTS: u64 = SCRATCH + 0x10_0000;
const MOST_ROOTS: u64 = (RAM_SIZE - ROOTS) / PAGE;

impl Places {
    /// Bytes from the first place to number `place`.
    pub fn offset(&self, place: u64) -> u64 {
        place * self.stride
    }

    /// How many different places there are.
    pub fn distinct(&self) -> u64 {
        match self.sites {
            Sites::Each | Sites::One if self.stride != 0 => self.count,
            _ => 1,
        }
    }

    pub fn describe(&self) -> &'static str {
        match (self.stride, self.sites) {
            (_, Sites::Spaces) => "address spaces in turn",
            (PAGE, Sites::Each) => "pages in turn",
            (PAGE, Sites::One) => "pages in turn by one instruction",
            (_, Sites::Each) => "instructions in turn",
            (_, Sites::One) => "registers in turn",
        }
    }

    /// Writes what `Row::turn()` reads; the linear addresses start at `gva`.
    pub fn write_table(&self, machine: &Machine, gva: u64) {
        for place in 0..self.count {
            let at = TABLE + place * TABLE_ENTRY;
            let second = match self.sites {
                Sites::Spaces => new_root(machine, place),
                Sites::Each | Sites::One => place,
            };
            machine.ram().write_u64(at, gva + self.offset(place));
            machine.ram().write_u64(at + 8, second);
        }
    }
}

fn new_root(machine: &Machine, place: u64) -> u64 {
    assert!(place < MOST_ROOTS, "no room for root {place}");
    let root = ROOTS + place * PAGE;
    machine.copy_root(root);
    root
}
