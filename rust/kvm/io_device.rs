// SPDX-License-Identifier: GPL-2.0

//! Devices of this module on a VM's bus for MMIO.
//!
//! C header: [`include/kvm/iodev.h`](srctree/include/kvm/iodev.h).
//!
//! Locks, in the order in which they are taken: `kvm->slots_lock`, a device's `Place`. KVM drops
//! devices under the first, or when the VM is destroyed.

use super::{
    addr::Gpa,
    io_range::range_of,
    iodev::{Range, Write},
    vm::Vm, //
};
use core::{
    ffi::c_void,
    marker::PhantomData,
    ptr::{self, NonNull}, //
};
use kernel::{
    error::to_result,
    ffi::c_int,
    new_mutex,
    prelude::*,
    sync::{Arc, Mutex}, //
};
use kvm_bindings as bindings;

/// `kvm->slots_lock`, held: devices neither come nor go.
struct SlotsLock<'a>(&'a Vm);

impl<'a> SlotsLock<'a> {
    fn new(vm: &'a Vm) -> Self {
        // SAFETY: The VM is alive, and no caller holds the lock.
        unsafe { bindings::mmio_ext_lock_slots(vm.as_ptr()) };
        Self(vm)
    }

    /// Whether any device on the bus for MMIO has something of a range.
    fn is_taken(&self, range: Range) -> bool {
        // SAFETY: The VM is alive. The bus does not change while the lock is held.
        unsafe {
            let bus = (*self.0.as_ptr()).buses[bindings::MMIO_EXT_MMIO_BUS];
            if bus.is_null() {
                return false;
            }
            (0..(*bus).dev_count as usize).any(|index| range.overlaps(range_of(bus, index)))
        }
    }
}

impl Drop for SlotsLock<'_> {
    fn drop(&mut self) {
        // SAFETY: The lock is held.
        unsafe { bindings::mmio_ext_unlock_slots(self.0.as_ptr()) };
    }
}

/// A device that completes accesses in the kernel. It is called by vCPUs' threads, by several at
/// once, and by the extension or by KVM alike; writes also with interrupts off.
pub(crate) trait IoDevice: Sized + Send + Sync + 'static {
    /// A static of which nothing more is asked than that it be one: its address is how a device of
    /// this type is told from others on the bus.
    fn operations() -> &'static Operations<Self>;

    /// Does a read of up to 8 bytes; `None` if it is for somebody else.
    fn read(&self, gpa: Gpa, size: u8) -> Option<u64>;

    /// Does a write. Returns whether it was for the device, as all of the same size to the same
    /// address are then; nothing has happened otherwise.
    fn write(&self, write: &Write) -> bool;

    /// Does a write of the same size to the same address as one that was for the device.
    fn write_again(&self, value: u64);
}

/// How KVM calls devices of a type.
///
/// # Invariants
///
/// `0` is what [`Operations::new`] makes.
pub(crate) struct Operations<D>(bindings::kvm_io_device_ops, PhantomData<fn(D)>);

impl<D: IoDevice> Operations<D> {
    /// For a static, see [`IoDevice::operations`].
    pub(crate) const fn new() -> Self {
        // INVARIANT: As just made.
        Self(
            bindings::kvm_io_device_ops {
                read: Some(Callbacks::<D>::read),
                write: Some(Callbacks::<D>::write),
                destructor: Some(Callbacks::<D>::destructor),
            },
            PhantomData,
        )
    }
}

/// A device as KVM has it.
#[repr(C)]
struct OnBus<D> {
    // First: KVM points to this.
    device: bindings::kvm_io_device,
    place: Arc<Place>,
    inner: D,
}

/// Where a device is, as long as it is anywhere.
#[pin_data]
struct Place {
    #[pin]
    now: Mutex<Option<Bus>>,
}

/// A device's VM, and its number there.
///
/// # Invariants
///
/// While it is what a [`Place`] holds, the device is on the bus of `kvm`, whose memory is there.
#[derive(Clone, Copy)]
struct Bus {
    kvm: NonNull<bindings::kvm>,
    device: NonNull<bindings::kvm_io_device>,
}

