// SPDX-License-Identifier: GPL-2.0
//! The memslots of a VM, of which one page changes.

use super::mistake::Mistake;
use crate::{addr::Gfn, generation::MemslotGeneration};
use loom::sync::atomic::{
    AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};

/// `KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS`
const IN_PROGRESS: u64 = 1 << 63;

/// By how much a generation grows: the number of address spaces.
const SPACES: u64 = 2;

/// What a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Page {
    Hole,
    /// Memory, and which.
    Ram(usize),
    /// `KVM_MEMSLOT_INVALID`: about to be deleted.
    Invalid,
    /// Memory for reads, `KVM_MEM_READONLY`.
    ReadOnly,
}

impl Page {
    fn raw(self) -> usize {
        match self {
            Self::Hole => 0,
            Self::Invalid => 1,
            Self::ReadOnly => 2,
            Self::Ram(n) => 3 + n,
        }
    }

    fn from_raw(raw: usize) -> Self {
        match raw {
            0 => Self::Hole,
            1 => Self::Invalid,
            2 => Self::ReadOnly,
            _ => Self::Ram(raw - 3),
        }
    }
}

/// `struct kvm_memslots`
struct Set {
    page: AtomicUsize,
    generation: AtomicU64,
}

/// Two sets that take turns, `kvm->memslots`.
pub(crate) struct Memslots {
    gfn: Gfn,
    sets: [Set; 2],
    active: AtomicUsize,
}

impl Memslots {
    /// Memslots in which `gfn` changes, and begins as `page`.
    pub(super) fn new(gfn: Gfn, page: Page) -> Self {
        let set = || Set {
            page: AtomicUsize::new(page.raw()),
            generation: AtomicU64::new(SPACES),
        };
        Self {
            gfn,
            sets: [set(), set()],
            active: AtomicUsize::new(0),
        }
    }

    fn active(&self) -> &Set {
        &self.sets[self.active.load(Acquire)]
    }

    pub(crate) fn generation(&self) -> MemslotGeneration {
        MemslotGeneration(self.active().generation.load(Acquire))
    }

    /// What `gfn` is, if it is the page that changes.
    pub(crate) fn page(&self, gfn: Gfn) -> Option<Page> {
        (gfn == self.gfn).then(|| Page::from_raw(self.active().page.load(Relaxed)))
    }

    /// Whether the page has a memslot.
    pub(super) fn has_slot(&self) -> bool {
        self.page(self.gfn) != Some(Page::Hole)
    }

    /// `kvm_swap_active_memslots()`: the page is `page` from now on.
    pub(super) fn swap_active(
        &self,
        page: Page,
        mistake: Option<Mistake>,
        synchronize: impl FnOnce(),
    ) {
        let old = self.active.load(Relaxed);
        let slots = &self.sets[1 - old];
        let generation = self.sets[old].generation.load(Relaxed);

        slots.page.store(page.raw(), Relaxed);
        let next = match mistake {
            Some(Mistake::SameGeneration) => generation,
            _ => generation + SPACES,
        };
        let meanwhile = match mistake {
            Some(Mistake::GenerationAtOnce) => next,
            _ => generation | IN_PROGRESS,
        };
        slots.generation.store(meanwhile, Relaxed);
        self.active.store(1 - old, Release);

        synchronize();
        slots.generation.store(next, Release);
    }
}
