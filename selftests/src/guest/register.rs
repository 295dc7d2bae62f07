// SPDX-License-Identifier: GPL-2.0
//! Registers that answer by themselves: `rust/uapi/kvm_mmio_register.h`, for userspace in Rust.

use std::fs::File;
use std::io;

use anyhow::{Context, Result};
use vmm_sys_util::ioctl::{ioctl, ioctl_with_ref, ioctl_with_val};
use vmm_sys_util::{ioctl_io_nr, ioctl_iow_nr};

const PATH: &str = "/dev/kvm_mmio_registers";

const TYPE: u32 = 0xbb;
ioctl_iow_nr!(KVM_MMIO_REGISTER_ADD, TYPE, 0, Request);
ioctl_iow_nr!(KVM_MMIO_REGISTER_REMOVE, TYPE, 1, Place);
ioctl_io_nr!(NONE, TYPE, 2);

/// What writes do.
pub mod on_write {
    pub const EXIT: u8 = 0;
    pub const STORE: u8 = 1;
    pub const CLEAR: u8 = 2;
    pub const SET: u8 = 3;
}

/// What reads do.
pub mod on_read {
    pub const EXIT: u8 = 0;
    pub const RETURN: u8 = 1;
    pub const CLEAR: u8 = 2;
}

/// Which writes signal.
pub mod signal {
    pub const NEVER: u8 = 0;
    pub const ALWAYS: u8 = 1;
    pub const VALUE: u8 = 2;
    pub const CHANGE: u8 = 3;
}

/// `struct kvm_mmio_register`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Request {
    pub gpa: u64,
    pub user_addr: u64,
    pub datamatch: u64,
    pub len: u32,
    pub vm_fd: i32,
    pub event_fd: i32,
    pub on_write: u8,
    pub on_read: u8,
    pub signal: u8,
    pub reserved: [u8; 25],
}

/// `struct kvm_mmio_register_at`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Place {
    pub gpa: u64,
    pub vm_fd: i32,
    pub reserved: u32,
}

impl Request {
    /// Where it is, to be removed.
    pub fn place(&self) -> Place {
        Place {
            gpa: self.gpa,
            vm_fd: self.vm_fd,
            reserved: 0,
        }
    }
}

/// An open file with the registers that are added to it.
pub struct Registers(File);

impl Registers {
    /// None where the extension is not loaded.
    pub fn open() -> Result<Option<Self>> {
        match File::options().read(true).write(true).open(PATH) {
            Ok(file) => Ok(Some(Self(file))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).context(PATH),
        }
    }

    pub fn add(&self, request: &Request) -> io::Result<()> {
        // SAFETY: the kernel only reads the structure. It changes the word that the structure names
        // until the register is removed: callers name memory of a `Region`, or what is none.
        done(unsafe { ioctl_with_ref(&self.0, KVM_MMIO_REGISTER_ADD(), request) })
    }

    /// With the argument at any address.
    pub fn add_at(&self, address: u64) -> io::Result<()> {
        // SAFETY: the kernel only reads the structure, if there is one.
        done(unsafe { ioctl_with_val(&self.0, KVM_MMIO_REGISTER_ADD(), address) })
    }

    pub fn remove(&self, place: &Place) -> io::Result<()> {
        // SAFETY: the kernel only reads the structure.
        done(unsafe { ioctl_with_ref(&self.0, KVM_MMIO_REGISTER_REMOVE(), place) })
    }

    /// An ioctl that there is not.
    pub fn none(&self) -> io::Result<()> {
        // SAFETY: there is no argument.
        done(unsafe { ioctl(&self.0, NONE()) })
    }
}

fn done(result: i32) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
