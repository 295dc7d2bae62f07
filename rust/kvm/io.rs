// SPDX-License-Identifier: GPL-2.0

//! Accesses on their way to a device that is on no bus: the local APIC, or userspace.

use super::{
    addr::Gpa,
    exit_info::Exit,
    iodev::Write,
    srcu::Srcu,
    vcpu::{Vcpu, VcpuState}, //
};
use kernel::{
    error::code::EIO,
    ffi::c_int, //
};
use kvm_bindings as bindings;

/// Of a vCPU's state, what goes on with a load once userspace has provided the value.
pub(crate) trait CompleteLoad: VcpuState {
    /// Completes the load that [`Vcpu::read_mmio_at`] has begun. `None` if there is none.
    fn complete_load(vcpu: &mut Vcpu<'_, Self>) -> Option<Exit>;
}

/// Completes a load for which userspace has provided the value. It runs whether the extension is
/// switched on or not: the access began when it was.
///
/// # Safety
///
/// As for [`Vcpu::enter`], with `kvm->srcu` held and the vCPU having state.
pub(crate) unsafe extern "C" fn complete_load<S: CompleteLoad>(
    vcpu: *mut bindings::kvm_vcpu,
) -> c_int {
    // SAFETY: KVM calls this in the vCPU's thread with its mutex and `kvm->srcu` held.
    let vcpu = unsafe { Vcpu::<S>::enter(vcpu, Srcu::assume_held()) };

    match vcpu.and_then(|mut vcpu| S::complete_load(&mut vcpu)) {
        Some(exit) => exit.to_handler(),
        None => EIO.to_errno(),
    }
}

impl<S> Vcpu<'_, S> {
    /// Whether an address is the local APIC's, whose page can be anywhere.
    #[inline(always)]
    pub(crate) fn is_apic_page(&self, gpa: Gpa) -> bool {
        // SAFETY: The vCPU is alive, and so is its local APIC if it has one in the kernel.
        unsafe {
            let apic = (*self.arch()).apic;
            !apic.is_null()
                && gpa.0.wrapping_sub((*apic).base_address as u64) < bindings::MMIO_EXT_PAGE_SIZE
        }
    }

    /// Offers a write to the local APIC. Returns whether it has taken it.
    #[cold]
    pub(crate) fn write_to_apic(&mut self, write: &Write) -> bool {
        let _srcu = self.srcu();
        // SAFETY: The vCPU is alive and this is its thread, handling an exit; `_srcu` says that
        // `kvm->srcu` is held.
        unsafe {
            bindings::kvm_mmio_ext_write_apic(
                self.raw(),
                write.gpa.0,
                write.size.into(),
                write.value,
            )
        }
    }

    /// Leaves a write to userspace; the guest goes on at `next_rip`.
    #[inline(always)]
    pub(crate) fn exit_for_write(&mut self, write: &Write, next_rip: u64) {
        // SAFETY: The vCPU is alive and this is its thread, handling an exit.
        unsafe {
            bindings::kvm_mmio_ext_exit_write(
                self.raw(),
                write.gpa.0,
                write.size.into(),
                write.value,
                next_rip as _,
            )
        };
    }

    /// The value that userspace has provided for a load of `size` bytes, which is pending.
    pub(crate) fn provided_value(&mut self, gpa: Gpa, size: u8) -> u64 {
        // SAFETY: The vCPU is alive and this is its thread.
        unsafe { bindings::kvm_mmio_ext_read_value(self.raw(), gpa.0, size.into()) }
    }
}

impl<S: CompleteLoad> Vcpu<'_, S> {
    /// Reads up to 8 bytes, of which no device on a bus is asked if it is `vacant`. Returns what was
    /// read, and whether it was: otherwise userspace has to provide the value, and
    /// [`CompleteLoad::complete_load`] goes on.
    #[inline(always)]
    pub(crate) fn read_mmio_at(&mut self, gpa: Gpa, size: u8, vacant: bool) -> (u64, bool) {
        let _srcu = self.srcu();
        let mut value = 0;
        // SAFETY: The vCPU is alive and this is its thread, handling an exit; `_srcu` says that
        // `kvm->srcu` is held. KVM calls the callback in the same context, of a vCPU with an `S`.
        let done = unsafe {
            bindings::kvm_mmio_ext_read(
                self.raw(),
                gpa.0,
                size.into(),
                &mut value,
                vacant,
                Some(complete_load::<S>),
            )
        };
        (value, done != 0)
    }
}
