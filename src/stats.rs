// SPDX-License-Identifier: GPL-2.0

//! What the extension did, counted for each vCPU.

use crate::kvm::Counter;
use core::fmt;
use kernel::sync::atomic::{Atomic, Relaxed};

/// MMIO SPTEs that were zapped. That is done to a VM rather than by a vCPU, and rarely.
static ZAPPED: Atomic<i64> = Atomic::new(0);

/// Counts an MMIO SPTE that is zapped. To be called in any context.
pub(crate) fn count_zap() {
    ZAPPED.add(1, Relaxed);
}

/// How many MMIO SPTEs were zapped.
pub(crate) fn zapped() -> i64 {
    ZAPPED.load(Relaxed)
}

/// Declares the events with the names under which debugfs shows them.
macro_rules! events {
    ($($(#[doc = $doc:literal])* $event:ident = $name:literal,)*) => {
        /// Something that is counted.
        #[derive(Clone, Copy)]
        pub(crate) enum Event {
            $($(#[doc = $doc])* $event,)*
        }

        const NAMES: &[&str] = &[$($name),*];
    };
}

events! {
    /// An MMIO fault was found in the vCPU's info cache.
    CacheHit = "cache_hit",
    /// An MMIO fault was found as an MMIO SPTE of the current generation.
    SpteHit = "spte_hit",
    /// There was an MMIO SPTE of another generation; the page is faulted in anew.
    SpteStale = "spte_stale",
    /// There was no MMIO SPTE any more; the guest tries again.
    Retry = "retry",
    /// An access signalled a zero-length ioeventfd.
    Wildcard = "wildcard",
    /// An access was completed by the fast path, without the emulator.
    Fast = "fast",
    /// The fast path refused: the vCPU is not running plain 64-bit code of L1.
    RefusedContext = "refused_context",
    /// The fast path refused: the instruction could not be read, or it is close to a page's end.
    RefusedFetch = "refused_fetch",
    /// The fast path refused: the instruction is not one that it knows.
    RefusedInsn = "refused_insn",
    /// The fast path refused: the operand's address is not the fault's, or crosses a page.
    RefusedAddress = "refused_address",
    /// The fast path refused: the guest's page tables do not allow the access.
    RefusedAccess = "refused_access",
    /// An exit was left to KVM's C code, which asks again only whether the fault is MMIO.
    Passed = "passed",
    /// An MMIO SPTE was encoded.
    SpteMade = "spte_made",
    /// An MMIO SPTE was kept when its shadow page was synchronized.
    SpteSynced = "spte_synced",
    /// An MMIO SPTE was dropped then, the guest's page table maps something else.
    SpteSyncDropped = "spte_sync_dropped",
    /// A page was put into the info cache.
    CacheFilled = "cache_filled",
    /// Virtual addresses in the info cache were forgotten.
    CacheCleared = "cache_cleared",
}

/// The counters of one vCPU.
#[derive(Default)]
pub(crate) struct Stats([Counter; NAMES.len()]);

impl Stats {
    /// Counts an event. To be called in the vCPU's thread only.
    #[inline(always)]
    pub(crate) fn count(&self, event: Event) {
        self.0[event as usize].inc();
    }

    /// The counters now. Each is right, but they may be of slightly different times.
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot(core::array::from_fn(|event| self.0[event].get()))
    }
}

/// The values of the counters, of a vCPU or of several.
#[derive(Clone, Copy)]
pub(crate) struct Snapshot([u64; NAMES.len()]);

impl Snapshot {
    /// Nothing has happened.
    pub(crate) const ZERO: Self = Self([0; NAMES.len()]);

    /// Adds those of another vCPU.
    pub(crate) fn add(&mut self, other: &Self) {
        for (sum, n) in self.0.iter_mut().zip(other.0) {
            *sum = sum.wrapping_add(n);
        }
    }
}

impl Snapshot {
    const fn get(&self, event: Event) -> u64 {
        self.0[event as usize]
    }

    /// Accesses that were found to be MMIO.
    const fn hits(&self) -> u64 {
        self.get(Event::CacheHit)
            .wrapping_add(self.get(Event::SpteHit))
    }

    /// Accesses that went to the instruction emulator.
    const fn emulated(&self) -> u64 {
        self.hits().wrapping_sub(self.get(Event::Fast))
    }

    /// MMIO faults (EPT misconfigurations, or with a reserved bit) that were handled here: each
    /// has one outcome.
    const fn faults(&self) -> u64 {
        self.hits()
            .wrapping_add(self.get(Event::SpteStale))
            .wrapping_add(self.get(Event::Retry))
            .wrapping_add(self.get(Event::Wildcard))
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "faults {}", self.faults())?;
        writeln!(f, "emulated {}", self.emulated())?;
        NAMES
            .iter()
            .zip(self.0)
            .try_for_each(|(name, n)| writeln!(f, "{name} {n}"))
    }
}
