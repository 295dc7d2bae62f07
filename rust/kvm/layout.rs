// SPDX-License-Identifier: GPL-2.0

//! Where KVM keeps what, as far as it depends on the version of the kernel.
//!
//! Since 7.3, what reads a guest's page tables is a part of each MMU.

use kvm_bindings as bindings;

#[cfg(kvm_7_2)]
pub(super) use bindings::{
    kvm_mmu as Walk,
    kvm_mmu as WalkFormat,
    rsvd_bits_validate as PageFormat, //
};
#[cfg(not(kvm_7_2))]
pub(super) use bindings::{
    kvm_page_format as PageFormat,
    kvm_page_format as WalkFormat,
    kvm_pagewalk as Walk, //
};

/// What reads the page tables that the guest has now.
///
/// # Safety
///
/// The vCPU is alive, and this is its thread.
#[inline(always)]
pub(super) unsafe fn gva_walk(arch: *const bindings::kvm_vcpu_arch) -> *const Walk {
    // SAFETY: The vCPU is alive, and this is its thread.
    unsafe {
        #[cfg(not(kvm_7_2))]
        return &raw const (*arch).gva_walk;
        #[cfg(kvm_7_2)]
        return (*arch).walk_mmu;
    }
}

/// What these page tables permit, and whether they have protection keys.
///
/// # Safety
///
/// The vCPU is alive, and this is its thread.
#[inline(always)]
pub(super) unsafe fn walk_format(arch: *const bindings::kvm_vcpu_arch) -> *const WalkFormat {
    // SAFETY: The vCPU is alive, and this is its thread.
    unsafe {
        #[cfg(not(kvm_7_2))]
        return &raw const (*gva_walk(arch)).fmt;
        #[cfg(kvm_7_2)]
        return gva_walk(arch);
    }
}

/// Which bits are reserved in the page tables that KVM makes.
///
/// # Safety
///
/// The MMU is alive.
#[inline(always)]
pub(super) unsafe fn page_format(mmu: *const bindings::kvm_mmu) -> *const PageFormat {
    // SAFETY: The MMU is alive; nothing is read.
    unsafe {
        #[cfg(not(kvm_7_2))]
        return &raw const (*mmu).fmt;
        #[cfg(kvm_7_2)]
        return &raw const (*mmu).shadow_zero_check;
    }
}
