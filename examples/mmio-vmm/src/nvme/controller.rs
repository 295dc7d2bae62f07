// SPDX-License-Identifier: GPL-2.0
//! The controller's registers, section 3.1, its doorbells, and its thread.

use std::sync::{Arc, Mutex};

use anyhow::Result;
use kvm_ioctls::VmFd;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::command::VERSION;
use super::doorbells::{DOORBELLS, Doorbells, QUEUES};
use super::engine::{Engine, QUEUE_ENTRIES};
use super::msix;
use crate::bus::{Mmio, word};
use crate::counts::{Counts, Register};
use crate::disk::Disk;
use crate::layout::{IRQ_LINES, PAGE, PCI_WINDOW};
use crate::message;
use crate::page::RegisterPage;
use crate::pci::Device;
use crate::thread;
use crate::wiring::{Interrupt, Wiring};

/// What PCI says of it: an NVMe controller. The number of its vendor is nobody's.
pub const PCI: Device = Device {
    id: 0x0001_1234,
    class: 0x0108_0200,
    base: PCI_WINDOW as u32,
    size: ((TABLE + 2).next_power_of_two() * PAGE) as u32,
    vectors: QUEUES as u16,
    table: (TABLE * PAGE) as u32,
    pending: ((TABLE + 1) * PAGE) as u32,
};

/// The page of messages, behind one of registers and those of doorbells.
const TABLE: u64 = 1 + DOORBELLS as u64;

const CAPABILITIES: u32 = 0;
const VERSION_REGISTER: u32 = 8;
const CONFIGURATION: u32 = 0x14;
const STATUS: u32 = 0x1c;
const ADMIN_SIZES: u32 = 0x24;
const ADMIN_SUBMISSIONS: u32 = 0x28;
const ADMIN_COMPLETIONS: u32 = 0x30;

/// Queues of 64 entries, contiguous; 5 s to get ready; the NVM command set.
const CAPABILITY_BITS: u64 = (QUEUE_ENTRIES - 1) as u64 | 1 << 16 | 10 << 24 | 1 << 37;

const ENABLE: u32 = 1;
const SHUTDOWN: u32 = 0b11 << 14;
const READY: u32 = 1;
const FATAL: u32 = 1 << 1;
const SHUTDOWN_COMPLETE: u32 = 0b10 << 2;

/// What the registers and the thread share.
struct Link {
    engine: Mutex<Engine>,
    registers: RegisterPage,
    kick: EventFd,
    interrupts: [Interrupt; QUEUES],
    counts: Arc<Counts>,
}

/// The registers, in the vCPU's thread.
pub struct Controller {
    link: Arc<Link>,
    doorbells: Doorbells,
    messages: RegisterPage,
    vm: Arc<VmFd>,
}

impl Controller {
    /// A controller with its thread.
    pub fn new(
        disk: Disk,
        memory: GuestMemoryMmap,
        wiring: &mut Wiring,
    ) -> Result<(Self, Arc<Counts>)> {
        let (registers, messages) = (RegisterPage::new(1)?, RegisterPage::new(1)?);
        let doorbells = Doorbells::new(wiring.maps())?;
        let stride = u64::from(doorbells.stride) << 32;
        registers.fill(CAPABILITIES, &(CAPABILITY_BITS | stride).to_le_bytes());
        registers.set(VERSION_REGISTER, VERSION);
        msix::reset(&messages, QUEUES as u32);
        // The thread blocks in reads of it.
        let kick = EventFd::new(0)?;
        wiring.map(PCI_WINDOW, (&registers, 0), false)?;
        doorbells.wire(PCI_WINDOW + PAGE, &kick, wiring)?;
        let interrupt = |vector| wiring.interrupt(IRQ_LINES + vector);
        let link = Arc::new(Link {
            engine: Mutex::new(Engine::new(disk, memory, doorbells.clone())),
            registers,
            kick,
            interrupts: [interrupt(0)?, interrupt(1)?],
            counts: Arc::default(),
        });
        let (served, counts) = (link.clone(), link.counts.clone());
        thread::repeat("nvme", move || served.wait())?;
        let controller = Self {
            link,
            doorbells,
            messages,
            vm: wiring.vm(),
        };
        Ok((controller, counts))
    }

    fn write_register(&self, register: u32, value: u32) {
        let registers = &self.link.registers;
        let was = registers.get(register);
        match register {
            CONFIGURATION => {
                registers.set(register, value);
                self.configure(was, value);
            }
            ADMIN_SIZES..=0x34 => registers.set(register, value),
            _ => {}
        }
    }

