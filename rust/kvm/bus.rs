// SPDX-License-Identifier: GPL-2.0

//! The I/O buses of a VM for MMIO: devices in the kernel and ioeventfds.
//!
//! C header: [`include/linux/kvm_host.h`](srctree/include/linux/kvm_host.h), `struct kvm_io_bus`.

use super::{
    addr::Gpa,
    iodev::{Again, Answer, Bus, Range, Write},
    srcu::Srcu,
    vcpu::Vcpu, //
};
use core::{
    ffi::c_void,
    ptr::{self, NonNull}, //
};
use kernel::error::code::ENXIO;
use kvm_bindings as bindings;

/// A bus as a vCPU sees it while `kvm->srcu` is held.
///
/// # Invariants
///
/// - `vcpu` points to a vCPU that is in its own thread;
/// - `bus` points to a bus that is alive for `'a`, as `_srcu` says that `kvm->srcu` is held that
///   long: the devices on it do not change, another bus takes its place.
///
/// Devices never call the extension, i.e. what it has of the vCPU may be borrowed meanwhile.
pub(crate) struct IoBus<'a> {
    vcpu: *mut bindings::kvm_vcpu,
    bus: *const bindings::kvm_io_bus,
    _srcu: Srcu<'a>,
}

impl<'a> IoBus<'a> {
    /// The devices that MMIO is offered to. `None` if the bus has been lost, as happens when
    /// `kvm_io_bus_unregister_dev()` finds no memory.
    #[inline(always)]
    pub(crate) fn mmio<S>(vcpu: &Vcpu<'a, S>) -> Option<Self> {
        Self::now(vcpu, bindings::MMIO_EXT_MMIO_BUS)
    }

    /// The zero-length ioeventfds.
    #[inline(always)]
    pub(crate) fn fast_mmio<S>(vcpu: &Vcpu<'a, S>) -> Option<Self> {
        Self::now(vcpu, bindings::MMIO_EXT_FAST_MMIO_BUS)
    }

    #[inline(always)]
    fn now<S>(vcpu: &Vcpu<'a, S>, number: usize) -> Option<Self> {
        // SAFETY: The VM is alive. `kvm_get_bus_srcu()` is no more than `READ_ONCE()` on x86: the
        // barrier that it asks for is in `srcu_read_lock()`.
        let bus = unsafe { ptr::read_volatile(&raw const (*vcpu.kvm()).buses[number]) };
        // INVARIANT: This is the vCPU's thread; it has a proof that `kvm->srcu` is held.
        (!bus.is_null()).then_some(Self {
            vcpu: vcpu.raw(),
            bus,
            _srcu: vcpu.srcu(),
        })
    }

    /// The entry of the device `index`, which must be less than [`Bus::count`].
    #[inline(always)]
    fn entry(&self, index: usize) -> *const bindings::kvm_io_range {
        // SAFETY: The bus is alive and has the device.
        unsafe { entry_of(self.bus, index) }
    }
}

/// The entry of a device.
///
/// # Safety
///
/// `bus` must point to a live bus of more than `index` devices.
#[inline(always)]
unsafe fn entry_of(
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

/// An eventfd that a device of the bus has signalled.
///
/// # Invariants
///
/// `eventfd` was that of a device of the VM's bus with this generation, which held a reference.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Eventfd {
    eventfd: NonNull<bindings::eventfd_ctx>,
    generation: u64,
}

impl IoBus<'_> {
    /// A number for this state of the bus, unique within the VM.
    #[inline(always)]
    fn generation(&self) -> u64 {
        // SAFETY: The bus is alive.
        unsafe { (*self.bus).generation }
    }

    /// Offers a read to the device `index`, which must be less than [`Bus::count`]. `None` if it is
    /// nothing for the device, and nothing has happened.
    #[inline(always)]
    pub(crate) fn read(&self, index: usize, gpa: Gpa, size: u8) -> Option<u64> {
        let mut value = 0_u64;
        // SAFETY: The entry is that of a device, see `entry()`. The vCPU is in its own thread with
        // `kvm->srcu` held, and there is room for 8 bytes, as `kvm_iodevice_read()` wants.
        let error = unsafe {
            bindings::mmio_ext_device_read(
                self.vcpu,
                (*self.entry(index)).dev,
                gpa.0,
                size.into(),
                (&raw mut value).cast(),
            )
        };
        (error == 0).then_some(value)
    }
}

impl Bus for IoBus<'_> {
    type Eventfd = Eventfd;

    #[inline(always)]
    fn count(&self) -> usize {
        // SAFETY: The bus is alive. It is never negative.
        unsafe { (*self.bus).dev_count as usize }
    }

    #[inline(always)]
    fn range(&self, index: usize) -> Range {
        // SAFETY: The bus is alive and has the device.
        unsafe { range_of(self.bus, index) }
    }

    #[inline(always)]
    fn write(&self, index: usize, write: &Write) -> Answer<Eventfd> {
        let (gpa, len) = (write.gpa.0, write.size.into());
        let value: *const c_void = (&raw const write.value).cast();
        let mut eventfd = ptr::null_mut();
        // SAFETY: The entry is that of a device, see `entry()`. The vCPU is in its own thread with
        // `kvm->srcu` held, and `value` has `len` bytes, as `kvm_iodevice_write()` wants. Whatever
        // matches has an eventfd.
        unsafe {
            let device = (*self.entry(index)).dev;
            let again = match bindings::kvm_ioeventfd_match(device, gpa, len, value, &mut eventfd) {
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
            bindings::eventfd_signal_mask(eventfd, 0);
            // INVARIANT: It is that of a device of this bus.
            let eventfd = Eventfd {
                eventfd: NonNull::new_unchecked(eventfd),
                generation: self.generation(),
            };
            Answer::Signalled { eventfd, again }
        }
    }

    #[inline(always)]
    fn is_current(&self, eventfd: Eventfd) -> bool {
        eventfd.generation == self.generation()
    }

    #[inline(always)]
    fn signal(&self, eventfd: Eventfd) -> bool {
        let is_current = self.is_current(eventfd);
        if is_current {
            // SAFETY: The bus is alive, and so are its devices, one of which holds a reference.
            unsafe { bindings::eventfd_signal_mask(eventfd.eventfd.as_ptr(), 0) };
        }
        is_current
    }
}

impl<S> Vcpu<'_, S> {
    /// Signals the zero-length ioeventfd at `gpa`. Returns whether there is one.
    pub(crate) fn signal_wildcard(&mut self, gpa: Gpa) -> bool {
        let _srcu = self.srcu();
        // SAFETY: The vCPU is alive, and `_srcu` says that `kvm->srcu` is held.
        unsafe { bindings::mmio_ext_signal_wildcard(self.raw(), gpa.0) }
    }

    /// Has KVM ask [`MmioExt::ring`](super::MmioExt::ring) about writes to `gpa`, and to other
    /// addresses that it does not tell apart from it.
    pub(crate) fn add_bell(&mut self, gpa: Gpa) {
        // SAFETY: The vCPU is alive, and only its thread, which this is, changes the field.
        unsafe { bindings::mmio_ext_add_bell(self.raw(), gpa.0) }
    }
}
