// SPDX-License-Identifier: GPL-2.0
//! What is off and on: the extension, or its fast path.

use std::fmt;

use anyhow::{Context, Result};

use crate::host;

/// What is off when a program runs for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Switch {
    /// The extension: KVM's C code does everything.
    Enabled,
    /// Its fast path: KVM's emulator does the accesses.
    Fast,
}

impl fmt::Display for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Enabled => "enabled",
            Self::Fast => "fast",
        })
    }
}

impl Switch {
    pub const ALL: [Self; 2] = [Self::Enabled, Self::Fast];

    pub fn get(self) -> Option<bool> {
        match self {
            Self::Enabled => host::extension_enabled(),
            Self::Fast => host::fast_path(),
        }
    }

    pub fn set(self, on: bool) -> Result<()> {
        match self {
            Self::Enabled => host::set_extension(on).context("the parameter `enabled`"),
            Self::Fast => host::set_fast_path(on).context("the parameter `fast`"),
        }
    }
}
