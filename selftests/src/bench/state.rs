// SPDX-License-Identifier: GPL-2.0
//! The states of the extension that are compared.

use anyhow::{Context, Result};

use crate::host;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// KVM's C code; also when the extension is not loaded.
    Off,
    /// On, without the fast path: what the patch of 2011 did.
    Seed,
    On,
}

impl State {
    /// Those that this machine can be in.
    pub fn all() -> &'static [Self] {
        match (host::extension_enabled(), host::fast_path()) {
            (None, _) => &[Self::Off],
            (Some(_), None) => &[Self::Off, Self::On],
            (Some(_), Some(_)) => &[Self::Off, Self::Seed, Self::On],
        }
    }

    /// Puts the extension, if it is loaded, into this state.
    pub fn enter(self) -> Result<()> {
        if host::extension_enabled().is_some() {
            host::set_extension(self != Self::Off).context("switching the extension")?;
        }
        if self != Self::Off && host::fast_path().is_some() {
            host::set_fast_path(self == Self::On).context("switching the fast path")?;
        }
        Ok(())
    }
}

/// The extension's switches as they are now; puts them back when it is dropped.
pub struct Restore {
    enabled: Option<bool>,
    fast: Option<bool>,
}

impl Restore {
    pub fn later() -> Self {
        Self {
            enabled: host::extension_enabled(),
            fast: host::fast_path(),
        }
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        // What could be written before can be written again; a drop has nobody to tell.
        if let Some(enabled) = self.enabled {
            let _ = host::set_extension(enabled);
        }
        if let Some(fast) = self.fast {
            let _ = host::set_fast_path(fast);
        }
    }
}
