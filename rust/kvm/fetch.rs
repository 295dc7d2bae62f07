// SPDX-License-Identifier: GPL-2.0

//! Reading the instruction at RIP, without a walk of page tables if its page was walked to before.
//!
//! What a page of code depends on is remembered ([`code_page`](crate::code_page)), and so is what
//! an instruction does. Each time the entries of the guest's page tables and the bytes at RIP are
//! read again; only if nothing at all has changed the instruction that was decoded is the one at
//! RIP. (A guest that changes an entry without INVLPG may see either instruction, as on a processor
//! that has the old one in its TLB, and with KVM's emulator.) Where the processor reports the bytes
//! that it has fetched, they need only be compared.

use super::vcpu::{AssistBytes, Mode, Vcpu};
use crate::{
    addr::{Gpa, Gva},
    code_page::{self, Context, Hold},
    decode::{decode, MAX_LENGTH},
    generation::MemslotGeneration,
    guest_walk::{walk, MAX_LEVELS},
    plan::Plan,
    refused::{Reason, Refused},
    stats::Event, //
};
use core::mem::size_of;
use kernel::prelude::*;
use kvm_bindings as bindings;
use pin_init::{init_array_from_fn, init_zeroed, Zeroable};

/// Instructions that are remembered, a power of two: as many as the drivers of a large guest have.
const ENTRIES: usize = 512;

/// The bytes that are read at RIP: enough for the longest instruction.
const WINDOW: usize = size_of::<[u64; 2]>();

const _: () = assert!(WINDOW > MAX_LENGTH);
const _: () = assert!(MAX_LEVELS == bindings::MMIO_EXT_ROOT_MAX_LEVEL as usize);

/// No instruction or page of code is here: the address is not canonical.
const NOWHERE: u64 = 1 << 63;

/// An instruction that was read.
struct KnownInsn {
    rip: u64,
    /// What was read there.
    bytes: [u64; 2],
    /// The bytes that belong to it, of the first eight and of those from the eighth on.
    masks: [u64; 2],
    plan: Plan,
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

    /// Whether the instruction is the one that the processor has executed.
    #[inline(always)]
    fn is_executed(&self, bytes: [u64; 2]) -> bool {
        let [first, last] = overlapping(self.bytes);
        ((bytes[0] ^ first) & self.masks[0]) | ((bytes[1] ^ last) & self.masks[1]) == 0
    }

    /// Bytes of the instruction.
    #[inline(always)]
    fn length(&self) -> u64 {
        self.plan.next_rip.wrapping_sub(self.rip)
    }
}

/// Where a page of code is, and the entries that say so.
struct CodePage {
    page: Gva,
    context: Context,
    /// Where it is in the address space of the VM's process.
    code: *const u64,
    /// From the root down. Levels that there are not repeat the root's.
    ptes: [bindings::mmio_ext_pte; MAX_LEVELS],
    hold: Hold,
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
            code: core::ptr::null(),
            ptes: [NO_PTE; MAX_LEVELS],
            hold: Hold::none(),
        }
    }

    /// Whether a walk would come by the same entries, if none of them has changed.
    #[inline(always)]
    fn is(&self, page: Gva, context: &Context) -> bool {
        self.page == page && self.context == *context
    }

    /// Where the code at `rip`, an address within the page, is in the VM's process.
    #[inline(always)]
    fn code_at(&self, rip: u64) -> *const u64 {
        self.code.wrapping_byte_add((rip - self.page.0) as usize)
    }

    /// Whether a walk and a read would find `bytes` at `rip`, an address within the page.
    #[inline(always)]
    fn has(&self, rip: u64, bytes: &[u64; 2]) -> bool {
        // SAFETY: The pointers are to the address space of this process, whatever is there.
        unsafe {
            bindings::mmio_ext_code_is_current(
                self.ptes.as_ptr(),
                self.code_at(rip),
                bytes.as_ptr(),
            )
        }
    }

    /// What a walk and a read would find at `rip`, an address within the page. `None` if an entry
    /// has changed, or the memory is gone.
    fn read(&self, rip: u64) -> Option<[u64; 2]> {
        let mut bytes = [0; 2];
        // SAFETY: There is room; the pointers are to the address space of this process.
        unsafe {
            bindings::mmio_ext_read_code(self.ptes.as_ptr(), self.code_at(rip), bytes.as_mut_ptr())
        }
        .then_some(bytes)
    }
}

const NO_PTE: bindings::mmio_ext_pte = bindings::mmio_ext_pte {
    ptep: core::ptr::null(),
    pte: 0,
};

