// SPDX-License-Identifier: GPL-2.0
//! Parameters of modules are turned all the time.

use std::sync::atomic::AtomicU64;

use anyhow::Result;

use crate::host;
use crate::torture::limits::Limits;
use crate::torture::tally::{Tally, count};
use crate::torture::world::World;

/// A switch, how many of the rounds turn it, and what counts its turns.
pub struct Switch {
    parameter: host::Switch,
    share: u64,
    counter: fn(&Tally) -> &AtomicU64,
}

/// The switches of the machine, without those of the extension only where it is not loaded.
pub fn all(limits: Limits) -> Result<Vec<Switch>> {
    let mut switches = vec![
        // Each turn zaps the page tables of all VMs.
        Switch::new("kvm", "nx_huge_pages", limits.changes / 8, |tally| {
            &tally.zaps
        })?,
    ];
    if host::extension_enabled().is_some() {
        let own = |name, share, counter| Switch::new("kvm_mmio_ext", name, share, counter);
        switches.push(own("enabled", limits.switches, |tally| &tally.switches)?);
        switches.push(own("fast", limits.changes, |tally| &tally.fast_switches)?);
        switches.push(own("irqsoff", limits.changes, |tally| {
            &tally.irqsoff_switches
        })?);
    }
    Ok(switches)
}

impl Switch {
    fn new(
        module: &'static str,
        name: &'static str,
        share: u64,
        counter: fn(&Tally) -> &AtomicU64,
    ) -> Result<Self> {
        Ok(Self {
            parameter: host::Switch::keep(module, name)?,
            share,
            counter,
        })
    }

    pub fn name(&self) -> &'static str {
        self.parameter.name()
    }

    /// What counts its turns.
    pub fn counter(&self) -> fn(&Tally) -> &AtomicU64 {
        self.counter
    }

    /// The actor that turns it.
    pub fn turn(self, world: &World) -> Result<()> {
        let mut on = self.parameter.was_on();
        for _ in world.rounds(self.share) {
            on = !on;
            self.parameter.set(on)?;
            count((self.counter)(&world.tally), 1);
            world.wait_for_visits(1);
        }
        self.parameter.set(self.parameter.was_on())
    }
}
