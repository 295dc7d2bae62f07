// SPDX-License-Identifier: GPL-2.0

//! What a vCPU's thread needs between an exit and `local_irq_enable()`, where KVM has given up
//! `kvm->srcu` and nothing may sleep.

use super::vcpu::Mode;
use kvm_bindings as bindings;

/// `kvm->srcu`, held for reading, with page faults disabled: memory of the VM that is not there is
/// not waited for.
pub(super) struct IrqsOff {
    kvm: *mut bindings::kvm,
    srcu: u32,
}

impl IrqsOff {
    /// Returns what the processor was doing, too.
    ///
    /// # Safety
    ///
    /// `vcpu` must point to a vCPU that lives as long as the value, in its own thread right after
    /// an exit.
    #[inline(always)]
    pub(super) unsafe fn enter(vcpu: *mut bindings::kvm_vcpu) -> (Self, Mode) {
        // SAFETY: The caller promises what the function wants; a vCPU's VM lives at least as long.
        let (kvm, both) = unsafe { ((*vcpu).kvm, bindings::mmio_ext_enter_irqs_off(vcpu)) };
        let held = Self {
            kvm,
            srcu: (both >> 32) as u32,
        };
        (held, Mode::new(both as u32))
    }
}

impl Drop for IrqsOff {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: The VM is alive, and `srcu` is what entering has returned.
        unsafe { bindings::mmio_ext_leave_irqs_off(self.kvm, self.srcu) };
    }
}
