// SPDX-License-Identifier: GPL-2.0

//! What a vCPU knows of the code that it runs: instructions, and pages of code.

use crate::{
    addr::Gva,
    generation::MemslotGeneration,
    kvm::{Code, PAGE_SIZE},
    pure::{
        code_page::{self, Context, Hold},
        decode::MAX_LENGTH,
        hash::spread_steps,
        plan::Plan,
        refused::Refused, //
    }, //
};
use core::mem::size_of;
use kernel::prelude::*;
use pin_init::{init_array_from_fn, init_zeroed};

/// Instructions that are remembered: twice as many as the drivers of a large guest have, so that
/// hardly any three want the same two places.
const ENTRIES: usize = 1 << ENTRY_BITS;
const ENTRY_BITS: u32 = 10;

/// The bytes that are read at RIP: enough for the longest instruction.
pub(crate) const WINDOW: usize = size_of::<[u64; 2]>();

const _: () = assert!(WINDOW > MAX_LENGTH);

/// The last place in a page that a window fits behind.
const LAST_WINDOW: u64 = (PAGE_SIZE - WINDOW) as u64;

/// No instruction or page of code is here: the address is not canonical.
const NOWHERE: u64 = 1 << 63;

/// An instruction that was read.
pub(crate) struct KnownInsn {
    rip: u64,
    /// What was read there.
    pub(crate) bytes: [u64; 2],
    /// The bytes that belong to it, of the first eight and of those from the eighth on.
    masks: [u64; 2],
    /// What it does.
    pub(crate) plan: Plan,
}

impl KnownInsn {
    const fn empty() -> Self {
        Self {
            rip: NOWHERE,
            bytes: [0; 2],
            masks: [0; 2],
            plan: Plan::EMPTY,
        }
    }

    /// An instruction of `length` bytes.
    pub(crate) fn new(rip: u64, bytes: [u64; 2], length: usize, plan: Plan) -> Self {
        Self {
            rip,
            bytes,
            masks: [low_bytes(length), low_bytes(length.saturating_sub(7))],
            plan,
        }
    }

    /// Whether the instruction is the one that the processor has executed.
    #[inline(always)]
    pub(crate) fn is_executed(&self, bytes: [u64; 2]) -> bool {
        let [first, last] = overlapping(self.bytes);
        ((bytes[0] ^ first) & self.masks[0]) | ((bytes[1] ^ last) & self.masks[1]) == 0
    }

    /// Bytes of the instruction.
    #[inline(always)]
    pub(crate) fn length(&self) -> u64 {
        self.plan.next_rip.wrapping_sub(self.rip)
    }
}

/// A page of code.
pub(crate) struct CodePage {
    page: Gva,
    /// What its place depends on.
    pub(crate) context: Context,
    code: Code,
    /// How firmly it holds its place.
    pub(crate) hold: Hold,
}

impl CodePage {
    const fn empty() -> Self {
        Self {
            page: Gva(NOWHERE),
            context: Context {
                cr3: 0,
                cpu_role: 0,
                generation: MemslotGeneration(!0),
                user: false,
            },
            code: Code::NONE,
            hold: Hold::none(),
        }
    }

    /// A page that was just walked to.
    pub(crate) const fn new(page: Gva, context: Context, code: Code) -> Self {
        Self {
            page,
            context,
            code,
            hold: Hold::new(),
        }
    }

    /// Whether a walk would come by the same entries, if none of them has changed.
    #[inline(always)]
    pub(crate) fn is(&self, page: Gva, context: &Context) -> bool {
        self.page == page && self.context == *context
    }

    /// Whether a walk and a read would find an instruction, whose address is within the page.
    #[inline(always)]
    pub(crate) fn has(&self, insn: &KnownInsn) -> bool {
        let offset = insn.rip - self.page.0;
        if offset > LAST_WINDOW {
            return self.has_at_end(insn);
        }
        self.code.has(offset, &insn.bytes)
    }

