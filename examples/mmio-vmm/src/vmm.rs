// SPDX-License-Identifier: GPL-2.0
//! What the options ask for, put together.

use std::sync::Arc;

use anyhow::{Context, Result};

use crate::boot::{self, Features, Region};
use crate::bus::Bus;
use crate::cli::Options;
use crate::counts::{Counts, Report};
use crate::disk::Disk;
use crate::layout;
use crate::machine::Machine;
use crate::virtio::{Backend, Block, Net, Transport};
use crate::wiring::Wiring;

/// Devices as they are added.
struct Builder {
    machine: Machine,
    wiring: Wiring,
    bus: Bus,
    virtio: Vec<Region>,
    counts: Vec<(String, Arc<Counts>)>,
}

/// Runs a guest to its end, and prints what was counted.
pub fn run(options: &Options) -> Result<()> {
    let size = options.memory << 20;
    let machine = Machine::new(size)?;
    let wiring = Wiring::new(
        options.registers,
        machine.vm.clone(),
        layout::FIRST_DEVICE_SLOT,
    )?;
    let mut builder = Builder {
        machine,
        wiring,
        bus: Bus::default(),
        virtio: Vec::new(),
        counts: Vec::new(),
    };
    builder.add_devices(options)?;
    let memory = &builder.machine.memory;
    boot::write_tables(memory, &builder.virtio)?;
    let initrd = options.initrd.as_deref();
    let start = boot::load(memory, size, &options.kernel, initrd, &options.cmdline)?;
    let features = Features {
        xsave: !options.no_xsave,
    };
    builder.machine.run(&start, features, builder.bus)?;
    print(options, &builder.counts)
}

impl Builder {
    fn add_devices(&mut self, options: &Options) -> Result<()> {
        for (index, path) in options.block.iter().enumerate() {
            let disk = Disk::open(path)?;
            self.add(&format!("block{index}"), Block::new(disk))?;
        }
        if let Some(tap) = &options.net {
            self.add("net", Net::new(tap)?)?;
        }
        Ok(())
    }

    fn add(&mut self, name: &str, backend: impl Backend) -> Result<()> {
        let region = self.machine.allocate()?;
        let memory = self.machine.memory.clone();
        let (device, counts) = Transport::new(name, backend, region, memory, &mut self.wiring)
            .with_context(|| format!("device {name}"))?;
        self.bus.add(region.base, Box::new(device));
        self.virtio.push(region);
        self.counts.push((name.to_owned(), counts));
        Ok(())
    }
}

fn print(options: &Options, counts: &[(String, Arc<Counts>)]) -> Result<()> {
    let report = Report {
        registers: options.registers.name(),
        devices: counts
            .iter()
            .map(|(name, counts)| counts.snapshot(name))
            .collect(),
    };
    if options.json {
        eprintln!("{}", serde_json::to_string(&report)?);
    } else {
        eprintln!("{}", report.table());
    }
    Ok(())
}
