// SPDX-License-Identifier: GPL-2.0
//! Who answers a device's registers: all that `--registers` changes.
//!
//! A device says what its registers do; what of it the kernel does is decided here. Each mode has
//! what those before it have.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use kvm_ioctls::{IoEventAddress, VmFd};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::layout::{IRQ_LINES, RAM_SLOT};
use crate::page::RegisterPage;
use crate::sys::{self, Request};

const REGISTERS: &str = "/dev/kvm_mmio_registers";

/// How far the kernel answers for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, ValueEnum)]
pub enum Mode {
    /// Every access exits to userspace, and interrupts are injected by an ioctl
    Exit,
    /// Doorbells are ioeventfds, interrupts that are messages irqfds
    Ioeventfd,
    /// Besides, the extension answers InterruptStatus and InterruptACK, and keeps tails of queues
    Posted,
    /// Besides, the registers are read-only memory of the guest, which no read exits for, and heads of
    /// queues its memory, which no write exits for
    ReadOnly,
}

impl Mode {
    /// As the option has it.
    pub fn name(self) -> String {
        let value = self.to_possible_value().expect("no mode is skipped");
        value.get_name().to_owned()
    }
}

/// What writes to a posted register do; see Documentation/registers.rst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// The word becomes the value.
    Store = 1,
    /// The word loses the bits that are 1 in the value.
    Clear = 2,
}

/// What registers are wired with.
pub struct Wiring {
    mode: Mode,
    vm: Arc<VmFd>,
    registers: Option<File>,
    last_slot: u32,
}

impl Wiring {
    /// Fails if the mode needs the extension, and it is not loaded.
    pub fn new(mode: Mode, vm: Arc<VmFd>) -> Result<Self> {
        let registers = (mode >= Mode::Posted)
            .then(|| open_registers(mode))
            .transpose()?;
        Ok(Self {
            mode,
            vm,
            registers,
            last_slot: RAM_SLOT,
        })
    }

    /// What injects an interrupt: of that line of the IOAPIC, or the message of that number behind them.
    ///
    /// KVM injects a message where an irqfd is written (kvm_arch_set_irq_inatomic()), but has a worker
    /// inject a line, to which the processor must switch: two ioctls are cheaper.
    pub fn interrupt(&self, irq: u32) -> Result<Interrupt> {
        if self.mode < Mode::Ioeventfd || irq < IRQ_LINES {
            return Ok(Interrupt::Ioctl(self.vm.clone(), irq));
        }
        let event = EventFd::new(EFD_NONBLOCK)?;
        self.vm
            .register_irqfd(&event, irq)
            .with_context(|| format!("KVM takes no irqfd of interrupt {irq}"))?;
        Ok(Interrupt::Irqfd(event))
    }

    /// What has the interrupts.
    pub fn vm(&self) -> Arc<VmFd> {
        self.vm.clone()
    }

    /// Writes of `value`, 4 bytes at `gpa`, ring the event and do nothing else.
    pub fn doorbell(&self, gpa: u64, value: u32, event: &EventFd) -> Result<()> {
        if self.mode < Mode::Ioeventfd {
            return Ok(());
        }
        self.vm
            .register_ioevent(event, &IoEventAddress::Mmio(gpa), value)
            .with_context(|| format!("KVM takes no ioeventfd at {gpa:#x}"))
    }

    /// Reads of 4 bytes at `gpa` return the word of the page.
    pub fn post_reads(&self, gpa: u64, word: (&RegisterPage, u32)) -> Result<()> {
        const READ_RETURN: u8 = 1;
        let request = Request {
            on_read: READ_RETURN,
            ..Default::default()
        };
        self.post(gpa, word, None, request)
    }

    /// Writes of 4 bytes at `gpa` change the word of the page, and then ring the event if any.
    pub fn post_writes(
        &self,
        gpa: u64,
        word: (&RegisterPage, u32),
        write: Write,
        event: Option<&EventFd>,
    ) -> Result<()> {
        const SIGNAL_ALWAYS: u8 = 1;
        let request = Request {
            on_write: write as u8,
            signal: event.map_or(0, |_| SIGNAL_ALWAYS),
            ..Default::default()
        };
        self.post(gpa, word, event, request)
    }

    fn post(
        &self,
        gpa: u64,
        (page, offset): (&RegisterPage, u32),
        event: Option<&EventFd>,
        request: Request,
    ) -> Result<()> {
        let Some(file) = &self.registers else {
            return Ok(());
        };
        let request = Request {
            gpa,
            len: 4,
            vm_fd: self.vm.as_raw_fd(),
            event_fd: event.map_or(-1, |event| event.as_raw_fd()),
            ..request
        };
        sys::add_register(file, (page.memory(), offset as usize), request)
            .with_context(|| format!("{REGISTERS}: no register at {gpa:#x}"))
    }

    /// Whether the guest has pages of registers as memory.
    pub fn maps(&self) -> bool {
        self.mode >= Mode::ReadOnly
    }

    /// The guest reads the page at an offset as memory. It also writes it so, if nobody waits for that.
    pub fn map(&mut self, gpa: u64, page: (&RegisterPage, u32), writable: bool) -> Result<()> {
        if !self.maps() {
            return Ok(());
        }
        self.last_slot += 1;
        let page = (page.0.memory(), page.1 as usize);
        sys::map(&self.vm, self.last_slot, gpa, page, writable)
    }
}

fn open_registers(mode: Mode) -> Result<File> {
    match File::options().read(true).write(true).open(REGISTERS) {
        Ok(file) => Ok(file),
        Err(e) if e.kind() == io::ErrorKind::NotFound => bail!(
            "--registers {} needs {REGISTERS}, which is not there: load the module kvm_mmio_ext, \
             or use --registers ioeventfd",
            mode.name()
        ),
        Err(e) => Err(e).context(REGISTERS),
    }
}

/// What injects an interrupt.
pub enum Interrupt {
    Ioctl(Arc<VmFd>, u32),
    Irqfd(EventFd),
}

impl Interrupt {
    /// One edge.
    pub fn inject(&self) -> Result<()> {
        match self {
            Self::Ioctl(vm, irq) => {
                vm.set_irq_line(*irq, true)?;
                vm.set_irq_line(*irq, false)?;
            }
            Self::Irqfd(event) => event.write(1)?,
        }
        Ok(())
    }
}