    #[cold]
    #[inline(never)]
    fn has_at_end(&self, insn: &KnownInsn) -> bool {
        self.read(insn.rip)
            .is_some_and(|bytes| insn.is_executed(overlapping(bytes)))
    }

    /// What a walk and a read would find at `rip`, an address within the page, and zeroes behind the
    /// page: [`bytes_left`] tells how many there are. `None` if an entry has changed, or the memory
    /// is gone.
    pub(crate) fn read(&self, rip: u64) -> Option<[u64; 2]> {
        let offset = rip - self.page.0;
        let start = offset.min(LAST_WINDOW);
        let bytes = self.code.read(start)?;
        Some(without_first(bytes, offset - start))
    }
}

/// How many of the bytes of a window are in the page of `rip`. What follows is another page's, which
/// the guest may have anywhere.
pub(crate) fn bytes_left(rip: u64) -> usize {
    let offset = (rip - Gva(rip).page().0) as usize;
    WINDOW.min(PAGE_SIZE - offset)
}

/// What is left of a window without its first `count` bytes, fewer than all.
const fn without_first([first, last]: [u64; 2], count: u64) -> [u64; 2] {
    let all = (last as u128) << 64 | first as u128;
    let left = all >> (8 * count);
    [left as u64, (left >> 64) as u64]
}

/// The bytes 0 to 7 and 7 to 14, as they are read where the processor has stored 15.
#[inline(always)]
const fn overlapping(bytes: [u64; 2]) -> [u64; 2] {
    [bytes[0], bytes[0] >> 56 | bytes[1] << 8]
}

/// The other way.
pub(crate) const fn in_a_row([first, last]: [u64; 2]) -> [u64; 2] {
    [first, last >> 8]
}

/// The low `count` bytes of a word, at most all.
const fn low_bytes(count: usize) -> u64 {
    match count {
        0 => 0,
        1..=7 => (1 << (8 * count)) - 1,
        _ => u64::MAX,
    }
}

/// What a vCPU knows of the code that it runs.
pub(crate) struct FetchCache {
    insns: [KnownInsn; ENTRIES],
    /// Pages of code, each in its place.
    pub(crate) pages: [CodePage; code_page::PLACES],
    /// Instructions that are refused.
    pub(crate) refused: Refused,
}

impl FetchCache {
    /// That knows nothing.
    pub(crate) fn init() -> impl Init<Self> {
        init!(Self {
            insns <- init_array_from_fn(|_| KnownInsn::empty()),
            pages <- init_array_from_fn(|_| CodePage::empty()),
            refused <- init_zeroed(),
        })
    }

    /// Where an instruction is, unless another has its place.
    #[inline(always)]
    const fn place(rip: u64) -> usize {
        spread_steps(rip, ENTRY_BITS)
    }

    /// Where an instruction is then.
    const fn other(place: usize) -> usize {
        place ^ 1
    }

    /// The instruction at `rip`.
    #[inline(always)]
    pub(crate) fn find(&self, rip: u64) -> Option<&KnownInsn> {
        let place = Self::place(rip);
        let first = &self.insns[place];
        if first.rip == rip {
            return Some(first);
        }
        let second = &self.insns[Self::other(place)];
        (second.rip == rip).then_some(second)
    }

    /// An entry for the instruction at `rip`. What was in its place moves on, so that two with the
    /// same place do not drive out each other.
    pub(crate) fn entry_mut(&mut self, rip: u64) -> &mut KnownInsn {
        let place = Self::place(rip);
        let other = Self::other(place);
        let here = self.insns[place].rip;
        if here == rip || here == NOWHERE {
            return &mut self.insns[place];
        }
        if self.insns[other].rip == rip {
            return &mut self.insns[other];
        }
        self.insns.swap(place, other);
        &mut self.insns[place]
    }

    /// The page of the code at `rip`, if it is known in this context.
    #[inline(always)]
    pub(crate) fn page(&self, rip: u64, context: &Context) -> Option<&CodePage> {
        let page = Gva(rip).page();
        let found = &self.pages[code_page::place(page, context.cr3)];
        found.is(page, context).then_some(found)
    }
}
