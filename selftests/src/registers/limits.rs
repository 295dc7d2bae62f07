// SPDX-License-Identifier: GPL-2.0
//! How much to do.

use std::sync::OnceLock;

/// Of each kind.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub seed: u64,
    /// Ioctls.
    pub calls: u64,
    /// Accesses of the guest to a word that others change, at least.
    pub accesses: u64,
}

static LIMITS: OnceLock<Limits> = OnceLock::new();

/// Sets the limits, before the first test runs.
pub fn set_limits(limits: Limits) {
    LIMITS.set(limits).expect("the limits are set once");
}

pub fn limits() -> Limits {
    *LIMITS.get().expect("the limits have been set")
}
