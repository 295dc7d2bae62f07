// SPDX-License-Identifier: GPL-2.0

//! The I/O buses of a VM for MMIO: devices in the kernel and ioeventfds.
//!
//! C header: [`include/linux/kvm_host.h`](srctree/include/linux/kvm_host.h), `struct kvm_io_bus`.

use super::{
    addr::Gpa,
    io_device::{device_of, own_device, IoDevice},
    io_range::{entry_of, range_of},
    iodev::{Again, Answer, BellKind, Bus, Range, Write},
    srcu::Srcu,
    vcpu::Vcpu, //
};
use core::{
    ffi::c_void,
    marker::PhantomData,
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
/// Devices never call the extension, i.e. what it has of the vCPU may be borrowed meanwhile. Those
/// of the type `D` are called without going through KVM's table of functions.
pub(crate) struct IoBus<'a, D> {
    vcpu: *mut bindings::kvm_vcpu,
    bus: *const bindings::kvm_io_bus,
    _srcu: Srcu<'a>,
    _own: PhantomData<fn(D)>,
}

impl<'a, D: IoDevice> IoBus<'a, D> {
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
            _own: PhantomData,
        })
    }

    /// The entry of the device `index`, which must be less than [`Bus::count`].
    #[inline(always)]
    fn entry(&self, index: usize) -> *const bindings::kvm_io_range {
        // SAFETY: By the type's invariants the bus is alive; it has the device, as is asked for
        // above.
        unsafe { entry_of(self.bus, index) }
    }
}

/// What has done a write and can do more of them in any context: an eventfd, or a device of the type
/// `D`.
///
/// # Invariants
///
/// `of` was, on the VM's bus with the generation `state`, the eventfd that a device held a reference
/// to; or, if that has [`IS_DEVICE`] besides, a device of the type `D`.
pub(crate) struct Bell<D> {
    of: NonNull<c_void>,
    state: u64,
    _own: PhantomData<fn(D)>,
}

/// No generation gets this far. So an eventfd has to pay for no question but whether it is current.
const IS_DEVICE: u64 = 1 << 63;

impl<D> Bell<D> {
    /// What it is.
    #[inline(always)]
    pub(crate) fn kind(self) -> BellKind {
        match self.state & IS_DEVICE {
            0 => BellKind::Eventfd,
            _ => BellKind::Device,
        }
    }
}

impl<D> Clone for Bell<D> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<D> Copy for Bell<D> {}

impl<D: IoDevice> IoBus<'_, D> {
    /// A number for this state of the bus, which no other bus of the VM has.
    #[inline(always)]
    fn generation(&self) -> u64 {
        // SAFETY: By the type's invariants the bus is alive.
        unsafe { (*self.bus).generation }
    }

    /// Offers a read to the device `index`, which must be less than [`Bus::count`]. `None` if it is
    /// nothing for the device, and nothing has happened.
    #[inline(always)]
    pub(crate) fn read(&self, index: usize, gpa: Gpa, size: u8) -> Option<u64> {
        let mut value = 0_u64;
        // SAFETY: The entry is that of a device, see `entry()`. The vCPU is in its own thread with
        // `kvm->srcu` held, and there is room for 8 bytes, as `kvm_iodevice_read()` wants.
        unsafe {
            let device = (*self.entry(index)).dev;
            if let Some(own) = device_of::<D>(device) {
                return own.read(gpa, size);
            }
            let room = (&raw mut value).cast();
            let error = bindings::mmio_ext_device_read(self.vcpu, device, gpa.0, size.into(), room);
            (error == 0).then_some(value)
        }
    }

    /// Offers a write to a device that is no ioeventfd.
    ///
    /// # Safety
    ///
    /// `device` must be on the bus.
    #[inline(never)]
    unsafe fn write_to_other(
        &self,
        device: *mut bindings::kvm_io_device,
        write: &Write,
    ) -> Answer<Bell<D>> {
        // SAFETY: The device is on the bus, and so is alive.
        if let Some(own) = unsafe { device_of::<D>(device) } {
            return match own.write(write) {
                // INVARIANT: It is a device of this bus.
                true => Answer::Rung {
                    bell: Bell {
                        // SAFETY: There is a device.
                        of: unsafe { NonNull::new_unchecked(device.cast()) },
                        state: self.generation() | IS_DEVICE,
                        _own: PhantomData,
                    },
                    again: Again::AnyValue,
                },
                false => Answer::Declined { always: true },
            };
        }
        let value = (&raw const write.value).cast();
        // SAFETY: The device is on the bus, and there are `size` bytes of the value. The vCPU is in
        // its own thread with `kvm->srcu` held, as `kvm_iodevice_write()` wants.
        let error = unsafe {
            bindings::mmio_ext_device_write(
                self.vcpu,
                device,
                write.gpa.0,
                write.size.into(),
                value,
            )
        };
        match error {
            0 => Answer::Taken,
            _ => Answer::Declined { always: false },
        }
    }
}