// SAFETY: VMs and devices belong to no thread. Only `Registered::drop()` follows the pointers, that
// of the VM with the `Place` locked, that of the device with `kvm->slots_lock` held.
unsafe impl Send for Bus {}

/// A device on the bus of a VM for MMIO. Dropping this takes it off the bus, unless it has gone
/// with its VM.
pub(crate) struct Registered<D> {
    place: Arc<Place>,
    _device: PhantomData<D>,
}

impl<D: IoDevice> Registered<D> {
    /// Puts a device on the bus, for accesses to anything of `range`.
    ///
    /// # Errors
    ///
    /// - `EEXIST` if another device has something of the range: KVM bisects the bus, and may miss
    ///   devices that overlap;
    /// - `ENOSPC` if the VM has as many as it may have (`NR_IOBUS_DEVS`, 1000);
    /// - `ENOMEM`.
    pub(crate) fn new(vm: &Vm, range: Range, device: D) -> Result<Self> {
        let place = Arc::pin_init(
            pin_init!(Place {
                now <- new_mutex!(None),
            }),
            GFP_KERNEL_ACCOUNT,
        )?;
        let on_bus = KBox::new(
            OnBus {
                device: bindings::kvm_io_device {
                    ops: &D::operations().0,
                },
                place: place.clone().into(),
                inner: device,
            },
            GFP_KERNEL_ACCOUNT,
        )?;
        Self::put(vm, range, on_bus)?;
        Ok(Self {
            place: place.into(),
            _device: PhantomData,
        })
    }

    fn put(vm: &Vm, range: Range, on_bus: KBox<OnBus<D>>) -> Result {
        let lock = SlotsLock::new(vm);
        if lock.is_taken(range) {
            return Err(EEXIST);
        }
        let place = on_bus.place.clone();
        let device = KBox::into_raw(on_bus);
        // SAFETY: The VM is alive and `slots_lock` is held. The device is complete, and KVM's from
        // here on if this succeeds.
        let registered = to_result(unsafe {
            bindings::kvm_io_bus_register_dev(
                vm.as_ptr(),
                bindings::MMIO_EXT_MMIO_BUS as _,
                range.addr,
                range.len,
                device.cast(),
            )
        });
        if let Err(error) = registered {
            // SAFETY: It is from `into_raw()`, and KVM has not taken it.
            drop(unsafe { KBox::from_raw(device) });
            return Err(error);
        }
        // INVARIANT: It is on the bus. It was not taken off: that needs the lock, or the last
        // reference to the VM.
        *place.now.lock() = NonNull::new(device.cast()).map(|device| Bus {
            kvm: vm.id(),
            device,
        });
        drop(lock);
        Ok(())
    }
}

impl<D> Registered<D> {
    /// Whether the device is on the bus still.
    pub(crate) fn is_alive(&self) -> bool {
        self.place.now.lock().is_some()
    }

    /// Whether it is on that of `vm`.
    pub(crate) fn is_of(&self, vm: &Vm) -> bool {
        self.place.now.lock().is_some_and(|bus| bus.kvm == vm.id())
    }
}

impl<D> Drop for Registered<D> {
    fn drop(&mut self) {
        let vm = {
            let now = self.place.now.lock();
            // SAFETY: The VM's memory is there while the lock is held: it goes only after the
            // device, which waits for the lock.
            now.and_then(|bus| unsafe { Vm::upgrade(bus.kvm) })
        };
        // Otherwise the VM is destroyed at this moment, and the device with it.
        let Some(vm) = vm else {
            return;
        };
        let lock = SlotsLock::new(&vm);
        let now = *self.place.now.lock();
        // It is gone if KVM has lost the whole bus meanwhile.
        if let Some(bus) = now {
            // SAFETY: The VM is alive and `slots_lock` is held, under which the device is on the
            // bus. Its destructor frees it, even if this fails.
            unsafe {
                bindings::kvm_io_bus_unregister_dev(
                    vm.as_ptr(),
                    bindings::MMIO_EXT_MMIO_BUS as _,
                    bus.device.as_ptr(),
                )
            };
        }
        drop(lock);
    }
}

