// SPDX-License-Identifier: GPL-2.0

//! What holds for the host as a whole: address widths, the installed masks, parameters of KVM.
//!
//! The variables are written when a vendor module is loaded, with `vendor_module_lock` held, and
//! constant while a VM exists.

use core::ptr;
use kvm_bindings as bindings;

/// Reads a variable of KVM.
macro_rules! read_kvm {
    ($var:ident) => {
        // SAFETY: The variable lives as long as kvm.ko, which this module depends on. It may be
        // written at the same time only while a vendor module is loaded, when nothing but the
        // check of the masks looks at it, with the lock held that the writer holds.
        unsafe { ptr::read_volatile(&raw const bindings::$var) }
    };
}

/// The width of a physical address in bits as CPUID gives it, `kvm_host.maxphyaddr`.
pub(crate) fn host_maxphyaddr() -> u32 {
    // SAFETY: As in `read_kvm!`; the field is written once, when kvm.ko is loaded.
    unsafe { ptr::read_volatile(&raw const bindings::kvm_host.maxphyaddr) }.into()
}

/// The width of a physical address in bits without what memory encryption takes.
pub(crate) fn cpu_phys_bits() -> u32 {
    // SAFETY: The function has no preconditions.
    unsafe { bindings::mmio_ext_phys_bits() }.into()
}

/// Whether MMIO SPTEs are made, `enable_mmio_caching`.
pub(crate) fn mmio_caching() -> bool {
    read_kvm!(enable_mmio_caching)
}

/// Whether guests run on EPT or NPT rather than with shadow paging.
#[inline(always)]
pub(crate) fn tdp_enabled() -> bool {
    read_kvm!(tdp_enabled)
}

/// Whether the TDP MMU is in use, if TDP is.
pub(crate) fn tdp_mmu_enabled() -> bool {
    read_kvm!(tdp_mmu_enabled)
}

/// The bits that tell an MMIO SPTE, unless a VM has others.
pub(crate) fn shadow_mmio_value() -> u64 {
    read_kvm!(shadow_mmio_value)
}

/// The bits that are compared with these.
pub(crate) fn shadow_mmio_mask() -> u64 {
    read_kvm!(shadow_mmio_mask)
}

/// Which rights an MMIO SPTE holds.
pub(crate) fn shadow_mmio_access_mask() -> u64 {
    read_kvm!(shadow_mmio_access_mask)
}

/// The bits of a frame number that are moved up, against L1TF.
pub(crate) fn shadow_nonpresent_or_rsvd_mask() -> u64 {
    read_kvm!(shadow_nonpresent_or_rsvd_mask)
}

/// The bits of a frame number that stay.
pub(crate) fn shadow_nonpresent_or_rsvd_lower_gfn_mask() -> u64 {
    read_kvm!(shadow_nonpresent_or_rsvd_lower_gfn_mask)
}

/// Which page tables the masks are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageTables {
    /// Those of shadow paging and NPT.
    Paging,
    /// EPT.
    Ept,
    /// As `Paging`, with memory encryption; the number of the C-bit.
    Sme(u32),
}

/// Proof that a vendor module is being loaded, with `vendor_module_lock` held.
pub(crate) struct VendorInit(());

impl VendorInit {
    /// # Safety
    ///
    /// `vendor_module_lock` must be held by the caller as long as the value exists.
    pub(super) unsafe fn assume() -> Self {
        Self(())
    }
}

/// Installs the masks: `kvm_mmu_set_mmio_spte_mask()`, which checks them and honours
/// `mmio_caching`.
pub(crate) fn set_mmio_spte_mask(_: &VendorInit, value: u64, mask: u64, access: u64) {
    // SAFETY: `vendor_module_lock` is held, and no VM exists while a vendor module is loaded.
    unsafe { bindings::kvm_mmu_set_mmio_spte_mask(value, mask, access) };
}
