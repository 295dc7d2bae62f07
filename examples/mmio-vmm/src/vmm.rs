// SPDX-License-Identifier: GPL-2.0
//! What the options ask for, put together.

use anyhow::{Context, Result};

use crate::boot::{self, Boot, Region};
use crate::bus::Bus;
use crate::cli::Options;
use crate::counts::{Device, Report};
use crate::disk::Disk;
use crate::layout::PAGE;
use crate::machine::Machine;
use crate::nvme::{Controller, PCI};
use crate::pci::Pci;
use crate::virtio::{Backend, Block, Net, Transport};
use crate::wiring::Wiring;

/// Devices as they are added.
struct Builder {
    machine: Machine,
    wiring: Wiring,
    bus: Bus,
    virtio: Vec<Region>,
    pci: Option<Pci>,
    counts: Vec<Device>,
}

/// Runs a guest to its end, and prints what was counted.
pub fn run(options: &Options) -> Result<()> {
    // First all that a person may have got wrong.
    let boot = Boot::open(&options.kernel, options.initrd.as_deref(), &options.cmdline)?;
    let disks: Result<Vec<_>> = options.block.iter().map(|path| Disk::open(path)).collect();
    let disks = disks?;
    let nvme = options.nvme.as_deref().map(Disk::open).transpose()?;

    let machine = Machine::new(options.memory << 20)?;
    let wiring = Wiring::new(options.registers, machine.vm.clone())?;
    let mut builder = Builder {
        machine,
        wiring,
        bus: Bus::default(),
        virtio: Vec::new(),
        pci: None,
        counts: Vec::new(),
    };
    for (index, disk) in disks.into_iter().enumerate() {
        builder.add(&format!("block{index}"), Block(disk))?;
    }
    if options.net {
        builder.add("net", Net::default())?;
    }
    if let Some(disk) = nvme {
        builder.add_nvme(disk)?;
    }
    let devices = builder.run(boot, options)?;
    let registers = options.registers.name();
    let report = Report { registers, devices };
    let text = if options.json {
        serde_json::to_string(&report)?
    } else {
        report.table()
    };
    eprintln!("{text}");
    Ok(())
}

impl Builder {
    fn add_nvme(&mut self, disk: Disk) -> Result<()> {
        let memory = self.machine.memory.clone();
        let (controller, counts) =
            Controller::new(disk, memory, &mut self.wiring).context("device nvme")?;
        let (base, size) = (PCI.base.into(), PCI.size.into());
        self.bus.add(base, size, Box::new(controller));
        self.pci = Some(Pci::new(&PCI));
        let name = "nvme".to_owned();
        self.counts.push(Device { name, counts });
        Ok(())
    }

    /// Runs the guest; gives what the devices count.
    fn run(self, boot: Boot, options: &Options) -> Result<Vec<Device>> {
        let memory = &self.machine.memory;
        boot::write_tables(memory, &self.virtio, self.pci.is_some())?;
        let entry = boot.load(memory, options.memory << 20)?;
        self.machine.run(entry, self.bus, self.pci)?;
        Ok(self.counts)
    }

    fn add(&mut self, name: &str, backend: impl Backend) -> Result<()> {
        let region = self.machine.allocate()?;
        let memory = self.machine.memory.clone();
        let (device, counts) = Transport::new(name, backend, region, memory, &mut self.wiring)
            .with_context(|| format!("device {name}"))?;
        self.bus.add(region.base, PAGE, Box::new(device));
        self.virtio.push(region);
        let name = name.to_owned();
        self.counts.push(Device { name, counts });
        Ok(())
    }
}
