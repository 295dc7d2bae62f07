// SPDX-License-Identifier: GPL-2.0

//! `kvm->srcu`, held for reading: memslots and I/O buses stay what they are.

use core::marker::PhantomData;
use kvm_bindings as bindings;

/// Proof that `kvm->srcu` of a VM is held for reading during `'a`.
#[derive(Clone, Copy)]
pub(crate) struct Srcu<'a>(PhantomData<&'a ()>);

impl Srcu<'_> {
    /// # Safety
    ///
    /// `kvm->srcu` must be held for reading as long as the value is used, of the VM of the vCPU
    /// that it is used for.
    #[inline(always)]
    pub(crate) const unsafe fn assume_held() -> Self {
        Self(PhantomData)
    }
}

/// What a vCPU's thread needs between an exit and `local_irq_enable()`, where KVM has given up
/// `kvm->srcu` and nothing may sleep: `kvm->srcu`, with page faults disabled. Memory of the VM that
/// is not there is not waited for.
///
/// # Invariants
///
/// `kvm` points to a VM that is alive, and `srcu` is what its `kvm->srcu` was locked with.
pub(super) struct IrqsOff {
    kvm: *mut bindings::kvm,
    srcu: u32,
}

impl IrqsOff {
    /// Returns what the processor was doing, too, `enum kvm_mmio_ext_flags`.
    ///
    /// # Safety
    ///
    /// `vcpu` must point to a vCPU that lives as long as the value, in its own thread right after
    /// an exit.
    #[inline(always)]
    pub(super) unsafe fn enter(vcpu: *mut bindings::kvm_vcpu) -> (Self, u32) {
        // SAFETY: The vCPU is alive and in its own thread, right after an exit: that is what the
        // function wants. A vCPU's VM lives at least as long.
        let (kvm, both) = unsafe { ((*vcpu).kvm, bindings::mmio_ext_enter_irqs_off(vcpu)) };
        // INVARIANT: The upper half is what locking has returned.
        let held = Self {
            kvm,
            srcu: (both >> 32) as u32,
        };
        (held, both as u32)
    }

    /// What is held.
    #[inline(always)]
    pub(super) fn srcu(&self) -> Srcu<'_> {
        // SAFETY: It is held until the value is dropped, which is borrowed meanwhile.
        unsafe { Srcu::assume_held() }
    }
}

impl Drop for IrqsOff {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: By the type's invariants the VM is alive, and `srcu` what it was locked with.
        unsafe { bindings::mmio_ext_leave_irqs_off(self.kvm, self.srcu) };
    }
}
