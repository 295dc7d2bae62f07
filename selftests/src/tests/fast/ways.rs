// SPDX-License-Identifier: GPL-2.0
//! The ways in which the same is run, between which nothing may differ: without the extension,
//! without its fast path and with it.

use std::fmt::Debug;

use anyhow::{Context, Result};

use crate::host::{self, Modes, Vendor};
use crate::{expect_eq, skip};

/// The parameter `fast`, which is put back at the end.
pub struct Switch {
    before: bool,
}

impl Switch {
    pub fn new() -> Result<Self> {
        if host::extension_enabled() != Some(true) {
            skip!("the extension is not on");
        }
        if !Modes::detect()?.mmio_caching {
            skip!("without MMIO SPTEs there is no fast path");
        }
        match host::fast_path() {
            Some(before) => Ok(Self { before }),
            None => skip!("the extension has no fast path"),
        }
    }

    pub fn on() -> Result<Self> {
        let switch = Self::new()?;
        switch.set(true)?;
        Ok(switch)
    }

    pub fn set(&self, on: bool) -> Result<()> {
        host::set_fast_path(on).context("the parameter `fast`")?;
        expect_eq!(host::fast_path(), Some(on));
        Ok(())
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        // A test that fails has said so already.
        let _ = host::set_fast_path(self.before);
        let _ = host::set_extension(true);
    }
}

/// Skips on Bochs as an AMD (`svm-nrips`) what fails there, with the extension off as well. Seen with
/// Bochs 2.7 and 3.0.
pub fn needs_more_than_bochs(failure: &str) -> Result<()> {
    let modes = Modes::detect()?;
    if modes.vendor == Vendor::Amd && modes.nrips {
        skip!("Bochs as an AMD {failure}, without the extension too");
    }
    Ok(())
}

/// Within 300 instructions of VMRUN the host's kernel takes exceptions in its exception handlers
/// until the processor shuts down, i.e. before KVM has its own GS base back. Nothing may be
/// delivered there, as GIF is clear.
pub fn needs_trap_flag() -> Result<()> {
    needs_more_than_bochs("shuts down if a guest runs with RFLAGS.TF")
}

/// Runs the same without the extension, without and with the fast path; what is returned must not
/// differ. `run` is told whether the fast path is on.
pub fn each_way<T: Debug + PartialEq>(run: impl Fn(bool) -> Result<T>) -> Result<T> {
    let switch = Switch::new()?;
    host::set_extension(false).context("the parameter `enabled`")?;
    let without = run(false).context("without the extension")?;
    host::set_extension(true).context("the parameter `enabled`")?;
    switch.set(false)?;
    let emulated = run(false).context("without the fast path")?;
    expect_eq!(emulated, without, "the second is without the extension");
    switch.set(true)?;
    let fast = run(true).context("with the fast path")?;
    expect_eq!(fast, emulated, "the second is without the fast path");
    Ok(fast)
}

/// The same for what an interrupt of the host can disturb: QEMU's processor forgets the interrupt
/// shadow if one comes in it. A difference must show each time.
pub fn each_way_undisturbed<T: Debug + PartialEq>(run: impl Fn(bool) -> Result<T>) -> Result<T> {
    const TRIES: usize = 5;
    let mut result = each_way(&run);
    for _ in 1..TRIES {
        if result.is_ok() {
            break;
        }
        result = each_way(&run);
    }
    result
}
