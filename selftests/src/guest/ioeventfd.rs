// SPDX-License-Identifier: GPL-2.0
//! ioeventfds of every kind. kvm-ioctls cannot ask for a length without a datamatch.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use anyhow::{Context, Result};
use kvm_bindings::{
    KVMIO, kvm_ioeventfd, kvm_ioeventfd_flag_nr_datamatch, kvm_ioeventfd_flag_nr_deassign,
    kvm_ioeventfd_flag_nr_pio,
};
use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

ioctl_iow_nr!(KVM_IOEVENTFD, KVMIO, 0x79, kvm_ioeventfd);

/// Where the doorbell is.
#[derive(Clone, Copy, Debug)]
pub enum Bus {
    Mmio(u64),
    Pio(u16),
}

/// Which accesses ring it.
#[derive(Clone, Copy, Debug)]
pub enum Match {
    /// Writes of `len` bytes (1, 2, 4 or 8) that write `value`.
    Data { len: u32, value: u64 },
    /// Writes of `len` bytes, whatever they write.
    Len(u32),
    /// Zero length: any write that starts at the address.
    Any,
}

/// An eventfd for [`Doorbell::sharing`].
pub fn new_event() -> Result<Arc<EventFd>> {
    EventFd::new(EFD_NONBLOCK).map(Arc::new).context("eventfd")
}

/// An ioeventfd; stays registered as long as its VM lives, unless it is removed.
pub struct Doorbell {
    event: Arc<EventFd>,
    request: kvm_ioeventfd,
}

impl Doorbell {
    pub fn new(vm: &VmFd, bus: Bus, kind: Match) -> Result<Self> {
        Self::sharing(&new_event()?, vm, bus, kind)
    }

    /// One that rings an eventfd that others may ring as well: a process has fewer file
    /// descriptors than a VM can have ioeventfds.
    pub fn sharing(event: &Arc<EventFd>, vm: &VmFd, bus: Bus, kind: Match) -> Result<Self> {
        let mut request = kvm_ioeventfd {
            fd: event.as_raw_fd(),
            ..Default::default()
        };
        match bus {
            Bus::Mmio(gpa) => request.addr = gpa,
            Bus::Pio(port) => {
                request.addr = port.into();
                request.flags |= 1 << kvm_ioeventfd_flag_nr_pio;
            }
        }
        match kind {
            Match::Data { len, value } => {
                request.len = len;
                request.datamatch = value;
                request.flags |= 1 << kvm_ioeventfd_flag_nr_datamatch;
            }
            Match::Len(len) => request.len = len,
            Match::Any => {}
        }
        let bell = Self {
            event: event.clone(),
            request,
        };
        bell.ask(vm)
            .with_context(|| format!("KVM_IOEVENTFD {bus:?} {kind:?}"))?;
        Ok(bell)
    }

    /// Takes it away from its address. What it has rung until then can still be read.
    pub fn remove(&mut self, vm: &VmFd) -> Result<()> {
        self.request.flags |= 1 << kvm_ioeventfd_flag_nr_deassign;
        self.ask(vm).context("KVM_IOEVENTFD, deassign")
    }

    /// Puts it back where it was.
    pub fn add(&mut self, vm: &VmFd) -> Result<()> {
        self.request.flags &= !(1 << kvm_ioeventfd_flag_nr_deassign);
        self.ask(vm).context("KVM_IOEVENTFD")
    }

    fn ask(&self, vm: &VmFd) -> io::Result<()> {
        // SAFETY: `vm` is a VM's file descriptor, and the kernel only reads the structure.
        match unsafe { ioctl_with_ref(vm, KVM_IOEVENTFD(), &self.request) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// For others that are to wait for it.
    pub fn event(&self) -> &EventFd {
        &self.event
    }

    /// How often it, or one that it shares its eventfd with, rang since the last call.
    pub fn rings(&self) -> Result<u64> {
        match self.event.read() {
            Ok(count) => Ok(count),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(e) => Err(e).context("reading an eventfd"),
        }
    }
}
