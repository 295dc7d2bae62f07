// SPDX-License-Identifier: GPL-2.0

//! A walk of the guest's page tables that remembers the entries it has come by.
//!
//! KVM's own walk decides whether and where an address is mapped; this one only finds out on which
//! entries that depends. As long as none of them has changed, neither has the answer.

use crate::addr::{Gpa, Gva, PAGE_SHIFT};

/// Bits of a page table entry, Intel SDM, volume 3, "Paging".
const PRESENT: u64 = 1 << 0;
const PAGE_SIZE: u64 = 1 << 7;
const ADDRESS: u64 = (1 << 52) - (1 << 12);
/// Of an entry of 4 bytes for 4 MiB: bits of the address above 32, or reserved.
const HIGH_ADDRESS: u64 = (1 << 21) - (1 << 13);

/// What page tables look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tables {
    /// How many there are on the way to a page of 4 KiB. 0 is no paging.
    levels: u32,
    /// Bits of an address that one level translates.
    level_bits: u32,
    /// Whether an entry above the last level may be that of a page.
    large_pages: bool,
}

impl Tables {
    /// By the levels that KVM counts: 2 are those of entries of 4 bytes, which have large pages only
    /// with CR4.PSE. Of the 3 of PAE paging the first is not walked, as processors keep its entries in
    /// registers ("PDPTE Registers" there): the root is the one for the address.
    pub const fn new(levels: usize, pse: bool) -> Self {
        let (levels, level_bits) = match levels {
            2 => (2, 10),
            3 => (2, 9),
            _ => (levels as u32, 9),
        };
        Self {
            levels,
            level_bits,
            large_pages: level_bits == 9 || pse,
        }
    }

    /// Whether entries have 4 bytes rather than 8.
    const fn has_short_entries(self) -> bool {
        self.level_bits == 10
    }

    /// Whether the root is an entry of PAE's first level.
    const fn has_pae_root(self) -> bool {
        self.levels == 2 && self.level_bits == 9
    }

    /// Where the first table is. CR3 has 32 bits for entries of 4 bytes.
    const fn first(self, root: u64) -> u64 {
        if self.has_short_entries() {
            root as u32 as u64 & ADDRESS
        } else {
            root & ADDRESS
        }
    }

    /// Where the entry for `gva` is in a table that is `level` levels above the pages.
    const fn place(self, table: u64, level: u32, gva: Gva) -> (Gpa, u64) {
        let index = gva.0 >> self.shift(level) & ((1 << self.level_bits) - 1);
        (
            Gpa(table + (index << (PAGE_SHIFT - self.level_bits))),
            index,
        )
    }

    /// Bits of an address below those that a level translates.
    const fn shift(self, level: u32) -> u32 {
        PAGE_SHIFT + self.level_bits * (level - 1)
    }

    /// The entry for `index` in the aligned 8 bytes `word` that it is in.
    const fn entry(self, word: u64, index: u64) -> u64 {
        if self.has_short_entries() {
            (word >> (32 * (index & 1))) as u32 as u64
        } else {
            word
        }
    }
}

/// The aligned 8 bytes that an entry is in.
const fn word_of(entry: Gpa) -> Gpa {
    Gpa(entry.0 & !7)
}

/// The 8 bytes that [`walk`] reads first, on which it depends from `root` on: two roots with the same
/// there have the same page at `gva`. `None` if nothing is read.
///
/// # Examples
///
/// ```
/// use kvm_mmio_ext::{addr::{Gpa, Gva}, pure::guest_walk::{first_read, Tables}};
///
/// let kernel = Gva(0xffff_8000_0000_0000);
/// assert_eq!(first_read(0x1000, Tables::new(4, false), kernel), Some(Gpa(0x1800)));
/// assert_eq!(first_read(0x1000, Tables::new(0, false), kernel), None);
/// ```
pub fn first_read(root: u64, tables: Tables, gva: Gva) -> Option<Gpa> {
    let levels = tables.levels;
    // An entry of PAE's first level is a root only if it is present.
    if levels == 0 || tables.has_pae_root() && root & PRESENT == 0 {
        return None;
    }
    Some(word_of(tables.place(tables.first(root), levels, gva).0))
}

