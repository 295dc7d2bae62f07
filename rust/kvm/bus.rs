// SPDX-License-Identifier: GPL-2.0

//! The I/O buses of a VM for MMIO: devices in the kernel and ioeventfds.
//!
//! C header: `include/linux/kvm_host.h`, `struct kvm_io_bus`.

use super::vcpu::Vcpu;
use crate::doorbell::{Again, Answer, Bus, Range, Write};
use core::{
    ffi::c_void,
    marker::PhantomData,
    ptr, //
};
use kernel::error::code::ENXIO;
use kvm_bindings as bindings;

/// A bus as a vCPU sees it while `kvm->srcu` is held.
///
/// # Invariants
///
/// - `vcpu` points to a vCPU that is in its own thread;
/// - `bus` points to a bus that is alive for `'a`, as `kvm->srcu` is held that long: the devices on
///   it do not change, another bus takes its place.
///
/// Devices never call the extension, i.e. what it has of the vCPU may be borrowed meanwhile.
pub(super) struct IoBus<'a> {
    vcpu: *mut bindings::kvm_vcpu,
    bus: *const bindings::kvm_io_bus,
    _srcu: PhantomData<&'a bindings::kvm_io_bus>,
}

impl<'a> IoBus<'a> {
    /// The devices that MMIO is offered to. `None` if the bus has been lost, as happens when
    /// `kvm_io_bus_unregister_dev()` finds no memory.
    #[inline(always)]
    pub(super) fn mmio(vcpu: &Vcpu<'a>) -> Option<Self> {
        Self::now(vcpu, bindings::MMIO_EXT_MMIO_BUS)
    }

    /// The zero-length ioeventfds.
    #[inline(always)]
    pub(super) fn fast_mmio(vcpu: &Vcpu<'a>) -> Option<Self> {
        Self::now(vcpu, bindings::MMIO_EXT_FAST_MMIO_BUS)
    }

    #[inline(always)]
    fn now(vcpu: &Vcpu<'a>, number: usize) -> Option<Self> {
        // SAFETY: The vCPU is alive and `kvm->srcu` is held. `kvm_get_bus_srcu()` is no more than
        // `READ_ONCE()` on x86: the barrier that it asks for is in `srcu_read_lock()`.
        let bus = unsafe {
            let kvm = (*vcpu.raw()).kvm;
            ptr::read_volatile(&raw const (*kvm).buses[number])
        };
        // INVARIANT: By those of `Vcpu`.
        (!bus.is_null()).then_some(Self {
            vcpu: vcpu.raw(),
            bus,
            _srcu: PhantomData,
        })
    }

    /// The entry of the device `index`, which must be less than [`Bus::count`].
    #[inline(always)]
    fn entry(&self, index: usize) -> *const bindings::kvm_io_range {
        // SAFETY: The bus is alive, and the array behind it has an entry for each device.
        unsafe {
            (&raw const (*self.bus).range)
                .cast::<bindings::kvm_io_range>()
                .add(index)
        }
    }
}

/// An eventfd that a device of the bus signals.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Eventfd(*mut bindings::eventfd_ctx);

impl Eventfd {
    /// Signals it. To be called in any context that spinlocks may be taken in.
    ///
    /// # Safety
    ///
    /// The bus must be alive that it is from, or one of the same generation.
    #[inline(always)]
    pub(super) unsafe fn signal(self) {
        // SAFETY: The device holds a reference as long as it is on the bus.
        unsafe { bindings::eventfd_signal_mask(self.0, 0) };
    }
}

impl Bus for IoBus<'_> {
    type Eventfd = Eventfd;

    #[inline(always)]
    fn generation(&self) -> u64 {
        // SAFETY: The bus is alive.
        unsafe { (*self.bus).generation }
    }

    #[inline(always)]
    fn count(&self) -> usize {
        // SAFETY: The bus is alive. It is never negative.
        unsafe { (*self.bus).dev_count as usize }
    }

    #[inline(always)]
    fn range(&self, index: usize) -> Range {
        let entry = self.entry(index);
        // SAFETY: The entry is that of a device, see `entry()`.
        unsafe {
            Range {
                addr: (*entry).addr,
                len: (*entry).len,
            }
        }
    }

    #[inline(always)]
    fn write(&self, index: usize, write: &Write) -> Answer<Eventfd> {
        let (gpa, len) = (write.gpa.0, write.size.into());
        let value: *const c_void = (&raw const write.value).cast();
        let mut eventfd = Eventfd(ptr::null_mut());
        // SAFETY: The entry is that of a device, see `entry()`. The vCPU is in its own thread with
        // `kvm->srcu` held, and `value` has `len` bytes, as `kvm_iodevice_write()` wants. What is
        // signalled is from this bus.
        unsafe {
            let device = (*self.entry(index)).dev;
            let again = match bindings::kvm_ioeventfd_match(device, gpa, len, value, &mut eventfd.0)
            {
                0 => Again::SameValue,
                1.. => Again::AnyValue,
                error if error != ENXIO.to_errno() => return Answer::Declined { always: true },
                _ => {
                    return match bindings::mmio_ext_device_write(self.vcpu, device, gpa, len, value)
                    {
                        0 => Answer::Taken,
                        _ => Answer::Declined { always: false },
                    }
                }
            };
            eventfd.signal();
            Answer::Signalled { eventfd, again }
        }
    }
}
