// SPDX-License-Identifier: GPL-2.0

//! Statistics counters with one writer.

// Not `kernel::sync::atomic`: there each load and each store is a call of a C helper, unless the
// kernel has CONFIG_RUST_INLINE_HELPERS, which those that are tested have not, and there is no
// `u8`. Besides, the host tests compile this file without a kernel.
use core::sync::atomic::{
    AtomicU64,
    AtomicU8,
    Ordering::{Acquire, Relaxed, Release}, //
};

/// A number that one thread at a time changes, a vCPU's, and any thread reads.
///
/// As KVM's own statistics it needs no atomic read-modify-write. Reading is racy by design and
/// never torn; who reads one counter and then another sees the second at least as it was when the
/// first got its value. On x86 that is free, and a change is one instruction.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// A counter that begins with this value.
    pub(crate) const fn new(value: u64) -> Self {
        Self(AtomicU64::new(value))
    }

    /// Adds one. An increment gets lost if two threads do so at once; that is not done.
    #[inline(always)]
    pub(crate) fn inc(&self) {
        self.add(1);
    }

    /// Adds a number, as [`Counter::inc`] does.
    #[inline(always)]
    pub(crate) fn add(&self, n: u64) {
        self.set(self.0.load(Relaxed).wrapping_add(n));
    }

    /// Changes the value.
    #[inline(always)]
    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Release);
    }

    /// The current value.
    #[inline(always)]
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Acquire)
    }
}

/// The same for a number that is small and only replaced.
pub(crate) struct Byte(AtomicU8);

impl Byte {
    /// One that begins with this value.
    pub(crate) const fn new(value: u8) -> Self {
        Self(AtomicU8::new(value))
    }

    /// Changes the value.
    #[inline(always)]
    pub(crate) fn set(&self, value: u8) {
        self.0.store(value, Release);
    }

    /// The current value.
    #[inline(always)]
    pub(crate) fn get(&self) -> u8 {
        self.0.load(Acquire)
    }
}
