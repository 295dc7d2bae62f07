// SPDX-License-Identifier: GPL-2.0

//! Reading the instruction at RIP, without a walk of page tables if it was read before.
//!
//! A walk costs as much as all the rest of an access. What it depends on is little: CR3 and the
//! paging mode, one entry of each level, and the memslots. An instruction that was read is read
//! again each time, together with those entries; only if nothing at all has changed the
//! instruction that was decoded is the one at RIP. Where the processor reports the bytes that it
//! has executed, they need only be compared.

use super::vcpu::{AssistBytes, Mode, Vcpu};
use crate::{
    addr::{Gpa, Gva},
    decode::{decode, MAX_LENGTH},
    generation::MemslotGeneration,
    guest_walk::{walk, MAX_LEVELS},
    plan::Plan,
    stats::Event, //
};
use core::{cell::Cell, mem::size_of};
use kernel::prelude::*;
use kvm_bindings as bindings;
use pin_init::init_array_from_fn;

/// Instructions that are remembered, a power of two.
const ENTRIES: usize = 32;

/// How often an instruction is refused without looking at it again.
const REFUSALS: u16 = 1000;

/// The bytes that are read at RIP: enough for the longest instruction.
const WINDOW: usize = size_of::<[u64; 2]>();

const _: () = assert!(WINDOW > MAX_LENGTH);
const _: () = assert!(MAX_LEVELS == bindings::MMIO_EXT_ROOT_MAX_LEVEL as usize);

/// No instruction is here: the address is not canonical.
const NOWHERE: u64 = 1 << 63;

/// What the translation of an instruction's address depends on, but for page tables.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Context {
    cr3: u64,
    /// `union kvm_cpu_role`: paging and its features.
    cpu_role: u64,
    generation: MemslotGeneration,
    user: bool,
}

impl Context {
    /// Of no vCPU: nothing is translated while the memslots change.
    const NONE: Self = Self {
        cr3: 0,
        cpu_role: 0,
        generation: MemslotGeneration(!0),
        user: false,
    };
}

/// An instruction that was read, or refused.
pub(crate) struct KnownInsn {
    rip: Cell<u64>,
    context: Context,
    /// What was read, if `context` is that of a vCPU.
    fetch: bindings::mmio_ext_fetch,
    /// What the instruction does, unless it is refused.
    plan: Plan,
    /// The bytes that belong to it, of the first eight and of those from the eighth on.
    masks: [u64; 2],
    /// How often it is refused yet, and why.
    refusals: Cell<u16>,
    reason: Event,
}

impl KnownInsn {
    const fn empty() -> Self {
        Self {
            rip: Cell::new(NOWHERE),
            context: Context::NONE,
            fetch: NO_FETCH,
            plan: Plan::EMPTY,
            masks: [0; 2],
            refusals: Cell::new(0),
            reason: Event::RefusedInsn,
        }
    }

    /// Whether the instruction is what a walk and a read would find now.
    #[inline(always)]
    fn is_at_rip(&self, context: &Context) -> bool {
        self.context == *context
            // SAFETY: The pointers are to the address space of this process, whatever is there.
            && unsafe { bindings::mmio_ext_fetch_is_current(&self.fetch) }
    }

    /// Whether the instruction is the one that the processor has executed.
    #[inline(always)]
    fn is_executed(&self, bytes: [u64; 2]) -> bool {
        let [first, last] = overlapping(self.fetch.bytes);
        ((bytes[0] ^ first) & self.masks[0]) | ((bytes[1] ^ last) & self.masks[1]) == 0
    }

    /// What the instruction does, if it is still the one at RIP. The vCPU runs 64-bit code of L1;
    /// `generation` is that of the memslots now.
    #[inline(always)]
    pub(crate) fn plan(
        &self,
        vcpu: &Vcpu<'_>,
        mode: Mode,
        assist: AssistBytes,
        generation: MemslotGeneration,
    ) -> Option<&Plan> {
        let holds = match assist.words() {
            Some(words) => self.is_executed(words),
            None => self.is_at_rip(&context(vcpu, mode, generation)),
        };
        holds.then_some(&self.plan)
    }

