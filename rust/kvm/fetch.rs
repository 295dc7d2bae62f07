// SPDX-License-Identifier: GPL-2.0

//! Reading the instruction at RIP, without a walk of page tables if it was read before.
//!
//! A walk costs as much as all the rest of an access. What it depends on is little: CR3 and the
//! paging mode, one entry of each level, and the memslots. An instruction that was read is read
//! again each time, together with those entries; only if nothing at all has changed the
//! instruction that was decoded is the one at RIP.

use super::vcpu::{AssistBytes, Vcpu};
use crate::{
    addr::{Gpa, Gva},
    decode::{decode, Access, MAX_LENGTH},
    generation::MemslotGeneration,
    guest_walk::{walk, MAX_LEVELS},
    stats::Event, //
};
use core::mem::{size_of, MaybeUninit};
use kvm_bindings as bindings;

/// Instructions that are remembered.
const ENTRIES: usize = 16;

/// Spreads neighbouring instructions over the entries: 2^64 divided by the golden ratio (Knuth, The
/// Art of Computer Programming, volume 3, section 6.4).
const HASH: u64 = 0x9e37_79b9_7f4a_7c15;

/// How often an instruction is refused without looking at it again.
const REFUSALS: u8 = 200;

/// The bytes that are read at RIP: enough for the longest instruction.
const WINDOW: usize = size_of::<[u64; 2]>();

const _: () = assert!(WINDOW > MAX_LENGTH);
const _: () = assert!(MAX_LEVELS == bindings::MMIO_EXT_ROOT_MAX_LEVEL as usize);

/// What the translation of the current instruction depends on, for a vCPU that runs plain 64-bit
/// code of L1.
pub(crate) struct Context(bindings::kvm_mmio_ext_context);

impl Context {
    /// Where the instruction is. In 64-bit mode that is a linear address.
    #[inline(always)]
    pub(crate) fn rip(&self) -> u64 {
        self.0.rip as u64
    }

    /// The privilege level, 0 to 3.
    #[inline(always)]
    pub(super) fn cpl(&self) -> i32 {
        self.0.cpl
    }
}

/// An instruction that was read.
#[derive(Clone, Copy)]
struct Entry {
    context: bindings::kvm_mmio_ext_context,
    generation: MemslotGeneration,
    fetch: bindings::mmio_ext_fetch,
    /// `None` if it is not for the fast path.
    access: Option<Access>,
}

impl Entry {
    /// Whether it is what a walk and a read would find now.
    #[inline(always)]
    fn holds(&self, context: &Context, generation: MemslotGeneration) -> bool {
        let (then, now) = (&self.context, &context.0);
        then.rip == now.rip
            && then.cr3 == now.cr3
            && then.cpu_role == now.cpu_role
            && then.cpl == now.cpl
            && self.generation == generation
            // SAFETY: The pointers are to the address space of this process, whatever is there.
            && unsafe { bindings::mmio_ext_fetch_is_current(&self.fetch) }
    }
}

/// The cache of a vCPU.
pub(super) struct FetchCache {
    entries: [Option<Entry>; ENTRIES],
    /// The last instruction that was not for the fast path, and how often it is refused yet.
    unfit_rip: u64,
    unfit: u8,
}

impl FetchCache {
    pub(super) const fn new() -> Self {
        Self {
            entries: [None; ENTRIES],
            unfit_rip: 0,
            unfit: 0,
        }
    }

    /// Whether the instruction at `rip` was refused a short time ago. It may have changed since;
    /// then some accesses more than necessary go to the emulator, which is no harm.
    #[inline(always)]
    pub(super) fn is_known_unfit(&mut self, rip: impl FnOnce() -> u64) -> bool {
        if self.unfit == 0 || self.unfit_rip != rip() {
            return false;
        }
        self.unfit -= 1;
        true
    }

    fn remember_unfit(&mut self, rip: u64) {
        self.unfit_rip = rip;
        self.unfit = REFUSALS;
    }

    #[inline(always)]
    fn slot(&mut self, rip: u64) -> &mut Option<Entry> {
        let top = rip.wrapping_mul(HASH) >> (u64::BITS - ENTRIES.ilog2());
        &mut self.entries[top as usize % ENTRIES]
    }
}

