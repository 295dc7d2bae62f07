// SPDX-License-Identifier: GPL-2.0
//! In the place of `rust/kvm/host.rs`: a host whose masks are installed.

use crate::linux::mmu::{FORMAT, PHYS_BITS};

pub(crate) const fn host_maxphyaddr() -> u32 {
    PHYS_BITS
}

pub(crate) const fn cpu_phys_bits() -> u32 {
    PHYS_BITS
}

pub(crate) const fn mmio_caching() -> bool {
    FORMAT.caching
}

pub(crate) const fn shadow_mmio_value() -> u64 {
    FORMAT.mask.value
}

pub(crate) const fn shadow_mmio_mask() -> u64 {
    FORMAT.mask.mask
}

pub(crate) const fn shadow_mmio_access_mask() -> u64 {
    FORMAT.mask.access
}

pub(crate) const fn shadow_nonpresent_or_rsvd_mask() -> u64 {
    FORMAT.l1tf
}

pub(crate) const fn shadow_nonpresent_or_rsvd_lower_gfn_mask() -> u64 {
    FORMAT.lower_gfn
}

#[derive(Clone, Copy)]
pub(crate) enum PageTables {
    Paging,
    Ept,
    Sme(u32),
}

/// No vendor module is ever loaded here.
pub(crate) enum VendorInit {}

pub(crate) fn set_mmio_spte_mask(init: &VendorInit, _: u64, _: u64, _: u64) {
    match *init {}
}
