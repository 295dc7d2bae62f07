// SPDX-License-Identifier: GPL-2.0
//! The guest's own page tables, 4 KiB pages only.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::layout::{RAM_SIZE, TABLES, TABLES_END};
use super::{Mode, PAGE, Region};

pub const PRESENT: u64 = 1 << 0;
pub const WRITE: u64 = 1 << 1;
pub const USER: u64 = 1 << 2;
pub const ACCESSED: u64 = 1 << 5;
pub const DIRTY: u64 = 1 << 6;

/// Everything that a supervisor needs. Accessed and dirty are set, so that neither the processor
/// nor KVM writes the entry: page tables then change only when a test changes them.
pub const SUPERVISOR: u64 = PRESENT | WRITE | ACCESSED | DIRTY;

/// One level of a page-table format: the lowest bit of the address that indexes it, and the
/// number of bits.
struct Level {
    shift: u32,
    bits: u32,
}

const LA57: &[Level] = &[
    Level { shift: 48, bits: 9 },
    Level { shift: 39, bits: 9 },
    Level { shift: 30, bits: 9 },
    Level { shift: 21, bits: 9 },
    Level { shift: 12, bits: 9 },
];
const LONG: &[Level] = &[
    Level { shift: 39, bits: 9 },
    Level { shift: 30, bits: 9 },
    Level { shift: 21, bits: 9 },
    Level { shift: 12, bits: 9 },
];
const PAE: &[Level] = &[
    Level { shift: 30, bits: 2 },
    Level { shift: 21, bits: 9 },
    Level { shift: 12, bits: 9 },
];
const LEGACY: &[Level] = &[
    Level {
        shift: 22,
        bits: 10,
    },
    Level {
        shift: 12,
        bits: 10,
    },
];

/// Gives out pages for page tables; shared by all the roots of one machine.
pub struct TablePool {
    next: AtomicU64,
}

impl TablePool {
    pub fn new() -> Self {
        Self {
            next: AtomicU64::new(TABLES),
        }
    }

    fn take(&self) -> u64 {
        let page = self.next.fetch_add(PAGE, Ordering::Relaxed);
        assert!(
            page < TABLES_END,
            "no page left for page tables at {page:#x}"
        );
        page
    }
}

impl Default for TablePool {
    fn default() -> Self {
        Self::new()
    }
}

/// One root with the tables below it.
pub struct PageTables {
    mode: Mode,
    ram: Arc<Region>,
    pool: Arc<TablePool>,
    /// GPA of the root: what CR3 gets.
    root: u64,
}

impl PageTables {
    /// Tables that map the guest's RAM at its own address, for user and supervisor.
    pub fn new(mode: Mode, ram: Arc<Region>, pool: Arc<TablePool>) -> Self {
        let root = pool.take();
        let tables = Self {
            mode,
            ram,
            pool,
            root,
        };
        if mode.is_paged() {
            for gpa in (0..RAM_SIZE).step_by(PAGE as usize) {
                tables.map(gpa, gpa, SUPERVISOR | USER);
            }
        }
        tables
    }

    /// GPA of the root.
    pub fn root(&self) -> u64 {
        self.root
    }

    fn levels(&self) -> &'static [Level] {
        match self.mode {
            Mode::La57 => LA57,
            Mode::Long => LONG,
            Mode::Pae => PAE,
            Mode::Legacy => LEGACY,
            Mode::Flat => &[],
        }
    }

    /// Size of an entry in bytes.
    pub fn entry_size(&self) -> u64 {
        if self.mode == Mode::Legacy { 4 } else { 8 }
    }

    /// The entry at `gpa`.
    pub fn read_entry(&self, gpa: u64) -> u64 {
        let bytes = self.ram.read(gpa, self.entry_size() as usize);
        bytes
            .iter()
            .rev()
            .fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    /// Makes `entry` the one at `gpa`.
    pub fn write_entry(&self, gpa: u64, entry: u64) {
        self.ram
            .write(gpa, &entry.to_le_bytes()[..self.entry_size() as usize]);
    }

    /// GPAs of the entries for `gva`, from the root on; missing tables are made.
    pub fn entries(&self, gva: u64) -> Vec<u64> {
        let index = |level: &Level| (gva >> level.shift) & ((1 << level.bits) - 1);
        let mut table = self.root;
        let mut entries = Vec::new();
        for (depth, level) in self.levels().iter().enumerate() {
            let at = table + index(level) * self.entry_size();
            entries.push(at);
            let mut entry = self.read_entry(at);
            if entry & PRESENT == 0 && depth + 1 < self.levels().len() {
                // The other bits of a PAE root's entries are reserved.
                let pae_root = self.mode == Mode::Pae && depth == 0;
                let flags = if pae_root {
                    PRESENT
                } else {
                    PRESENT | WRITE | USER | ACCESSED
                };
                entry = self.pool.take() | flags;
                self.write_entry(at, entry);
            }
            table = entry & 0x000f_ffff_ffff_f000;
        }
        entries
    }

    /// GPA of the last-level entry for `gva`; missing tables above it are made.
    pub fn pte(&self, gva: u64) -> u64 {
        *self.entries(gva).last().expect("mode without page tables")
    }

    /// The last-level entry for `gva`, as it is in memory now.
    pub fn entry(&self, gva: u64) -> u64 {
        self.read_entry(self.pte(gva))
    }

    /// The entry of the root for `gva`, as it is in memory now.
    pub fn root_entry(&self, gva: u64) -> u64 {
        let first = self.levels().first().expect("mode without page tables");
        let index = (gva >> first.shift) & ((1 << first.bits) - 1);
        self.read_entry(self.root + index * self.entry_size())
    }

    /// Maps the page of `gva` to the page of `gpa` with the last-level `flags` given. The levels
    /// above allow everything.
    pub fn map(&self, gva: u64, gpa: u64, flags: u64) {
        let pte = self.pte(gva);
        self.write_entry(pte, (gpa & !(PAGE - 1)) | flags);
    }
}
