// SPDX-License-Identifier: GPL-2.0

//! The memslots of a VM, and where its memory is in the VM's process.
//!
//! C header: [`include/linux/kvm_host.h`](srctree/include/linux/kvm_host.h), `struct kvm_memslots`.

use super::{
    addr::Gpa,
    generation::MemslotGeneration,
    guest_memory::UserPtr,
    vcpu::Vcpu, //
};
use core::ptr;
use kvm_bindings as bindings;

impl<S> Vcpu<'_, S> {
    /// The generation of the memslots that the vCPU uses: those of SMM while it is in SMM.
    #[inline(always)]
    pub(crate) fn memslots_generation(&self) -> MemslotGeneration {
        let _srcu = self.srcu();
        // SAFETY: The vCPU is alive, and `_srcu` keeps the memslots alive. `READ_ONCE()` makes
        // `kvm_memslots()` out of this on x86, and a generation may get its flag set at any time.
        unsafe {
            let smm = (*self.arch()).hflags & bindings::MMIO_EXT_HF_SMM != 0;
            let slots = ptr::read_volatile(&raw const (*self.kvm()).memslots[usize::from(smm)]);
            MemslotGeneration(ptr::read_volatile(&raw const (*slots).generation))
        }
    }

    /// Whether an address is memory that the guest may only read, i.e. is MMIO for writes.
    pub(crate) fn is_read_only(&self, gpa: Gpa) -> bool {
        let _srcu = self.srcu();
        // SAFETY: The vCPU is alive, and `_srcu` says that `kvm->srcu` is held.
        unsafe { bindings::mmio_ext_is_read_only(self.raw(), gpa.0) }
    }

    /// Where an address of the VM is in its process, `None` if no memslot has it.
    pub(crate) fn user_pointer(&self, gpa: Gpa) -> Option<UserPtr> {
        let _srcu = self.srcu();
        // SAFETY: The vCPU is alive, and `_srcu` says that `kvm->srcu` is held.
        UserPtr::new(unsafe { bindings::mmio_ext_user_pointer(self.raw(), gpa.0) })
    }
}