    /// Refuses the instruction, and the next times without looking. It may change meanwhile; then
    /// some accesses more than necessary go to the emulator, which is no harm.
    fn refuse(&mut self, rip: u64, reason: Event) -> Event {
        *self = Self {
            rip: Cell::new(rip),
            refusals: Cell::new(REFUSALS),
            reason,
            ..Self::empty()
        };
        reason
    }

    /// Refuses the instruction once more; the last time forgets it.
    #[inline(always)]
    fn refuse_again(&self) -> Event {
        let left = self.refusals.get() - 1;
        self.refusals.set(left);
        if left == 0 {
            self.rip.set(NOWHERE);
        }
        self.reason
    }
}

const NO_FETCH: bindings::mmio_ext_fetch = bindings::mmio_ext_fetch {
    bytes: [0; 2],
    code: core::ptr::null(),
    ptes: [bindings::mmio_ext_pte {
        ptep: core::ptr::null(),
        pte: 0,
    }; MAX_LEVELS],
};

/// The bytes 0 to 7 and 7 to 14, as the processor reports 15.
#[inline(always)]
const fn overlapping(bytes: [u64; 2]) -> [u64; 2] {
    [bytes[0], bytes[0] >> 56 | bytes[1] << 8]
}

/// The low `count` bytes of a word, at most all.
const fn low_bytes(count: usize) -> u64 {
    match count {
        0 => 0,
        1..=7 => (1 << (8 * count)) - 1,
        _ => u64::MAX,
    }
}

/// The cache of a vCPU.
pub(super) struct FetchCache {
    entries: [KnownInsn; ENTRIES],
}

