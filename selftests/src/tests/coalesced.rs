// SPDX-License-Identifier: GPL-2.0
//! Writes that KVM collects in a ring, which userspace can write to as well.

use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};
use std::{io, mem};

use anyhow::{Context, Result, ensure};
use kvm_bindings::{KVM_COALESCED_MMIO_PAGE_OFFSET, kvm_coalesced_mmio, kvm_coalesced_mmio_ring};

use crate::guest::{Bus, Event, Machine, Mode, PAGE, Vcpu};

crate::test_table! {
    coalesced_hostile_ring:
        "coalesced MMIO: indices that are out of bounds lead nowhere (CVE-2019-14821)"
        => hostile_ring(),
}

/// `KVM_COALESCED_MMIO_MAX`
const ENTRIES: u32 = ((PAGE as usize - mem::size_of::<kvm_coalesced_mmio_ring>())
    / mem::size_of::<kvm_coalesced_mmio>()) as u32;

/// The ring of a VM, as any of its vCPUs shows it.
struct Ring(NonNull<kvm_coalesced_mmio_ring>);

impl Ring {
    fn map(vcpu: &Vcpu) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let ring = unsafe {
            libc::mmap(
                ptr::null_mut(),
                PAGE as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                vcpu.fd().as_raw_fd(),
                (u64::from(KVM_COALESCED_MMIO_PAGE_OFFSET) * PAGE) as libc::off_t,
            )
        };
        if ring == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(ring.cast())
            .map(Self)
            .ok_or_else(|| io::Error::other("mapped at 0"))
    }

    fn set(&self, first: u32, last: u32) {
        // SAFETY: the page is mapped, and KVM expects it to change at any time.
        unsafe {
            (&raw mut (*self.0.as_ptr()).first).write_volatile(first);
            (&raw mut (*self.0.as_ptr()).last).write_volatile(last);
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: `map` mapped exactly this page, and nothing else keeps a pointer into it.
        unsafe { libc::munmap(self.0.as_ptr().cast(), PAGE as usize) };
    }
}

fn hostile_ring() -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let (gva, gpa) = (machine.gva(1), machine.gpa(1));
    machine.coalesce(Bus::Mmio(gpa), 8)?;
    let ring = Ring::map(&vcpu).context("the ring")?;

    let indices = [
        0,
        1,
        ENTRIES - 1,
        ENTRIES,
        ENTRIES + 1,
        1 << 16,
        1 << 31,
        u32::MAX,
    ];
    for first in indices {
        for last in indices {
            ring.set(first, last);
            let events = vcpu.write(gva, 4, 0x1234)?;
            let to_userspace = events == [Event::write(gpa, 4, 0x1234)];
            let may_be_taken = last < ENTRIES;
            ensure!(
                to_userspace || may_be_taken && events.is_empty(),
                "ring from {first:#x} to {last:#x}: {events:?}"
            );
        }
    }
    Ok(())
}
