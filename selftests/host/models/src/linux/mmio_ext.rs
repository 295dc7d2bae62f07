// SPDX-License-Identifier: GPL-2.0
//! What hangs off a vCPU as `vcpu->arch.mmio_ext`: that of `src/state.rs`.

use super::bus::Bell;
use crate::{
    addr::Gpa,
    insns::FetchCache,
    prelude::*,
    pure::{
        bells::Bells,
        gpr::{Extend, Register},
        info_cache::{Clear, InfoCache},
        refused::Refused, //
    },
    report::{
        registry,
        stats::{Event, Stats}, //
    },
    sync::Arc,
};
use pin_init::{init_zeroed, Zeroable};

/// What a vCPU has of the extension.
pub(crate) struct State {
    pub(crate) stats: Stats,
    pub(crate) info_cache: Box<InfoCache>,
    pub(crate) faulting_in: bool,
    pub(crate) fetch_cache: Box<FetchCache>,
    pub(crate) bells: Box<Bells<Bell>>,
    pub(crate) pending_load: Option<PendingLoad>,
}

// SAFETY: As in `src/state.rs`.
unsafe impl Zeroable for InfoCache {}
// SAFETY: As in `src/state.rs`.
unsafe impl Zeroable for Bells<Bell> {}
// SAFETY: As in `src/state.rs`.
unsafe impl Zeroable for Refused {}

impl State {
    pub(crate) fn new() -> Self {
        Self {
            stats: *Stats::init().make(),
            info_cache: init_zeroed().make(),
            faulting_in: false,
            fetch_cache: FetchCache::init().make(),
            bells: init_zeroed().make(),
            pending_load: None,
        }
    }

    pub(crate) fn clear_info(&mut self, what: Clear) {
        self.info_cache.clear(what);
    }

    /// How many faults a cache, an MMIO SPTE or a read-only memslot has answered.
    pub(crate) fn hits(&self) -> u64 {
        let now = self.stats.snapshot();
        [Event::CacheHit, Event::SpteHit, Event::ReadOnly]
            .map(|event| now.get(event))
            .iter()
            .sum()
    }

    /// How many accesses the fast path has completed.
    pub(crate) fn fast(&self) -> u64 {
        self.stats.snapshot().fast()
    }

    pub(crate) fn is_faulting_in(&self) -> bool {
        self.faulting_in
    }
}

/// Of a vCPU's state what the life of a VM is about: `State::new()` and its end.
pub(crate) struct OwnState(Arc<Stats>);

impl OwnState {
    pub(crate) fn new() -> Result<Self> {
        let stats = Arc::init(Stats::init(), GFP_KERNEL_ACCOUNT)?;
        registry::add(VM, 1, 0, stats.clone())?;
        Ok(Self(stats))
    }

    pub(crate) fn count_access(&self) {
        self.0.count(Event::CacheFilled);
    }

    pub(crate) fn free(self) {
        registry::remove(&self.0);
    }
}

/// The number of the one VM.
const VM: u64 = 1;

#[derive(Clone, Copy)]
pub(crate) struct PendingLoad {
    pub(crate) gpa: Gpa,
    pub(crate) register: Register,
    pub(crate) extend: Extend,
    pub(crate) size: u8,
    pub(crate) next_rip: u64,
}
