// SPDX-License-Identifier: GPL-2.0
//! The parameter `heat`.

use std::fs;

use anyhow::{Context, Result};

use crate::host;
use crate::skip;

pub const HEAT: &str = "/sys/module/kvm_mmio_ext/parameters/heat";

/// The parameter `heat`, which is put back at the end.
pub struct Heat {
    before: String,
}

impl Heat {
    pub fn on() -> Result<Self> {
        let heat = Self::off()?;
        heat.set(true)?;
        Ok(heat)
    }

    pub fn off() -> Result<Self> {
        if host::extension_enabled() != Some(true) {
            skip!("the extension is not on");
        }
        let before = fs::read_to_string(HEAT).context(HEAT)?;
        let heat = Self { before };
        heat.set(false)?;
        Ok(heat)
    }

    pub fn set(&self, on: bool) -> Result<()> {
        fs::write(HEAT, if on { "Y" } else { "N" }).context(HEAT)
    }
}

impl Drop for Heat {
    fn drop(&mut self) {
        // A test that fails has said so already.
        let _ = fs::write(HEAT, &self.before);
    }
}