/// Walks the page tables at `root` down to the page of `gva` and returns where it is.
///
/// `read` gets the physical address of the 8 bytes that each entry is in, top level first, and
/// returns their value; the walk ends without a result if it cannot, or if nothing is mapped.
///
/// # Examples
///
/// ```
/// use kvm_mmio_ext::{addr::{Gpa, Gva}, pure::guest_walk::{walk, Tables}};
///
/// // Four levels, the last but one of which maps 2 MiB.
/// let tables = Tables::new(4, false);
/// let read = |entry: Gpa| match entry.0 {
///     0x1000 => Some(0x2001),
///     0x2000 => Some(0x3001),
///     0x3008 => Some(0xfea0_0081),
///     _ => None,
/// };
/// assert_eq!(walk(0x1000, tables, Gva(0x20_3050), read), Some(Gpa(0xfea0_3050)));
/// assert_eq!(walk(0x1000, tables, Gva(0x40_0000), read), None);
/// ```
pub fn walk(
    root: u64,
    tables: Tables,
    gva: Gva,
    mut read: impl FnMut(Gpa) -> Option<u64>,
) -> Option<Gpa> {
    if tables.levels == 0 {
        return Some(Gpa(gva.0));
    }
    let mut table = tables.first(root);
    for level in (1..=tables.levels).rev() {
        let (place, index) = tables.place(table, level, gva);
        let entry = tables.entry(read(word_of(place))?, index);
        if entry & PRESENT == 0 {
            return None;
        }
        let is_large = level > 1 && tables.large_pages && entry & PAGE_SIZE != 0;
        // Rare enough.
        if is_large && tables.has_short_entries() && entry & HIGH_ADDRESS != 0 {
            return None;
        }
        if level == 1 || is_large {
            let offset = (1u64 << tables.shift(level)) - 1;
            return Some(Gpa((entry & ADDRESS & !offset) | (gva.0 & offset)));
        }
        table = entry & ADDRESS;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    /// Maps `gva` with the leaf at `level`, one table after the other.
    fn tables(levels: usize, leaf_level: u32, gva: Gva, page: u64) -> HashMap<u64, u64> {
        let mut memory = HashMap::new();
        let mut table = 0x10_0000;
        for level in (leaf_level..=levels as u32).rev() {
            let index = gva.0 >> (12 + 9 * (level - 1)) & 0x1ff;
            let next = table + 0x1000;
            let entry = match level {
                level if level > leaf_level => next | 0x67,
                1 => page | 0x67,
                _ => page | 0xe7,
            };
            memory.insert(table + index * 8, entry);
            table = next;
        }
        memory
    }

    #[test]
    fn finds_pages_of_every_size() {
        for levels in [4, 5] {
            for leaf_level in 1..=3u32 {
                for gva in [0x7f12_3456_789a, 0xffff_8888_7777_6666, 0x1000] {
                    let shift = 12 + 9 * (leaf_level - 1);
                    let page = 0x40_0000_0000u64 >> shift << shift;
                    let memory = tables(levels, leaf_level, Gva(gva), page);
                    let mut seen = 0;
                    let found = walk(0x10_0018, Tables::new(levels, false), Gva(gva), |gpa| {
                        seen += 1;
                        memory.get(&gpa.0).copied()
                    });
                    assert_eq!(found, Some(Gpa(page | (gva & ((1 << shift) - 1)))));
                    assert_eq!(seen, levels as u32 - leaf_level + 1);
                }
            }
        }
    }

    #[test]
    fn first_read_is_what_a_walk_reads_first() {
        for levels in [0, 2, 3, 4, 5] {
            for gva in [0x1000, 0xc123_4567, 0xffff_8888_7777_6666] {
                let gva = Gva(if levels < 4 { gva as u32 as u64 } else { gva });
                let tables = Tables::new(levels, true);
                let mut seen = None;
                walk(0x10_0019, tables, gva, |gpa| {
                    seen.get_or_insert(gpa);
                    None
                });
                assert_eq!(first_read(0x10_0019, tables, gva), seen, "{levels} levels");
            }
        }
        let pae = Tables::new(3, true);
        assert_eq!(first_read(0x10_0000, pae, Gva(0x1000)), None, "not present");
    }

    #[test]
    fn ends_where_nothing_is_mapped() {
        for levels in [2, 3, 4, 5] {
            let tables = Tables::new(levels, true);
            assert_eq!(walk(0, tables, Gva(0x1000), |_| Some(0)), None);
            assert_eq!(walk(0, tables, Gva(0x1000), |_| None), None);
        }
    }

    /// Reads 8 bytes at a time what is there.
    fn words<'a>(there: &'a [(u64, u64)]) -> impl Fn(Gpa) -> Option<u64> + 'a {
        |gpa| {
            assert_eq!(gpa.0 % 8, 0);
            there.iter().find(|at| at.0 == gpa.0).map(|at| at.1)
        }
    }

    #[test]
    fn entries_of_4_bytes() {
        // Indices 3 and 1: the upper halves of their words.
        let gva = Gva(3 << 22 | 1 << 12 | 0x234);
        let small = [(0x1008, 0x2067 << 32), (0x2000, 0x9067 << 32 | 0xdead_b000)];
        let tables = |pse| Tables::new(2, pse);
        for root in [0x1fff, 0x5_0000_1000] {
            let found = walk(root, tables(true), gva, words(&small));
            assert_eq!(found, Some(Gpa(0x9234)), "root {root:#x}");
        }
        // 4 MiB, below 4 GiB and above.
        let large = |entry: u64| walk(0x1000, tables(true), gva, words(&[(0x1008, entry << 32)]));
        assert_eq!(large(0x0080_00e7), Some(Gpa(0x0080_1234)));
        assert_eq!(large(0x0080_80e7), None);
        // Without CR4.PSE that is a table like any other.
        let there = [(0x1008, 0x0080_00e7 << 32), (0x0080_0000, 0x7067 << 32)];
        let found = walk(0x1000, tables(false), gva, words(&there));
        assert_eq!(found, Some(Gpa(0x7234)));
    }

    #[test]
    fn the_first_level_of_pae_is_the_root() {
        // 2 MiB at index 5 of the table that the entry in a register has.
        let gva = Gva(3 << 30 | 5 << 21 | 0x1234);
        let there = [(0x7028, 0x0060_00e7)];
        let found = walk(0x7001, Tables::new(3, false), gva, words(&there));
        assert_eq!(found, Some(Gpa(0x0060_1234)));
    }

    #[test]
    fn without_paging_an_address_is_physical() {
        let found = walk(0, Tables::new(0, false), Gva(0xfff0_1234), |_| None);
        assert_eq!(found, Some(Gpa(0xfff0_1234)));
    }
}
