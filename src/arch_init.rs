// SPDX-License-Identifier: GPL-2.0

//! The MMIO SPTE masks at arch init, when a vendor module is loaded.

use crate::{
    installed::installed_mask,
    kvm::{
        cpu_phys_bits, host_maxphyaddr, mmio_caching, set_mmio_spte_mask, PageTables, VendorInit,
    },
    pure::mask::MmioMask, //
};
use kernel::prelude::*;

impl PageTables {
    /// A name for the log.
    const fn name(self) -> &'static str {
        match self {
            Self::Paging => "x86 page tables (NPT or shadow paging)",
            Self::Ept => "EPT",
            Self::Sme(_) => "x86 page tables with memory encryption",
        }
    }

    /// The masks that this host needs.
    fn mask(self) -> MmioMask {
        match self {
            Self::Paging => MmioMask::paging(host_maxphyaddr()),
            Self::Ept => MmioMask::ept(),
            Self::Sme(c_bit) => MmioMask::sme(cpu_phys_bits(), c_bit),
        }
    }
}

/// Computes and installs the masks: `kvm_set_mmio_spte_mask()`, `ept_set_mmio_spte_mask()`, and
/// the adjustment that memory encryption needs.
pub(crate) fn kvm_mmu_set_mmio_spte_mask(init: &VendorInit, tables: PageTables) {
    let mask = tables.mask();
    set_mmio_spte_mask(init, mask.value, mask.mask, mask.access);

    pr_info!(
        "installed MMIO SPTE {} for {}{}\n",
        format_args!("{}", installed_mask()),
        tables.name(),
        if mmio_caching() {
            ""
        } else {
            "; MMIO caching is off"
        },
    );
}

/// Checks that the masks that are installed are those that the extension would have installed.
///
/// # Errors
///
/// `EINVAL` if they differ; the extension then cannot read KVM's MMIO SPTEs.
pub(crate) fn check_mmio_spte_mask(_: &VendorInit, tables: PageTables) -> Result {
    let installed = installed_mask();
    let wanted = if mmio_caching() {
        tables.mask()
    } else {
        tables.mask().without_caching()
    };

    if installed == wanted {
        return Ok(());
    }

    pr_err!(
        "MMIO SPTE masks differ: KVM has {}, needed for {} is {}; load kvm anew, and this module \
         before the vendor module\n",
        format_args!("{installed}"),
        tables.name(),
        format_args!("{wanted}"),
    );
    Err(EINVAL)
}
