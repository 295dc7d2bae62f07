// SPDX-License-Identifier: GPL-2.0

//! What a vCPU knows of the code that it runs: instructions, and pages of code.

use crate::{
    generation::MemslotGeneration,
    kvm::{Code, Pte, PAGE_SIZE},
    pure::{
        code_address::CodeAddress,
        code_page::{self, Context},
        decode::MAX_LENGTH,
        hash::spread_steps,
        hold::Hold,
        plan::Plan,
        refused::Refused, //
    }, //
};
use core::mem::{align_of, size_of};
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

// It is aligned to a cache line.
const _: () = assert!(size_of::<KnownInsn>() == 2 * align_of::<KnownInsn>());

/// An instruction that was read. It lies in two cache lines, wherever it is in the array.
#[repr(align(64))]
pub(crate) struct KnownInsn {
    place: CodeAddress,
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
            place: CodeAddress::NOWHERE,
            bytes: [0; 2],
            masks: [0; 2],
            plan: Plan::EMPTY,
        }
    }

    /// An instruction of `length` bytes.
    pub(crate) fn new(place: CodeAddress, bytes: [u64; 2], length: usize, plan: Plan) -> Self {
        Self {
            place,
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
        // The rest of the address is the same, or not that of RIP.
        (self.plan.next_rip as u32)
            .wrapping_sub(self.place.key() as u32)
            .into()
    }
}

/// A page of code.
pub(crate) struct CodePage {
    page: CodeAddress,
    /// What its place depends on.
    pub(crate) context: Context,
    code: Code,
    /// How firmly it holds its place.
    pub(crate) hold: Hold,
}

impl CodePage {
    const fn empty() -> Self {
        Self {
            page: CodeAddress::NOWHERE,
            context: Context {
                root: 0,
                cpu_role: 0,
                generation: MemslotGeneration(!0),
                user: false,
            },
            code: Code::NONE,
            hold: Hold::none(),
        }
    }

    /// A page that was just walked to.
    pub(crate) const fn new(page: CodeAddress, context: Context, code: Code) -> Self {
        Self {
            page,
            context,
            code,
            hold: Hold::new(code_page::FIRM),
        }
    }

    /// Whether a walk would come by the same entries, if none of them has changed.
    #[inline(always)]
    pub(crate) fn is(&self, page: CodeAddress, context: &Context) -> bool {
        self.page == page && self.context == *context
    }

    /// The same, to be found from other address spaces.
    const fn for_others(&self) -> Self {
        Self {
            hold: Hold::none(),
            ..Self::new(self.page, self.context, self.code)
        }
    }

    /// The same page in another address space, whose root's entry is `root`: the tables below are the same
    /// if that is. `None` if it is not.
    pub(crate) fn by_root(&self, context: Context, root: Pte) -> Option<Self> {
        Some(Self::new(self.page, context, self.code.by_root(root)?))
    }

    /// Whether it is that page in any address space.
    fn is_elsewhere(&self, page: CodeAddress, context: &Context) -> bool {
        let root = self.context.root;
        self.is(page, &Context { root, ..*context })
    }

    /// Whether a walk and a read would find an instruction, whose address is within the page.
    #[inline(always)]
    pub(crate) fn has(&self, insn: &KnownInsn) -> bool {
        let offset = insn.place.since(self.page);
        if offset > LAST_WINDOW {
            return self.has_at_end(insn);
        }
        self.code.has(offset, &insn.bytes)
    }

    #[cold]
    #[inline(never)]
    fn has_at_end(&self, insn: &KnownInsn) -> bool {
        self.read(insn.place)
            .is_some_and(|bytes| insn.is_executed(overlapping(bytes)))
    }

    /// What a walk and a read would find at `place`, an address within the page, and zeroes behind the
    /// page: [`bytes_left`] tells how many there are. `None` if an entry has changed, or the memory
    /// is gone.
    pub(crate) fn read(&self, place: CodeAddress) -> Option<[u64; 2]> {
        let offset = place.since(self.page);
        let start = offset.min(LAST_WINDOW);
        let bytes = self.code.read(start)?;
        Some(without_first(bytes, offset - start))
    }
}

/// How many of the bytes of a window are in the page of `place`. What follows is another page's, which
/// the guest may have anywhere.
pub(crate) fn bytes_left(place: CodeAddress) -> usize {
    let offset = place.since(place.page()) as usize;
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
    /// Those that were walked to last, each once, whatever the root was.
    walked: [CodePage; code_page::WALKED],
    /// Which of them is the oldest.
    oldest: usize,
    /// Instructions that are refused.
    pub(crate) refused: Refused,
}

impl FetchCache {
    /// That knows nothing.
    pub(crate) fn init() -> impl Init<Self> {
        init!(Self {
            insns <- init_array_from_fn(|_| KnownInsn::empty()),
            pages <- init_array_from_fn(|_| CodePage::empty()),
            walked <- init_array_from_fn(|_| CodePage::empty()),
            oldest: 0,
            refused <- init_zeroed(),
        })
    }

    /// Where an instruction is, unless another has its place.
    #[inline(always)]
    const fn index(place: CodeAddress) -> usize {
        spread_steps(place.key(), ENTRY_BITS)
    }

    /// Where an instruction is then.
    const fn other(index: usize) -> usize {
        index ^ 1
    }

    /// The instruction at `place`.
    #[inline(always)]
    pub(crate) fn find(&self, place: CodeAddress) -> Option<&KnownInsn> {
        let index = Self::index(place);
        let first = &self.insns[index];
        if first.place == place {
            return Some(first);
        }
        let second = &self.insns[Self::other(index)];
        (second.place == place).then_some(second)
    }

    /// An entry for the instruction at `place`. What was there moves on, so that two that want the
    /// same entry do not drive out each other.
    pub(crate) fn entry_mut(&mut self, place: CodeAddress) -> &mut KnownInsn {
        let index = Self::index(place);
        let other = Self::other(index);
        let here = self.insns[index].place;
        if here == place || here == CodeAddress::NOWHERE {
            return &mut self.insns[index];
        }
        if self.insns[other].place == place {
            return &mut self.insns[other];
        }
        self.insns.swap(index, other);
        &mut self.insns[index]
    }

    /// The page of the code at `place`, if it was walked to in whatever address space.
    pub(crate) fn walked(&self, place: CodeAddress, context: &Context) -> Option<&CodePage> {
        let page = place.page();
        self.walked
            .iter()
            .find(|walked| walked.is_elsewhere(page, context))
    }

    /// Remembers a page that was walked to, for this address space and for others.
    pub(crate) fn insert(&mut self, page: CodePage) {
        let known = self
            .walked
            .iter()
            .position(|there| there.is_elsewhere(page.page, &page.context));
        let index = known.unwrap_or(self.oldest);
        if known.is_none() {
            self.oldest = (index + 1) % code_page::WALKED;
        }
        self.walked[index] = page.for_others();
        let place = code_page::place(page.page, page.context.root);
        self.pages[place] = page;
    }

    /// The same for a page that was found without a walk. It takes the place of another, but not what
    /// those who wait for that have waited.
    pub(crate) fn insert_found(&mut self, page: CodePage) {
        let there = &mut self.pages[code_page::place(page.page, page.context.root)];
        let hold = there.hold.as_firm();
        *there = CodePage { hold, ..page };
    }

    /// The page of the code at `place`, if it is known in this context.
    #[inline(always)]
    pub(crate) fn page(&self, place: CodeAddress, context: &Context) -> Option<&CodePage> {
        let page = place.page();
        let found = &self.pages[code_page::place(page, context.root)];
        found.is(page, context).then_some(found)
    }
}
