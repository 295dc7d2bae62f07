// SPDX-License-Identifier: GPL-2.0

//! The entries of an I/O bus.
//!
//! C header: [`include/linux/kvm_host.h`](srctree/include/linux/kvm_host.h), `struct kvm_io_range`.

use super::iodev::Range;
use kvm_bindings as bindings;

/// The entry of a device.
///
/// # Safety
///
/// `bus` must point to a live bus of more than `index` devices.
#[inline(always)]
pub(super) unsafe fn entry_of(
    bus: *const bindings::kvm_io_bus,
    index: usize,
) -> *const bindings::kvm_io_range {
    // SAFETY: The array behind the bus has an entry for each device.
    unsafe {
        (&raw const (*bus).range)
            .cast::<bindings::kvm_io_range>()
            .add(index)
    }
}

/// What a device is asked for.
///
/// # Safety
///
/// As for [`entry_of`].
#[inline(always)]
pub(super) unsafe fn range_of(bus: *const bindings::kvm_io_bus, index: usize) -> Range {
    // SAFETY: There is the device.
    unsafe {
        let entry = entry_of(bus, index);
        Range {
            addr: (*entry).addr,
            len: (*entry).len,
        }
    }
}
