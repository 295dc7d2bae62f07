// SPDX-License-Identifier: GPL-2.0
//! Parameters of modules that are turned all the time.

use std::sync::atomic::AtomicU64;

use anyhow::{Context, Result};

use super::Limits;
use super::world::{Tally, World, count};
use crate::host;

/// A parameter that is Y or N. It is put back at the end.
pub struct Switch {
    module: &'static str,
    name: &'static str,
    before: bool,
    share: u64,
    counter: fn(&Tally) -> &AtomicU64,
}

/// The switches of the machine.
pub fn all(limits: Limits) -> Vec<Switch> {
    let switch = |module, name, share, counter| {
        let before = host::parameter(module, name)?;
        Some(Switch {
            module,
            name,
            before: matches!(before.as_str(), "Y" | "1"),
            share,
            counter,
        })
    };
    [
        switch("kvm_mmio_ext", "enabled", limits.switches, |tally| {
            &tally.switches
        }),
        switch("kvm_mmio_ext", "fast", limits.changes, |tally| {
            &tally.fast_switches
        }),
        // Each turn zaps the page tables of all VMs.
        switch("kvm", "nx_huge_pages", limits.changes / 8, |tally| {
            &tally.zaps
        }),
    ]
    .into_iter()
    .flatten()
    .collect()
}

impl Switch {
    pub fn name(&self) -> &'static str {
        self.name
    }

    fn set(&self, on: bool) -> Result<()> {
        host::set_parameter(self.module, self.name, if on { "Y" } else { "N" })
            .with_context(|| format!("turning {} of {}", self.name, self.module))
    }

    /// The actor that turns it.
    pub fn turn(self, world: &World) -> Result<()> {
        let mut on = self.before;
        for _ in world.rounds(self.share) {
            on = !on;
            self.set(on)?;
            count((self.counter)(&world.tally), 1);
            world.wait_for_visits(1);
        }
        self.set(self.before)
    }
}
