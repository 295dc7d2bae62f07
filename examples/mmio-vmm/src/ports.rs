// SPDX-License-Identifier: GPL-2.0
//! I/O ports: the serial console, and what ends the machine.

use std::convert::Infallible;
use std::io::{self, Stdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use anyhow::Result;
use kvm_ioctls::VmFd;
use vm_superio::serial::NoEvents;
use vm_superio::{I8042Device, Serial, Trigger};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::layout::{I8042_PORT, SERIAL_IRQ, SERIAL_PORT, SLEEP_PORT};
use crate::pci::{self, Pci};

const SERIAL_END: u16 = SERIAL_PORT + 7;
const I8042_END: u16 = I8042_PORT + 4;
/// SLP_EN of ACPI's register to sleep, of which there is one kind.
const SLEEP: u8 = 1 << 5;

/// The console's interrupt.
struct Irqfd(EventFd);

impl Trigger for Irqfd {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// That the guest has ended its machine.
#[derive(Clone, Default)]
struct Ended(Arc<AtomicBool>);

impl Trigger for Ended {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.0.store(true, Relaxed);
        Ok(())
    }
}

/// All ports, in the vCPU's thread.
pub struct Ports {
    serial: Serial<Irqfd, NoEvents, Stdout>,
    i8042: I8042Device<Ended>,
    ended: Ended,
    pci: Option<Pci>,
}

impl Ports {
    /// The console interrupts the VM.
    pub fn new(vm: &VmFd, pci: Option<Pci>) -> Result<Self> {
        let interrupt = EventFd::new(EFD_NONBLOCK)?;
        vm.register_irqfd(&interrupt, SERIAL_IRQ)?;
        let ended = Ended::default();
        Ok(Self {
            serial: Serial::new(Irqfd(interrupt), io::stdout()),
            i8042: I8042Device::new(ended.clone()),
            ended,
            pci,
        })
    }

    /// Whether the guest has reset or switched off its machine.
    pub fn ended(&self) -> bool {
        self.ended.0.load(Relaxed)
    }

    /// Where nothing is, all bits are read as 1.
    pub fn read(&mut self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        match (port, &mut self.pci) {
            (SERIAL_PORT..=SERIAL_END, _) => {
                data[0] = self.serial.read((port - SERIAL_PORT) as u8);
            }
            (I8042_PORT..=I8042_END, _) => data[0] = self.i8042.read((port - I8042_PORT) as u8),
            (pci::ADDRESS..=pci::DATA_END, Some(pci)) => pci.read(port, data),
            _ => {}
        }
    }

    /// Fails if what reads the console has gone.
    pub fn write(&mut self, port: u16, data: &[u8]) -> Result<()> {
        match (port, data, &mut self.pci) {
            (SERIAL_PORT..=SERIAL_END, [value], _) => self
                .serial
                .write((port - SERIAL_PORT) as u8, *value)
                .map_err(|e| anyhow::anyhow!("console: {e:?}"))?,
            (I8042_PORT..=I8042_END, [value], _) => {
                let Ok(()) = self.i8042.write((port - I8042_PORT) as u8, *value);
            }
            (SLEEP_PORT, [value], _) if value & SLEEP != 0 => {
                let Ok(()) = self.ended.trigger();
            }
            (pci::ADDRESS..=pci::DATA_END, _, Some(pci)) => pci.write(port, data),
            _ => {}
        }
        Ok(())
    }
}
