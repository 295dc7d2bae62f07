// SPDX-License-Identifier: GPL-2.0
//! The virtual machine: its memory, its interrupt controllers, its vCPU.

use std::io::Write;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::boot::{Region, set_up};
use crate::bus::Bus;
use crate::layout;
use crate::pci::Pci;
use crate::ports::Ports;
use crate::sys;

/// A machine that does not run yet.
pub struct Machine {
    kvm: Kvm,
    pub vm: Arc<VmFd>,
    pub memory: GuestMemoryMmap,
    devices: u32,
}

impl Machine {
    /// `size` is that of the memory, in bytes.
    pub fn new(size: u64) -> Result<Self> {
        let kvm = Kvm::new().context("/dev/kvm cannot be opened")?;
        let vm = Arc::new(kvm.create_vm().context("KVM makes no VM")?);
        vm.set_identity_map_address(layout::IDENTITY_MAP)?;
        vm.set_tss_address(layout::TSS)?;
        vm.create_irq_chip()
            .context("KVM has no interrupt controllers in the kernel, see CONFIG_KVM_IOAPIC")?;
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), size as usize)])
            .with_context(|| format!("no {size} bytes of memory"))?;
        sys::add_ram(&vm, layout::RAM_SLOT, &memory)?;
        Ok(Self {
            kvm,
            vm,
            memory,
            devices: 0,
        })
    }

    /// A page and a line of the IOAPIC for another device.
    pub fn allocate(&mut self) -> Result<Region> {
        let irq = layout::FIRST_IRQ + self.devices;
        ensure!(irq < layout::IRQ_LINES, "more devices than interrupt lines");
        let base = layout::DEVICES + u64::from(self.devices) * layout::PAGE;
        self.devices += 1;
        Ok(Region { base, irq })
    }

    /// Runs the guest from `entry` on until it ends its machine.
    pub fn run(self, entry: u64, bus: Bus, pci: Option<Pci>) -> Result<()> {
        let vcpu = self.vm.create_vcpu(0).context("KVM makes no vCPU")?;
        set_up(&self.kvm, &vcpu, &self.memory, entry)?;
        let ports = Ports::new(&self.vm, pci)?;
        let result = Processor { vcpu, bus, ports }.run();
        std::io::stdout().flush()?;
        result
    }
}

struct Processor {
    vcpu: VcpuFd,
    bus: Bus,
    ports: Ports,
}

impl Processor {
    fn run(&mut self) -> Result<()> {
        while !self.ports.ended() {
            self.step()?;
        }
        Ok(())
    }

    fn step(&mut self) -> Result<()> {
        match self.vcpu.run() {
            Ok(VcpuExit::MmioRead(gpa, data)) => self.bus.read(gpa, data),
            Ok(VcpuExit::MmioWrite(gpa, data)) => self.bus.write(gpa, data),
            Ok(VcpuExit::IoIn(port, data)) => self.ports.read(port, data),
            Ok(VcpuExit::IoOut(port, data)) => self.ports.write(port, data)?,
            Ok(VcpuExit::Shutdown) => bail!("the guest has shut down by a triple fault"),
            Ok(exit) => {
                let exit = format!("{exit:?}");
                let at = self.vcpu.get_regs()?.rip;
                bail!("KVM cannot go on at {at:#x}: {exit}")
            }
            // EINTR, EAGAIN: a signal, or a processor that has not begun.
            Err(e) if matches!(e.errno(), 4 | 11) => {}
            Err(e) => return Err(e).context("KVM_RUN"),
        }
        Ok(())
    }
}
