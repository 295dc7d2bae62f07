// SPDX-License-Identifier: GPL-2.0

//! The memslots of a VM, and where its memory is in the VM's process.
//!
//! C header: [`include/linux/kvm_host.h`](srctree/include/linux/kvm_host.h), `struct kvm_memslots`.

use super::{
    addr::{Gpa, PAGE_MASK},
    generation::MemslotGeneration,
    guest_memory::UserPtr,
    srcu::Srcu,
    vcpu::Vcpu, //
};
use core::ptr::{self, NonNull};
use kvm_bindings as bindings;

impl<'a, S> Vcpu<'a, S> {
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

    /// The memslot that has an address.
    #[inline(always)]
    fn memslot(&self, gpa: Gpa) -> Option<Memslot<'a>> {
        let srcu = self.srcu();
        // SAFETY: The vCPU is alive, and `srcu` says that `kvm->srcu` is held.
        let slot = unsafe { bindings::kvm_vcpu_gfn_to_memslot(self.raw(), gpa.gfn().0) };
        // INVARIANT: It was found with `kvm->srcu` held.
        NonNull::new(slot).map(|slot| Memslot { slot, _srcu: srcu })
    }

    /// Whether an address is memory that the guest may only read, i.e. is MMIO for writes.
    pub(crate) fn is_read_only(&self, gpa: Gpa) -> bool {
        self.memslot(gpa).is_some_and(|slot| {
            slot.flags() & (bindings::MMIO_EXT_SLOT_READ_ONLY | bindings::MMIO_EXT_SLOT_INVALID)
                == bindings::MMIO_EXT_SLOT_READ_ONLY
        })
    }

    /// Where an address of the VM is in its process, `None` if no memslot has it, or not in the
    /// process. It holds as long as the memslots are what they are.
    pub(crate) fn user_pointer(&self, gpa: Gpa) -> Option<UserPtr> {
        const ELSEWHERE: u32 =
            bindings::MMIO_EXT_SLOT_INVALID | bindings::MMIO_EXT_SLOT_GUEST_MEMFD;
        let slot = self.memslot(gpa)?;
        if slot.flags() & ELSEWHERE != 0 {
            return None;
        }
        // SAFETY: By the type's invariants the memslot is alive; it has the page.
        let page = unsafe { bindings::mmio_ext_gfn_to_hva(slot.slot.as_ptr(), gpa.gfn().0) };
        UserPtr::new((page as u64 | gpa.0 & !PAGE_MASK) as *const u64)
    }
}

/// A memslot.
///
/// # Invariants
///
/// `slot` points to a memslot of a set that is alive as long as `_srcu` says that `kvm->srcu` is held.
struct Memslot<'a> {
    slot: NonNull<bindings::kvm_memory_slot>,
    _srcu: Srcu<'a>,
}

impl Memslot<'_> {
    /// `KVM_MEM_*` and `KVM_MEMSLOT_INVALID`.
    #[inline(always)]
    fn flags(&self) -> u32 {
        // SAFETY: By the type's invariants the memslot is alive. KVM gives a memslot that others may
        // have found no other flags: it puts another in its place.
        unsafe { (*self.slot.as_ptr()).flags }
    }
}
