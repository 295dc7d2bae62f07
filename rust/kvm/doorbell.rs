// SPDX-License-Identifier: GPL-2.0

//! Which ioeventfd a write signals, without a search of the I/O bus if it was found before.
//!
//! An ioeventfd takes a write or not for its address, length and data alone, and no two of a VM
//! take the same (`ioeventfd_check_collision()`). So what a write does is known as long as the
//! devices on the bus are the same, however many ioeventfds share the address.

use super::vcpu::Vcpu;
use crate::addr::Gpa;
use kernel::prelude::*;
use kvm_bindings as bindings;
use pin_init::init_array_from_fn;

/// Writes that are remembered, a power of two.
const ENTRIES: usize = 256;

/// The doorbells of a vCPU, each in the entry that its address and data select.
pub(super) struct Doorbells {
    entries: [bindings::mmio_ext_doorbell; ENTRIES],
}

/// No bus with a device is of generation 0.
const NEVER_RUNG: bindings::mmio_ext_doorbell = bindings::mmio_ext_doorbell {
    generation: 0,
    gpa: 0,
    val: 0,
    len: 0,
    dev_idx: 0,
};

/// A write.
#[derive(Clone, Copy)]
pub(crate) struct Write {
    pub(crate) gpa: Gpa,
    /// Up to 8 bytes, the rest is 0.
    pub(crate) value: u64,
    /// How many bytes: 1, 2, 4 or 8.
    pub(crate) size: u8,
}

impl Doorbells {
    pub(super) fn init() -> impl Init<Self> {
        init!(Self {
            entries <- init_array_from_fn(|_| NEVER_RUNG),
        })
    }

    /// Virtio's doorbells are 4 bytes or a page apart, with small numbers as data.
    #[inline(always)]
    fn entry(&mut self, write: &Write) -> &mut bindings::mmio_ext_doorbell {
        let index = write.gpa.0 >> 2 ^ write.gpa.0 >> 12 ^ write.value;
        &mut self.entries[index as usize % ENTRIES]
    }
}

/// Signals the ioeventfd that the same write has signalled before. Returns whether there is one;
/// if not, nothing has happened.
#[inline(always)]
pub(super) fn ring(vcpu: &mut Vcpu<'_>, write: &Write) -> bool {
    let raw = vcpu.raw();
    let doorbell = vcpu.doorbells().entry(write);

    doorbell.gpa == write.gpa.0
        && doorbell.val == write.value
        && doorbell.len == u32::from(write.size)
        // SAFETY: The vCPU is in its own thread and `kvm->srcu` is held; the entry was filled in.
        && unsafe { bindings::mmio_ext_ring_doorbell(raw, doorbell) } == 0
}

/// Remembers that a write went to the device with the number `dev_idx` on the bus, if that is an
/// ioeventfd which comes before any other kind of device. Returns whether it is an ioeventfd.
pub(super) fn remember(vcpu: &mut Vcpu<'_>, write: &Write, dev_idx: i32) -> bool {
    let raw = vcpu.raw();
    let doorbell = vcpu.doorbells().entry(write);

    *doorbell = bindings::mmio_ext_doorbell {
        generation: 0,
        gpa: write.gpa.0,
        val: write.value,
        len: write.size.into(),
        dev_idx,
    };
    // SAFETY: The vCPU is in its own thread and `kvm->srcu` is held.
    unsafe { bindings::mmio_ext_remember_doorbell(raw, doorbell) }
}