/// Enters the context, `None` if the vCPU runs anything but plain 64-bit code of L1.
#[inline(always)]
pub(super) fn enter_context(vcpu: &mut Vcpu<'_>) -> Option<Context> {
    let mut context = MaybeUninit::uninit();
    // SAFETY: The vCPU is in its own thread, handling an exit.
    if !unsafe { bindings::kvm_mmio_ext_can_complete(vcpu.raw(), context.as_mut_ptr()) } {
        return None;
    }
    // SAFETY: The function has filled it in.
    Some(Context(unsafe { context.assume_init() }))
}

/// Reads and decodes the instruction at RIP, or tells why that is not to be.
#[inline(always)]
pub(super) fn fetch(
    vcpu: &mut Vcpu<'_>,
    context: &Context,
    assist: AssistBytes,
    generation: MemslotGeneration,
) -> Result<Access, Event> {
    // What the processor has read is what it has executed.
    if let Some(bytes) = assist.bytes() {
        return decode(bytes).ok_or_else(|| refuse(vcpu, context));
    }

    let access = match vcpu.fetch_cache().slot(context.rip()) {
        Some(entry) if entry.holds(context, generation) => entry.access,
        _ => read(vcpu, context, generation)?,
    };
    access.ok_or_else(|| refuse(vcpu, context))
}

/// Reads the instruction with a walk of the page tables, and remembers all that was read: also
/// that the instruction is not one for the fast path.
#[inline(never)]
fn read(
    vcpu: &mut Vcpu<'_>,
    context: &Context,
    generation: MemslotGeneration,
) -> Result<Option<Access>, Event> {
    let fetch = walk_and_read(vcpu, context).ok_or(Event::RefusedFetch)?;
    let mut bytes = [0; WINDOW];
    for (bytes, word) in bytes.chunks_mut(size_of::<u64>()).zip(fetch.bytes) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    let access = decode(&bytes);

    *vcpu.fetch_cache().slot(context.rip()) = Some(Entry {
        context: context.0,
        generation,
        fetch,
        access,
    });
    Ok(access)
}

/// Refuses an instruction, and the next times without looking.
#[cold]
fn refuse(vcpu: &mut Vcpu<'_>, context: &Context) -> Event {
    vcpu.fetch_cache().remember_unfit(context.rip());
    Event::RefusedInsn
}

/// `None` if the instruction is not in the VM's memory, may not be executed, or is so close to the
/// end of its page that another page would have to be looked at.
fn walk_and_read(vcpu: &mut Vcpu<'_>, context: &Context) -> Option<bindings::mmio_ext_fetch> {
    let rip = Gva(context.rip());
    let offset = (rip.0 - rip.page().0) as usize;
    if offset + WINDOW > bindings::MMIO_EXT_PAGE_SIZE as usize {
        return None;
    }

    // KVM's walk knows the rules, and sets the accessed bits.
    // SAFETY: The vCPU is in its own thread and `kvm->srcu` is held.
    let gpa =
        Gpa(unsafe { bindings::mmio_ext_translate_fetch(vcpu.raw(), rip.0 as _, context.cpl()) });
    if gpa.0 == bindings::MMIO_EXT_INVALID_GPA {
        return None;
    }

    let mut fetch = bindings::mmio_ext_fetch {
        bytes: [0; 2],
        code: user_pointer(vcpu, gpa)?,
        nr_ptes: 0,
        ptes: [bindings::mmio_ext_pte {
            ptep: core::ptr::null(),
            pte: 0,
        }; MAX_LEVELS],
    };
    // SAFETY: The function has no preconditions.
    let levels = unsafe { bindings::mmio_ext_levels(context.0.cpu_role) };
    let levels = usize::try_from(levels).ok()?.min(MAX_LEVELS);
    let walked = walk(context.0.cr3 as u64, levels, rip, |gpa| {
        let ptep = user_pointer(vcpu, gpa)?;
        let [pte] = read_user(ptep)?;
        fetch.ptes[fetch.nr_ptes as usize] = bindings::mmio_ext_pte { ptep, pte };
        fetch.nr_ptes += 1;
        Some(pte)
    })?;
    // Both walks must agree; they cannot if the tables change meanwhile.
    if walked != gpa {
        return None;
    }

    fetch.bytes = read_user(fetch.code)?;
    Some(fetch)
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
