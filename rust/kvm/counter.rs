// SPDX-License-Identifier: GPL-2.0

//! Statistics counters with one writer.

use core::{
    cell::UnsafeCell,
    ptr, //
};

/// A counter that one thread at a time increments, a vCPU's, and any thread reads.
///
/// As KVM's own statistics it needs no atomic read-modify-write. Reading is racy by design and
/// never torn.
#[derive(Default)]
pub(crate) struct Counter(UnsafeCell<u64>);

// SAFETY: All accesses are volatile, aligned accesses of one machine word, the kernel's
// `READ_ONCE()` and `WRITE_ONCE()`, which may race.
unsafe impl Sync for Counter {}

impl Counter {
    /// Adds one. An increment gets lost if two threads do so at once; that is not done.
    #[inline(always)]
    pub(crate) fn inc(&self) {
        // SAFETY: The pointer is valid and aligned as it comes from a reference, see also the
        // implementation of `Sync`.
        unsafe { ptr::write_volatile(self.0.get(), self.get().wrapping_add(1)) };
    }

    /// The current value.
    #[inline(always)]
    pub(crate) fn get(&self) -> u64 {
        // SAFETY: As in `inc()`.
        unsafe { ptr::read_volatile(self.0.get()) }
    }
}
