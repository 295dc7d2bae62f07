// SPDX-License-Identifier: GPL-2.0
//! How much to do.

use crate::tap::Setting;

/// Of each kind.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub seed: u64,
    /// Ioctls.
    pub calls: u64,
    /// Accesses of the guest to a word that others change, at least.
    pub accesses: u64,
}

pub static LIMITS: Setting<Limits> = Setting::new();
