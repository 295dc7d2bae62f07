// SPDX-License-Identifier: GPL-2.0

//! A walk of the guest's page tables that remembers the entries it has come by.
//!
//! KVM's own walk decides whether and where an address is mapped; this one only finds out on which
//! entries that depends. As long as none of them has changed, neither has the answer.

use crate::addr::{Gpa, Gva};

/// Bits of a page table entry, Intel SDM, volume 3, "4-Level Paging and 5-Level Paging".
const PRESENT: u64 = 1 << 0;
const PAGE_SIZE: u64 = 1 << 7;
const ADDRESS: u64 = (1 << 52) - (1 << 12);

/// Bits of an address that one level translates.
const LEVEL_BITS: u32 = 9;

/// Walks the page tables at `root` (CR3) down to the page of `gva` and returns where it is.
///
/// `read` gets the physical address of each entry, top level first, and returns its value; the
/// walk ends without a result if it cannot, or if nothing is mapped.
///
/// # Examples
///
/// ```
/// use kvm_mmio_ext::{addr::{Gpa, Gva}, pure::guest_walk::walk};
///
/// // Four levels, the last but one of which maps 2 MiB.
/// let read = |entry: Gpa| match entry.0 {
///     0x1000 => Some(0x2001),
///     0x2000 => Some(0x3001),
///     0x3008 => Some(0xfea0_0081),
///     _ => None,
/// };
/// assert_eq!(walk(0x1000, 4, Gva(0x20_3050), read), Some(Gpa(0xfea0_3050)));
/// assert_eq!(walk(0x1000, 4, Gva(0x40_0000), read), None);
/// ```
pub fn walk(
    root: u64,
    levels: usize,
    gva: Gva,
    mut read: impl FnMut(Gpa) -> Option<u64>,
) -> Option<Gpa> {
    let mut table = root & ADDRESS;
    for level in (1..=levels as u32).rev() {
        let shift = 12 + LEVEL_BITS * (level - 1);
        let index = gva.0 >> shift & ((1 << LEVEL_BITS) - 1);
        let entry = read(Gpa(table + index * 8))?;
        if entry & PRESENT == 0 {
            return None;
        }
        if level == 1 || entry & PAGE_SIZE != 0 {
            let offset = (1u64 << shift) - 1;
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
                    let found = walk(0x10_0018, levels, Gva(gva), |gpa| {
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
    fn ends_where_nothing_is_mapped() {
        assert_eq!(walk(0, 4, Gva(0x1000), |_| Some(0)), None);
        assert_eq!(walk(0, 4, Gva(0x1000), |_| None), None);
    }
}