impl FetchCache {
    pub(super) fn init() -> impl Init<Self> {
        init!(Self {
            entries <- init_array_from_fn(|_| KnownInsn::empty()),
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

    /// The entry of the instruction at `rip`.
    #[inline(always)]
    fn find(&self, rip: u64) -> Option<&KnownInsn> {
        let place = Self::place(rip);
        let first = &self.entries[place];
        if first.rip.get() == rip {
            return Some(first);
        }
        let second = &self.entries[Self::other(place)];
        (second.rip.get() == rip).then_some(second)
    }

    /// An entry for the instruction at `rip`. What was in its place moves on, so that two with the
    /// same place do not drive out each other.
    fn entry_mut(&mut self, rip: u64) -> &mut KnownInsn {
        let place = Self::place(rip);
        let other = Self::other(place);
        let here = self.entries[place].rip.get();
        if here == rip || here == NOWHERE {
            return &mut self.entries[place];
        }
        if self.entries[other].rip.get() == rip {
            return &mut self.entries[other];
        }
        self.entries.swap(place, other);
        &mut self.entries[place]
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

/// The instruction at RIP, if one was read there.
///
/// # Errors
///
/// Why it was refused a short time ago, `None` if none was read.
#[inline(always)]
pub(super) fn known_insn<'a>(vcpu: &'a Vcpu<'_>) -> Result<&'a KnownInsn, Option<Event>> {
    let rip = vcpu.rip();
    let insn = vcpu.fetch_cache().find(rip).ok_or(None)?;
    if insn.refusals.get() != 0 {
        return Err(Some(insn.refuse_again()));
    }
    Ok(insn)
}

/// Reads and decodes the instruction at RIP, or tells why that is not to be. Under the same
/// conditions as [`KnownInsn::plan`].
pub(super) fn fetch(vcpu: &mut Vcpu<'_>, mode: Mode, assist: AssistBytes) -> Result<(), Event> {
    let generation = vcpu.memslots_generation();
    // Nobody can tell which memslots an instruction is read from while they change.
    if generation.update_in_progress() {
        return Err(Event::RefusedContext);
    }

    let rip = vcpu.rip();
    match assist.words() {
        Some([first, last]) => {
            let fetch = bindings::mmio_ext_fetch {
                bytes: [first, last >> 8],
                ..NO_FETCH
            };
            remember(vcpu, rip, Context::NONE, fetch, assist.len())
        }
        None => read(vcpu, rip, context(vcpu, mode, generation)),
    }
}

/// Reads the instruction with a walk of the page tables, and remembers all that was read.
fn read(vcpu: &mut Vcpu<'_>, rip: u64, context: Context) -> Result<(), Event> {
    match walk_and_read(vcpu, rip, &context) {
        Some(fetch) => remember(vcpu, rip, context, fetch, WINDOW),
        None => Err(vcpu
            .fetch_cache_mut()
            .entry_mut(rip)
            .refuse(rip, Event::RefusedFetch)),
    }
}

/// Decodes the first `valid` bytes of what was read, and remembers the result.
fn remember(
    vcpu: &mut Vcpu<'_>,
    rip: u64,
    context: Context,
    fetch: bindings::mmio_ext_fetch,
    valid: usize,
) -> Result<(), Event> {
    let bytes = fetch.bytes.map(u64::to_le_bytes);
    let entry = vcpu.fetch_cache_mut().entry_mut(rip);
    let Some(access) = decode(&bytes.as_flattened()[..valid]) else {
        return Err(entry.refuse(rip, Event::RefusedInsn));
    };
    let length = usize::from(access.length);

    *entry = KnownInsn {
        rip: Cell::new(rip),
        context,
        fetch,
        plan: Plan::new(&access, rip),
        masks: [low_bytes(length), low_bytes(length.saturating_sub(7))],
        ..KnownInsn::empty()
    };
    Ok(())
}

/// `None` if the instruction is not in the VM's memory, may not be executed, or is so close to the
/// end of its page that another page would have to be looked at.
fn walk_and_read(
    vcpu: &mut Vcpu<'_>,
    rip: u64,
    context: &Context,
) -> Option<bindings::mmio_ext_fetch> {
    let rip = Gva(rip);
    let offset = (rip.0 - rip.page().0) as usize;
    if offset + WINDOW > bindings::MMIO_EXT_PAGE_SIZE as usize {
        return None;
    }

    // KVM's walk knows the rules, and sets the accessed bits.
    // SAFETY: The vCPU is in its own thread and `kvm->srcu` is held.
    let gpa =
        Gpa(unsafe { bindings::mmio_ext_translate_fetch(vcpu.raw(), rip.0 as _, context.user) });
    if gpa.0 == bindings::MMIO_EXT_INVALID_GPA as u64 {
        return None;
    }

    let code = user_pointer(vcpu, gpa)?;
    let mut ptes = [None; MAX_LEVELS];
    let mut read = ptes.iter_mut();
    // SAFETY: The function has no preconditions.
    let levels = unsafe { bindings::mmio_ext_levels(context.cpu_role) };
    let levels = usize::try_from(levels).ok()?.min(MAX_LEVELS);
    let walked = walk(context.cr3, levels, rip, |gpa| {
        let ptep = user_pointer(vcpu, gpa)?;
        let [pte] = read_user(ptep)?;
        *read.next()? = Some(bindings::mmio_ext_pte { ptep, pte });
        Some(pte)
    })?;
    // Both walks must agree; they cannot if the tables change meanwhile.
    if walked != gpa {
        return None;
    }

    let bytes = read_user(code)?;
    // Levels that there are not: the code once more.
    let none = bindings::mmio_ext_pte {
        ptep: code,
        pte: bytes[0],
    };
    Some(bindings::mmio_ext_fetch {
        bytes,
        code,
        ptes: ptes.map(|pte| pte.unwrap_or(none)),
    })
}

fn user_pointer(vcpu: &Vcpu<'_>, gpa: Gpa) -> Option<*const u64> {
    // SAFETY: The vCPU is alive and `kvm->srcu` is held.
    let pointer = unsafe { bindings::mmio_ext_user_pointer(vcpu.raw(), gpa.0) };
    (!pointer.is_null()).then_some(pointer)
}

fn read_user<const N: usize>(from: *const u64) -> Option<[u64; N]> {
    let mut words = [0; N];
    // SAFETY: There is room for `N` words; the function copes with any user pointer.
    unsafe { bindings::mmio_ext_read_user(from, words.as_mut_ptr(), N as u32) }.then_some(words)
}
