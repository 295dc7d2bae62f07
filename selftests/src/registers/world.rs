// SPDX-License-Identifier: GPL-2.0
//! Files, VMs and memory that requests may name, and the registers that there are.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use anyhow::Result;
use vmm_sys_util::eventfd::EventFd;

use crate::guest::{Machine, Mode, PAGE, Region, Registers, Request, Vcpu, new_event};

pub const FILES: u64 = 3;
pub const VMS: u64 = 2;

/// What a number of a file stands for.
pub enum Fd {
    Vm(usize),
    Event,
    Other,
    None,
}

impl Fd {
    /// What comes of it where another kind is asked for.
    pub fn error(&self) -> i32 {
        match self {
            Self::None => libc::EBADF,
            _ => libc::EINVAL,
        }
    }
}

/// All that calls may name.
pub struct World {
    pub files: Vec<Registers>,
    pub vms: Vec<(Machine, Vcpu)>,
    pub event: Arc<EventFd>,
    pub other: File,
    pub memory: Region,
    pub added: Vec<Added>,
}

/// A register that has been added.
#[derive(Clone, Copy, Debug)]
pub struct Added {
    pub file: usize,
    pub vm: usize,
    pub request: Request,
}

impl Added {
    pub fn is_at(&self, vm: usize, gpa: u64) -> bool {
        self.vm == vm && self.request.gpa == gpa
    }
}

impl World {
    /// None where the extension is not loaded.
    pub fn new() -> Result<Option<Self>> {
        let mut files = Vec::new();
        for _ in 0..FILES {
            let Some(file) = Registers::open()? else {
                return Ok(None);
            };
            files.push(file);
        }
        let vms: Result<_> = (0..VMS).map(|_| Machine::with_vcpu(Mode::Long)).collect();
        Ok(Some(Self {
            files,
            vms: vms?,
            event: new_event()?,
            other: File::open("/dev/null")?,
            memory: Region::new(PAGE)?,
            added: Vec::new(),
        }))
    }

    pub fn fd(&self, number: i32) -> Fd {
        let vm = |(machine, _): &(Machine, Vcpu)| machine.vm().as_raw_fd() == number;
        if let Some(vm) = self.vms.iter().position(vm) {
            return Fd::Vm(vm);
        }
        if number == self.event.as_raw_fd() {
            return Fd::Event;
        }
        match number == self.other.as_raw_fd() {
            true => Fd::Other,
            false => Fd::None,
        }
    }

    pub fn is_mapped(&self, address: u64) -> bool {
        (self.memory.hva()..self.memory.hva() + PAGE).contains(&address)
    }

    /// Where the window of each VM begins.
    pub fn gpa(&self) -> u64 {
        self.vms[0].0.gpa(1)
    }
}
