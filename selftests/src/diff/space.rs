// SPDX-License-Identifier: GPL-2.0
//! What is where in the guest: places that the programs use and the machine makes.

use crate::guest::layout::{self, MMIO_GPA, MMIO_GVA, SCRATCH};
use crate::guest::paging::{SUPERVISOR, USER};
use crate::guest::{Machine, Mode, PAGE, PageTables};

/// RAM for the programs: two pages.
pub const RAM: u64 = SCRATCH;
pub const RAM_LEN: u64 = 2 * PAGE;

/// Pages of MMIO, with one page of RAM among them.
pub const WINDOW: u64 = MMIO_GVA;
pub const WINDOW_PAGES: u64 = layout::MMIO_PAGES;
const RAM_PAGE: u64 = 5;

/// The bases of FS and GS. In 64-bit code below everything that is accessed, so that offsets of
/// 32 bits reach it all; in 32-bit code at the window, with paging and without, so that offsets
/// of 16 bits reach that.
pub fn segment_bases(mode: Mode) -> [u64; 2] {
    if mode.is_long() {
        [0x12_3000, 0x9_8765]
    } else {
        [MMIO_GVA, MMIO_GPA]
    }
}

/// A page table entry of the guest.
#[derive(Clone, Copy)]
pub struct Entry {
    pub gpa: u64,
    pub value: u64,
}

/// What programs need to know of one of the guest's page tables.
pub struct Root {
    pub gpa: u64,
    /// The entries that map the window, as they are when a program starts.
    pub entries: Vec<Entry>,
}

impl Root {
    fn new(tables: &PageTables) -> Self {
        let entry = |page| {
            let gva = WINDOW + page * PAGE;
            Entry {
                gpa: tables.pte(gva),
                value: tables.entry(gva),
            }
        };
        Self {
            gpa: tables.root(),
            entries: (0..WINDOW_PAGES).map(entry).collect(),
        }
    }
}

/// Two page tables, in which the window's pages are others; none in a guest that does not page.
pub fn roots(machine: &Machine) -> Vec<Root> {
    if !machine.mode().is_paged() {
        return Vec::new();
    }
    let first = machine.tables();
    first.map(machine.gva(RAM_PAGE), RAM + PAGE, SUPERVISOR | USER);
    // Neighbours for the guest, apart for the host.
    first.map(machine.gva(3), machine.gpa(20), SUPERVISOR);
    let second = machine.new_tables();
    for page in 0..WINDOW_PAGES {
        let other = machine.gpa(page ^ 5);
        second.map(machine.gva(page), other, SUPERVISOR);
    }
    vec![Root::new(first), Root::new(&second)]
}
