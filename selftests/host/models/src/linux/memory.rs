// SPDX-License-Identifier: GPL-2.0
//! The guest's memory: a page table, and code.

use super::{memslots::Page, vm::Kvm};
use crate::addr::{Gfn, Gpa, Gva, PAGE_MASK};

/// The page with the device, and what the guest may map at the same virtual address later.
pub(crate) const DEVICE: Gfn = Gfn(0xd0000);
pub(crate) const OTHER_DEVICE: Gfn = Gfn(0xd0001);

/// The page table, one level of it.
pub(crate) const ROOT: Gfn = Gfn(0x10);

/// The page with the code.
pub(crate) const CODE: Gfn = Gfn(0x11);
const CODE_GVA: u64 = 0x5000;

/// Instructions of a page with code.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Insn {
    /// `mov [rax], rcx`; in the second of the pages, `mov [rax], ecx`.
    Store = 0,
    /// `mov rcx, [rax]`
    Load = 2,
}

impl Insn {
    pub(crate) fn rip(self) -> Gva {
        Gva(CODE_GVA + self as u64 * 8)
    }

    pub(crate) fn next_rip(self) -> Gva {
        Gva(self.rip().0 + LENGTH)
    }
}

const STORE_8: u64 = 0x08_89_48;
const STORE_4: u64 = 0x08_89_3e;
const LOAD_8: u64 = 0x08_8b_48;

/// Bytes of each of them; that of 4 bytes has a prefix without effect.
const LENGTH: u64 = 3;

const WORDS: usize = 512;

/// A page that begins with some words.
const fn page<const N: usize>(at: usize, words: [u64; N]) -> [u64; WORDS] {
    let mut page = [0; WORDS];
    let mut i = 0;
    while i < N {
        page[at + i] = words[i];
        i += 1;
    }
    page
}

static PAGE_TABLE: [u64; WORDS] = page((CODE_GVA >> 12) as usize, [CODE.0 << 12 | 0x67]);
static CODES: [[u64; WORDS]; 2] = [page(0, [STORE_8, 0, LOAD_8]), page(0, [STORE_4])];

/// Bytes that the store at the beginning of a page with code writes.
pub(crate) const fn store_size(code: usize) -> u8 {
    [8, 4][code]
}

impl Kvm {
    /// What a page is now.
    pub(crate) fn page(&self, gfn: Gfn) -> Page {
        let otherwise = match gfn {
            DEVICE | OTHER_DEVICE => Page::Hole,
            _ => Page::Ram(0),
        };
        self.memslots.page(gfn).unwrap_or(otherwise)
    }

    /// Where a word is in the address space of the process.
    pub(crate) fn user_pointer(&self, gpa: Gpa) -> Option<&'static u64> {
        let word = (gpa.0 & !PAGE_MASK) as usize / 8;
        match (gpa.gfn(), self.page(gpa.gfn())) {
            (ROOT, _) => Some(&PAGE_TABLE[word]),
            (CODE, Page::Ram(n)) => Some(&CODES[n][word]),
            _ => None,
        }
    }

    /// What a processor fetches at an aligned address.
    pub(crate) fn fetch(&self, rip: Gva) -> [u64; 2] {
        let gpa = self.translate_fetch(rip);
        let words = [gpa, Gpa(gpa.0 + 8)].map(|gpa| self.user_pointer(gpa));
        words.map(|word| *word.unwrap_or(&0))
    }

    /// Where the guest's page table maps code.
    pub(crate) fn translate_fetch(&self, gva: Gva) -> Gpa {
        Gpa(CODE.gpa().0 | gva.0 & !PAGE_MASK)
    }
}