/// The bytes 0 to 7 and 7 to 14, as they are read where the processor has stored 15.
#[inline(always)]
const fn overlapping(bytes: [u64; 2]) -> [u64; 2] {
    [bytes[0], bytes[0] >> 56 | bytes[1] << 8]
}

/// The other way.
const fn in_a_row([first, last]: [u64; 2]) -> [u64; 2] {
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

// SAFETY: All zero, it holds nothing; cells and integers may be zero.
unsafe impl Zeroable for Refused {}

/// What a vCPU knows of the code that it runs.
pub(super) struct FetchCache {
    insns: [KnownInsn; ENTRIES],
    pages: [CodePage; code_page::PLACES],
    refused: Refused,
}

impl FetchCache {
    pub(super) fn init() -> impl Init<Self> {
        init!(Self {
            insns <- init_array_from_fn(|_| KnownInsn::empty()),
            pages <- init_array_from_fn(|_| CodePage::empty()),
            refused <- init_zeroed(),
        })
    }

    /// Where an instruction is, unless another has its place. Instructions close to each other,
    /// such as a driver's, have places of their own.
    #[inline(always)]
    const fn place(rip: u64) -> usize {
        rip as usize % ENTRIES
    }

    /// Where an instruction is then.
    const fn other(place: usize) -> usize {
        place ^ 1
    }

    /// The instruction at `rip`.
    #[inline(always)]
    fn find(&self, rip: u64) -> Option<&KnownInsn> {
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
    fn entry_mut(&mut self, rip: u64) -> &mut KnownInsn {
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
    fn page(&self, rip: u64, context: &Context) -> Option<&CodePage> {
        let page = Gva(rip).page();
        let found = &self.pages[code_page::place(page, context.cr3)];
        found.is(page, context).then_some(found)
    }
}

#[inline(always)]
fn context(vcpu: &Vcpu<'_>, mode: Mode, generation: MemslotGeneration) -> Context {
    Context {
        cr3: vcpu.cr3(),
        cpu_role: vcpu.cpu_role(),
        generation,
        user: mode.is_user(),
    }
}

/// What the instruction at RIP does, if it is still the one that was read there. The vCPU runs
/// 64-bit code of L1; `generation` is that of the memslots now.
///
/// # Errors
///
/// Why it was refused a short time ago, `None` if none was read or if it has changed.
#[inline(always)]
pub(super) fn known_plan<'a>(
    vcpu: &'a Vcpu<'_>,
    mode: Mode,
    assist: AssistBytes<'_>,
    generation: MemslotGeneration,
) -> Result<&'a Plan, Option<Event>> {
    let rip = vcpu.rip();
    let cache = vcpu.fetch_cache();
    let Some(insn) = cache.find(rip) else {
        return Err(cache.refused.find(rip).map(event));
    };

    let holds = match assist.words(insn.length()) {
        Some(words) => insn.is_executed(words),
        None => cache
            .page(rip, &context(vcpu, mode, generation))
            .is_some_and(|page| page.has(rip, &insn.bytes)),
    };
    if holds {
        Ok(&insn.plan)
    } else {
        Err(None)
    }
}

fn event(reason: Reason) -> Event {
    match reason {
        Reason::Insn => Event::RefusedInsn,
        Reason::Fetch => Event::RefusedFetch,
    }
}

/// Reads and decodes the instruction at RIP, or tells why that is not to be. Under the same
/// conditions as [`known_plan`].
pub(super) fn fetch(vcpu: &mut Vcpu<'_>, mode: Mode, assist: AssistBytes<'_>) -> Result<(), Event> {
    let generation = vcpu.memslots_generation();
    // Nobody can tell which memslots an instruction is read from while they change.
    if generation.update_in_progress() {
        return Err(Event::RefusedContext);
    }

    let rip = vcpu.rip();
    // Those that are cut off where the next page cannot be read may not be all of it.
    if let Some(words) = assist.words(1) {
        if remember(vcpu, rip, in_a_row(words), assist.len()) {
            return Ok(());
        }
        if assist.len() == MAX_LENGTH {
            return refuse(vcpu, rip, Reason::Insn);
        }
    }

    let offset = (rip - Gva(rip).page().0) as usize;
    if offset + WINDOW > bindings::MMIO_EXT_PAGE_SIZE as usize {
        return refuse(vcpu, rip, Reason::Fetch);
    }
    match read(vcpu, rip, context(vcpu, mode, generation)) {
        Read::Bytes(bytes) if remember(vcpu, rip, bytes, WINDOW) => Ok(()),
        Read::Bytes(_) => refuse(vcpu, rip, Reason::Insn),
        Read::Nothing => refuse(vcpu, rip, Reason::Fetch),
        Read::NotNow => Err(Event::RefusedFetch),
    }
}

/// Refuses an instruction, and the next times without looking.
fn refuse(vcpu: &Vcpu<'_>, rip: u64, reason: Reason) -> Result<(), Event> {
    vcpu.fetch_cache().refused.insert(rip, reason);
    Err(event(reason))
}

/// What there is to read at RIP.
enum Read {
    Bytes([u64; 2]),
    /// No code in the VM's memory, or none that may be executed.
    Nothing,
    /// It is not looked at, as others are looked at more often, or it is just being changed.
    NotNow,
}

/// Reads the code at RIP, in one page, with a walk of the page tables unless its page is known.
fn read(vcpu: &mut Vcpu<'_>, rip: u64, context: Context) -> Read {
    if let Some(page) = vcpu.fetch_cache().page(rip, &context) {
        if let Some(bytes) = page.read(rip) {
            return Read::Bytes(bytes);
        }
    }

    let place = code_page::place(Gva(rip).page(), context.cr3);
    let there = &vcpu.fetch_cache().pages[place];
    // What is of the past needs no place.
    let in_use =
        there.context.generation == context.generation && !there.is(Gva(rip).page(), &context);
    if in_use && !there.hold.gives_way() {
        return Read::NotNow;
    }
    let Some(page) = walk_to(vcpu, rip, context) else {
        return Read::Nothing;
    };
    let bytes = page.read(rip);
    vcpu.fetch_cache_mut().pages[place] = page;
    // What is just being changed may be there next time.
    bytes.map_or(Read::NotNow, Read::Bytes)
}

/// Decodes the first `valid` bytes of what was read, and remembers the result. Returns whether it
/// is an instruction for the fast path.
fn remember(vcpu: &mut Vcpu<'_>, rip: u64, bytes: [u64; 2], valid: usize) -> bool {
    let all = bytes.map(u64::to_le_bytes);
    let Some(access) = decode(&all.as_flattened()[..valid]) else {
        return false;
    };
    let length = usize::from(access.length);

    *vcpu.fetch_cache_mut().entry_mut(rip) = KnownInsn {
        rip,
        bytes,
        masks: [low_bytes(length), low_bytes(length.saturating_sub(7))],
        plan: Plan::new(&access, rip),
    };
    true
}

/// Walks the page tables to the code at RIP. `None` if it is not in the VM's memory or may not be
/// executed.
fn walk_to(vcpu: &mut Vcpu<'_>, rip: u64, context: Context) -> Option<CodePage> {
    let rip = Gva(rip);
    let mut ptes = [None; MAX_LEVELS];
    let mut read = ptes.iter_mut();
    // SAFETY: The function has no preconditions.
    let levels = unsafe { bindings::mmio_ext_levels(context.cpu_role) };
    let levels = usize::try_from(levels).ok()?.min(MAX_LEVELS);
    let walked = walk(context.cr3, levels, rip, |gpa| {
        let ptep = user_pointer(vcpu, gpa)?;
        let pte = read_pte(ptep)?;
        *read.next()? = Some(bindings::mmio_ext_pte { ptep, pte });
        Some(pte)
    })?;
    // KVM's walk knows the rules. It comes second: entries that change before it are found to have
    // changed when the code is read, those that change after it are other entries.
    if vcpu.translate(rip, bindings::MMIO_EXT_PFERR_FETCH, context.user)? != walked {
        return None;
    }
    let code = user_pointer(vcpu, walked.page())?;

    let root = ptes[0]?;
    Some(CodePage {
        page: rip.page(),
        context,
        code,
        ptes: ptes.map(|pte| pte.unwrap_or(root)),
        hold: Hold::new(),
    })
}

fn user_pointer(vcpu: &Vcpu<'_>, gpa: Gpa) -> Option<*const u64> {
    // SAFETY: The vCPU is alive and `kvm->srcu` is held.
    let pointer = unsafe { bindings::mmio_ext_user_pointer(vcpu.raw(), gpa.0) };
    (!pointer.is_null()).then_some(pointer)
}

fn read_pte(from: *const u64) -> Option<u64> {
    let mut pte = 0;
    // SAFETY: There is room; the function copes with any user pointer.
    unsafe { bindings::mmio_ext_read_pte(from, &mut pte) }.then_some(pte)
}