/// What a device answers to an access that is for somebody else. The crate `kernel` of 7.2 does not
/// have it.
const NOT_FOR_IT: c_int = -(bindings::MMIO_EXT_EOPNOTSUPP as c_int);

/// The device, if it is one of the type `D`.
///
/// # Safety
///
/// `device` must be on a bus, and stay there for `'a`.
#[inline(always)]
pub(super) unsafe fn device_of<'a, D: IoDevice>(
    device: *mut bindings::kvm_io_device,
) -> Option<&'a D> {
    // SAFETY: The device is alive.
    let operations = unsafe { (*device).ops };
    // SAFETY: Only an `OnBus<D>` has an `Operations<D>`, whichever of them.
    ptr::eq(operations, &D::operations().0).then(|| unsafe { own_device(device) })
}

/// A device that is known to be of the type `D`.
///
/// # Safety
///
/// `device` must be that of an `OnBus<D>` on a bus, which stays there for `'a`.
#[inline(always)]
pub(super) unsafe fn own_device<'a, D>(device: *mut bindings::kvm_io_device) -> &'a D {
    // SAFETY: It is the first member of a live `OnBus<D>`, of which nobody has a mutable reference.
    unsafe { &(*device.cast::<OnBus<D>>()).inner }
}

struct Callbacks<D>(PhantomData<D>);

impl<D: IoDevice> Callbacks<D> {
    /// # Safety
    ///
    /// As for [`own_device`]; there must be room for `len` bytes at `value`.
    unsafe extern "C" fn read(
        _vcpu: *mut bindings::kvm_vcpu,
        device: *mut bindings::kvm_io_device,
        gpa: bindings::gpa_t,
        len: c_int,
        value: *mut c_void,
    ) -> c_int {
        // SAFETY: KVM holds `kvm->srcu`, and calls this for devices with these operations.
        let device = unsafe { own_device::<D>(device) };
        let read = size(len).and_then(|size| device.read(Gpa(gpa), size));
        match read {
            Some(read) => {
                // SAFETY: There is room for `len` bytes, which are at most 8.
                unsafe {
                    ptr::copy_nonoverlapping(
                        (&raw const read).cast::<u8>(),
                        value.cast(),
                        len as usize,
                    )
                };
                0
            }
            None => NOT_FOR_IT,
        }
    }

    /// # Safety
    ///
    /// As for [`own_device`]; there must be `len` bytes at `value`.
    unsafe extern "C" fn write(
        _vcpu: *mut bindings::kvm_vcpu,
        device: *mut bindings::kvm_io_device,
        gpa: bindings::gpa_t,
        len: c_int,
        value: *const c_void,
    ) -> c_int {
        let Some(size) = size(len) else {
            return NOT_FOR_IT;
        };
        let mut write = Write {
            gpa: Gpa(gpa),
            value: 0,
            size,
        };
        // SAFETY: There are `len` bytes, which are at most 8.
        unsafe {
            ptr::copy_nonoverlapping(
                value.cast::<u8>(),
                (&raw mut write.value).cast(),
                len as usize,
            )
        };
        // SAFETY: KVM holds `kvm->srcu`, and calls this for devices with these operations.
        match unsafe { own_device::<D>(device) }.write(&write) {
            true => 0,
            false => NOT_FOR_IT,
        }
    }

    /// # Safety
    ///
    /// `device` must be that of an `OnBus<D>` that nobody uses any more.
    unsafe extern "C" fn destructor(device: *mut bindings::kvm_io_device) {
        // SAFETY: It is from `into_raw()`, and KVM has waited for those that use it.
        let on_bus = unsafe { KBox::from_raw(device.cast::<OnBus<D>>()) };
        *on_bus.place.now.lock() = None;
    }
}

/// What a device is asked for; KVM asks for at most 8 bytes.
#[inline(always)]
fn size(len: c_int) -> Option<u8> {
    matches!(len, 1..=8).then_some(len as u8)
}
