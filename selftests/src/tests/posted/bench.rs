// SPDX-License-Identifier: GPL-2.0
//! What the tests of registers share.

use std::io;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use vmm_sys_util::eventfd::EventFd;

use crate::guest::{Machine, PAGE, Region, Registers, Request, on_read, on_write};
use crate::host::{self, Switch};
use crate::skip;

pub(super) const VALUE: u64 = 0x8877_6655_4433_2211;
pub(super) const SIZES: [u8; 4] = [1, 2, 4, 8];

pub(super) fn each_way(run: impl Fn(&Bench) -> Result<()>) -> Result<()> {
    if host::extension_enabled() != Some(true) {
        return run(&Bench::new()?);
    }
    let enabled = Switch::keep("kvm_mmio_ext", "enabled")?;
    let fast = Switch::keep("kvm_mmio_ext", "fast")?;
    let irqsoff = Switch::keep("kvm_mmio_ext", "irqsoff")?;
    for ways in [
        [false, false, false],
        [true, false, false],
        [true, true, false],
        [true, true, true],
    ] {
        for (switch, on) in [&enabled, &fast, &irqsoff].into_iter().zip(ways) {
            switch.set(on)?;
        }
        run(&Bench::new()?).with_context(|| format!("enabled, fast, irqsoff: {ways:?}"))?;
    }
    Ok(())
}

/// An open file, and memory for words.
pub(super) struct Bench {
    pub(super) file: Registers,
    pub(super) memory: Region,
}

impl Bench {
    pub(super) fn new() -> Result<Self> {
        let Some(file) = Registers::open()? else {
            skip!("the extension is not loaded");
        };
        Ok(Self {
            file,
            memory: Region::new(PAGE)?,
        })
    }

    /// One that stores and returns the word at the start of the memory, to be changed as wanted.
    pub(super) fn request(&self, machine: &Machine, offset: u64, len: u8) -> Request {
        Request {
            gpa: machine.gpa(1) + offset,
            user_addr: self.memory.hva(),
            len: len.into(),
            vm_fd: machine.vm().as_raw_fd(),
            event_fd: -1,
            on_write: on_write::STORE,
            on_read: on_read::RETURN,
            ..Default::default()
        }
    }

    pub(super) fn add(&self, request: &Request) -> Result<()> {
        self.file
            .add(request)
            .with_context(|| format!("{request:x?}"))
    }

    /// The word at the start of the memory.
    pub(super) fn word(&self) -> u64 {
        self.memory.read_u64(0)
    }

    pub(super) fn set_word(&self, value: u64) {
        self.memory.write_u64(0, value);
    }
}

pub(super) fn mask(size: u8) -> u64 {
    u64::MAX >> (64 - 8 * u32::from(size))
}

pub(super) fn rings(event: &EventFd) -> u64 {
    event.read().unwrap_or(0)
}

pub(super) fn errno(result: io::Result<()>) -> i32 {
    result.map_or_else(|e| e.raw_os_error().unwrap_or(-1), |()| 0)
}