    fn configure(&self, was: u32, value: u32) {
        let registers = &self.link.registers;
        let mut engine = self.link.engine.lock().expect("no thread panics");
        if value & !was & ENABLE != 0 {
            let long = |at| u64::from(registers.get(at)) | u64::from(registers.get(at + 4)) << 32;
            let sizes = registers.get(ADMIN_SIZES);
            engine.enable(
                (long(ADMIN_SUBMISSIONS), (sizes & 0xfff) + 1),
                (long(ADMIN_COMPLETIONS), (sizes >> 16 & 0xfff) + 1),
            );
            registers.set(STATUS, READY);
        } else if was & !value & ENABLE != 0 {
            engine.disable();
            self.link.counts.set_running(false);
            registers.set(STATUS, 0);
        }
        if value & SHUTDOWN != 0 {
            registers.set_bits(STATUS, SHUTDOWN_COMPLETE);
        }
    }

    /// The doorbell at an offset, by its number.
    fn doorbell(&self, offset: u64) -> Option<usize> {
        self.doorbells.at(offset.checked_sub(PAGE)?)
    }

    fn ring(&self, doorbell: usize, value: u32) {
        self.doorbells.set(doorbell, value);
        // Tails have something new to do.
        if doorbell % 2 == 0 {
            // It is full only if the thread has not read it since 2^64 doorbells.
            let _ = self.link.kick.write(1);
        }
    }

    fn write_message(&self, offset: u32, value: u32) {
        self.messages.set(offset, value);
        let messages = [0, 1].map(|vector| msix::message(&self.messages, vector));
        if let Err(e) = message::route(&self.vm, &messages) {
            eprintln!("mmio-vmm: nvme: {e:#}");
        }
        // What was lost while its vector was masked. A driver looks for completions, and may find
        // none.
        for interrupt in &self.link.interrupts {
            let _ = interrupt.inject();
        }
    }
}

impl Link {
    fn wait(&self) -> Result<()> {
        self.counts.notified(self.kick.read()?);
        let mut engine = self.engine.lock().expect("no thread panics");
        let served = engine.serve();
        if served.is_err() {
            // Before the lock is released: a reset that comes later takes it back.
            engine.disable();
            self.registers.set_bits(STATUS, FATAL);
        }
        self.counts.set_running(engine.is_running());
        let vectors = served?;
        for (vector, interrupt) in self.interrupts.iter().enumerate() {
            if vectors >> vector & 1 != 0 {
                self.counts.interrupted();
                interrupt.inject()?;
            }
        }
        Ok(())
    }
}

/// Which page, and where in it.
fn place(offset: u64) -> (u64, u32) {
    (offset / PAGE, (offset % PAGE) as u32 & !3)
}

fn register(doorbell: Option<usize>) -> Register {
    doorbell.map_or(Register::Other, |_| Register::Notify)
}

impl Mmio for Controller {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let doorbell = self.doorbell(offset);
        self.link.counts.exit(register(doorbell), false);
        match place(offset).0 {
            0 => self.link.registers.read(offset, data),
            TABLE => self.messages.read(offset % PAGE, data),
            _ => data.fill(0),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let doorbell = self.doorbell(offset);
        self.link.counts.exit(register(doorbell), true);
        let Some(value) = word(data) else {
            return;
        };
        match (place(offset), doorbell) {
            ((0, at), _) => self.write_register(at, value),
            (_, Some(doorbell)) => self.ring(doorbell, value),
            ((TABLE, at), _) if at < 16 * QUEUES as u32 => self.write_message(at, value),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::engine::tests::engine;
    use super::*;

    #[test]
    fn is_fatal_once_and_then_does_nothing() {
        let event = || EventFd::new(0).unwrap();
        let engine = engine();
        engine.ring(u32::MAX);
        let link = Link {
            engine: Mutex::new(engine),
            registers: RegisterPage::new(1).unwrap(),
            kick: event(),
            interrupts: [Interrupt::Irqfd(event()), Interrupt::Irqfd(event())],
            counts: Arc::default(),
        };
        link.kick.write(1).unwrap();
        assert!(link.wait().is_err());
        assert_eq!(link.registers.get(STATUS), FATAL);
        link.engine.lock().unwrap().ring(u32::MAX);
        link.kick.write(1).unwrap();
        assert!(link.wait().is_ok());
    }
}
