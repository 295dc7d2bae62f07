// SPDX-License-Identifier: GPL-2.0
//! All that is `unsafe`: memory that KVM and the module use, and a system call.

#![expect(unsafe_code)]

use std::fs::File;
use std::io;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use anyhow::{Context, Result};
use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use vm_memory::{GuestMemory, GuestMemoryMmap, GuestMemoryRegion, MmapRegion, VolatileMemory};
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

use crate::layout::PAGE;

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

ioctl_iow_nr!(KVM_MMIO_REGISTER_ADD, 0xbb, 0, Request);

/// Memory of this process that a guest or the kernel may use for as long as the process runs.
///
/// # Invariants
///
/// It is never unmapped: a strong reference is leaked.
#[derive(Clone)]
pub struct Shared(Arc<MmapRegion>);

impl Shared {
    /// New memory of zeroes; `size` is in bytes, a multiple of a page.
    pub fn new(size: usize) -> Result<Self> {
        let region = Arc::new(MmapRegion::new(size)?);
        // INVARIANT: this reference is never dropped.
        mem::forget(region.clone());
        Ok(Self(region))
    }

    /// The 32-bit word at `offset`, a multiple of 4 within the memory.
    pub fn word(&self, offset: usize) -> &AtomicU32 {
        self.0.get_atomic_ref(offset).expect("a word of the memory")
    }

    /// Where this process has the byte at `offset`.
    fn address(&self, offset: usize) -> u64 {
        assert!(offset < self.0.size());
        self.0.as_ptr() as u64 + offset as u64
    }
}

/// Makes all of `memory` the guest's, for as long as the process runs.
pub fn add_ram(vm: &VmFd, slot: u32, memory: &GuestMemoryMmap) -> Result<()> {
    // The regions stay mapped, whatever becomes of `memory`.
    mem::forget(memory.clone());
    for (slot, region) in (slot..).zip(memory.iter()) {
        let slot = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: a reference to the region has been leaked, so that it stays mapped; vm-memory
        // only has volatile accesses to it, so that the guest may change it at any time.
        unsafe { vm.set_user_memory_region(slot) }.context("KVM does not take the memory")?;
    }
    Ok(())
}

/// Asks for a slice of the processor of so many nanoseconds for this thread, see sched(7).
pub fn set_slice(nanoseconds: u64) -> io::Result<()> {
    let attributes = libc::sched_attr {
        size: mem::size_of::<libc::sched_attr>() as u32,
        sched_policy: libc::SCHED_OTHER as u32,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: nanoseconds,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the call only reads the structure, which says its size.
    match unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &attributes, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has the guest read the page at an offset of the memory, at `gpa`; its writes there are MMIO unless it
/// is `writable`.
pub fn map(vm: &VmFd, slot: u32, gpa: u64, page: (&Shared, usize), writable: bool) -> Result<()> {
    let slot = kvm_userspace_memory_region {
        slot,
        flags: if writable { 0 } else { KVM_MEM_READONLY },
        guest_phys_addr: gpa,
        memory_size: PAGE,
        userspace_addr: page.0.address(page.1),
    };
    // SAFETY: the address is in the memory, which is made of pages, and KVM takes none that does not
    // begin a page. By the invariant of `Shared` it stays mapped, and this process only accesses it
    // atomically, so that the guest may change it at any time.
    unsafe { vm.set_user_memory_region(slot) }
        .with_context(|| format!("KVM takes no memory at {gpa:#x}"))
}

/// Adds a register to an open `/dev/kvm_mmio_registers`: accesses change `word` from now on.
pub fn add_register(file: &File, word: (&Shared, usize), mut request: Request) -> io::Result<()> {
    request.user_addr = word.0.address(word.1);
    // SAFETY: the kernel reads the structure, and then changes the word, which by the invariant of
    // `Shared` stays mapped and which this process only accesses atomically.
    match unsafe { ioctl_with_ref(file, KVM_MMIO_REGISTER_ADD(), &request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
