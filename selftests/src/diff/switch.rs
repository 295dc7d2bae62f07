// SPDX-License-Identifier: GPL-2.0
//! What is off and on: the extension, its fast path, or what that does with interrupts off.

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
    /// What the fast path does before interrupts are on again: it does that later.
    Irqsoff,
}

impl fmt::Display for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Enabled => "enabled",
            Self::Fast => "fast",
            Self::Irqsoff => "irqsoff",
        })
    }
}

impl Switch {
    pub const ALL: [Self; 3] = [Self::Enabled, Self::Fast, Self::Irqsoff];

    pub fn get(self) -> Option<bool> {
        match self {
            Self::Enabled => host::extension_enabled(),
            Self::Fast => host::fast_path(),
            Self::Irqsoff => host::irqs_off(),
        }
    }

    pub fn set(self, on: bool) -> Result<()> {
        match self {
            Self::Enabled => host::set_extension(on).context("the parameter `enabled`"),
            Self::Fast => host::set_fast_path(on).context("the parameter `fast`"),
            Self::Irqsoff => host::set_irqs_off(on).context("the parameter `irqsoff`"),
        }
    }

    /// How often each program runs before the next, off as well as on. Only instructions and doorbells
    /// that are known are answered with interrupts off, which those of a program are when it runs
    /// again.
    pub fn runs(self) -> usize {
        match self {
            Self::Enabled | Self::Fast => 1,
            Self::Irqsoff => 2,
        }
    }
}
