// SPDX-License-Identifier: GPL-2.0
//! How much to do.

use crate::tap::Setting;

/// Of each kind.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub seed: u64,
    pub vcpus: u64,
    /// Turns of the switch `enabled`.
    pub switches: u64,
    /// Changes of each memslot, and of each ioeventfd.
    pub changes: u64,
}

pub static LIMITS: Setting<Limits> = Setting::new();
