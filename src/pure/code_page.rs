// SPDX-License-Identifier: GPL-2.0

//! How long a translation of code holds, and which of many to keep.
//!
//! A walk of the guest's page tables costs as much as all the rest of an access. What it depends on
//! is little: the root and the paging mode, one entry of each level, and the memslots. Those are what
//! is remembered of a page of code, and compared before it is used again.

use crate::{
    addr::PAGE_SHIFT,
    generation::MemslotGeneration,
    pure::{
        code_address::CodeAddress,
        hash::spread, //
    }, //
};

/// What the translation of an instruction's address depends on, but for page tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// The root of the page tables: CR3 with all that is in it, or what stands for it.
    pub root: u64,
    /// `union kvm_cpu_role`: paging and its features.
    pub cpu_role: u64,
    /// That of the memslots.
    pub generation: MemslotGeneration,
    /// Code of CPL 3.
    pub user: bool,
}

/// Places for pages, a power of two. A kernel's drivers and the page tables of the processes that
/// call them take one for each pair that meets.
pub const PLACES: usize = 1 << PLACE_BITS;
const PLACE_BITS: u32 = 6;

/// The place of a page of code.
#[inline(always)]
pub const fn place(page: CodeAddress, root: u64) -> usize {
    // Pages in a row have places of their own, the same page in other address spaces too.
    let key = (page.key() >> PAGE_SHIFT) ^ (root >> PAGE_SHIFT).rotate_left(20);
    spread(key, PLACE_BITS)
}

/// How often others ask for a page's place in vain. With more pages in turn than there are places,
/// each would drive out the next, and every access would pay for a walk that nobody uses. One walk
/// among as many accesses that go to the emulator instead is less than a hundredth of their cost.
pub const FIRM: u8 = 64;

/// Pages that are remembered in whatever address space they are: a kernel's drivers.
pub const WALKED: usize = 8;

/// How often one of those is asked for in vain, once it has been found to be another one elsewhere.
pub const FOREIGN: u8 = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::decode::CodeKind;
    use std::collections::HashSet;

    fn page(address: u64) -> CodeAddress {
        CodeAddress::new(address, CodeKind::Long)
    }

    #[test]
    fn neighbours_have_places_of_their_own() {
        for first in [0x1000u64, 0xffff_ffff_c012_3000, 0xffff_ffff_8100_0000] {
            let pages = (0..PLACES as u64 / 4).map(|i| page(first + i * 0x1000));
            let places: HashSet<_> = pages.map(|page| place(page, 0x1234_5000)).collect();
            assert_eq!(places.len(), PLACES / 4);
        }
    }

    #[test]
    fn address_spaces_do_not_share() {
        let spaces = (0..8u64).map(|i| 0x1234_5000 + i * 0x2000);
        let places: HashSet<_> = spaces
            .map(|cr3| place(page(0xffff_ffff_c012_3000), cr3))
            .collect();
        assert!(places.len() >= 7, "{places:?}");
    }
}