impl<D: IoDevice> Bus for IoBus<'_, D> {
    type Bell = Bell<D>;

    #[inline(always)]
    fn count(&self) -> usize {
        // SAFETY: By the type's invariants the bus is alive. The number is never negative.
        unsafe { (*self.bus).dev_count as usize }
    }

    #[inline(always)]
    fn range(&self, index: usize) -> Range {
        // SAFETY: By the type's invariants the bus is alive; it has the device, as `Bus::range()`
        // asks for.
        unsafe { range_of(self.bus, index) }
    }

    #[inline(always)]
    fn write(&self, index: usize, write: &Write) -> Answer<Bell<D>> {
        let (gpa, len) = (write.gpa.0, write.size.into());
        let value: *const c_void = (&raw const write.value).cast();
        let mut eventfd = ptr::null_mut();
        // SAFETY: The entry is that of a device, see `entry()`. The vCPU is in its own thread with
        // `kvm->srcu` held, and `value` has `len` bytes. Whatever matches has an eventfd.
        unsafe {
            let device = (*self.entry(index)).dev;
            let again = match bindings::kvm_ioeventfd_match(device, gpa, len, value, &mut eventfd) {
                0 => Again::SameValue,
                1.. => Again::AnyValue,
                error if error != ENXIO.to_errno() => return Answer::Declined { always: true },
                _ => return self.write_to_other(device, write),
            };
            bindings::eventfd_signal_mask(eventfd, 0);
            // INVARIANT: It is that of a device of this bus.
            let bell = Bell {
                of: NonNull::new_unchecked(eventfd.cast()),
                state: self.generation(),
                _own: PhantomData,
            };
            Answer::Rung { bell, again }
        }
    }

    #[inline(always)]
    fn is_current(&self, bell: Bell<D>) -> bool {
        bell.state & !IS_DEVICE == self.generation()
    }

    #[inline(always)]
    fn signal(&self, bell: Bell<D>) -> bool {
        let is_one = bell.state == self.generation();
        if is_one {
            // SAFETY: By the type's invariants the bus is alive, and so are its devices. By those
            // of `Bell`, as this is the bus with its generation, one of them holds a reference.
            unsafe { bindings::eventfd_signal_mask(bell.of.as_ptr().cast(), 0) };
        }
        is_one
    }

    #[inline(always)]
    fn write_again(&self, bell: Bell<D>, value: u64) -> bool {
        let is_one = bell.state == self.generation() | IS_DEVICE;
        if is_one {
            // SAFETY: By the type's invariants the bus is alive, and so are its devices. By those
            // of `Bell`, as this is the bus with its generation, it is one of them, a `D`.
            unsafe { write_to_own::<D>(bell.of, value) };
        }
        is_one
    }
}

/// Does a write to a device once more. Not inlined: eventfds are not to pay for it.
///
/// # Safety
///
/// `device` must be of the type `D` and on a bus, which stays there.
#[inline(never)]
unsafe fn write_to_own<D: IoDevice>(device: NonNull<c_void>, value: u64) {
    // SAFETY: The caller says that `device` is a `D` on a bus that stays there; that is what
    // `own_device()` wants.
    unsafe { own_device::<D>(device.as_ptr().cast()) }.write_again(value);
}

impl<S> Vcpu<'_, S> {
    /// Has KVM ask [`MmioExt::ring`](super::MmioExt::ring) about writes to `gpa`, and to other
    /// addresses that it does not tell apart from it.
    pub(crate) fn add_bell(&mut self, gpa: Gpa) {
        // SAFETY: The vCPU is alive, and only its thread, which this is, changes the field.
        unsafe { bindings::mmio_ext_add_bell(self.raw(), gpa.0) }
    }
}
