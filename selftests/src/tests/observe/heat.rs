// SPDX-License-Identifier: GPL-2.0
//! The parameter `heat`.

use anyhow::Result;

use crate::host;
use crate::skip;

pub const HEAT: &str = "/sys/module/kvm_mmio_ext/parameters/heat";

/// The parameter `heat`, which is put back at the end.
pub struct Heat(host::Switch);

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
        let heat = Self(host::Switch::keep("kvm_mmio_ext", "heat")?);
        heat.set(false)?;
        Ok(heat)
    }

    pub fn set(&self, on: bool) -> Result<()> {
        self.0.set(on)
    }
}
