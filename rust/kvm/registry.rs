// SPDX-License-Identifier: GPL-2.0

//! All vCPUs that the extension has state for, so that their statistics can be added up.

use crate::stats::{
    Snapshot,
    Stats, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

struct Registry {
    live: KVec<Arc<Stats>>,
    gone: Snapshot,
}

kernel::sync::global_lock! {
    // SAFETY: `init()` runs before anything else in the module.
    unsafe(uninit) static REGISTRY: Mutex<Registry> = Registry {
        live: KVec::new(),
        gone: Snapshot::ZERO,
    };
}

/// Makes the registry usable.
///
/// # Safety
///
/// Must be called once, before any other function of this file.
pub(crate) unsafe fn init() {
    // SAFETY: By the contract of this function.
    unsafe { REGISTRY.init() };
}

/// Adds the statistics of a vCPU. Sleeps.
pub(super) fn add(stats: Arc<Stats>) -> Result {
    Ok(REGISTRY.lock().live.push(stats, GFP_KERNEL_ACCOUNT)?)
}

/// Removes them again, keeping what was counted. Sleeps.
pub(super) fn remove(stats: &Arc<Stats>) {
    let mut registry = REGISTRY.lock();
    let registry = &mut *registry;

    if let Some(index) = registry.live.iter().position(|s| Arc::ptr_eq(s, stats)) {
        registry.gone.add(&stats.snapshot());
        // Cannot fail, the index was just found.
        let _ = registry.live.remove(index);
    }
}

/// The sum over all vCPUs, those that are gone included. Sleeps.
pub(crate) fn total() -> Snapshot {
    let registry = REGISTRY.lock();
    let mut total = registry.gone;

    registry.live.iter().for_each(|s| total.add(&s.snapshot()));
    total
}
