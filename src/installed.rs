// SPDX-License-Identifier: GPL-2.0

//! The masks of MMIO SPTEs that are installed, and the format that comes of them.

use crate::{
    kvm::{
        mmio_caching, shadow_mmio_access_mask, shadow_mmio_mask, shadow_mmio_value,
        shadow_nonpresent_or_rsvd_lower_gfn_mask, shadow_nonpresent_or_rsvd_mask,
    },
    pure::{
        mask::MmioMask,
        spte::MmioFormat, //
    }, //
};

/// The masks that are installed.
pub(crate) fn installed_mask() -> MmioMask {
    MmioMask {
        value: shadow_mmio_value(),
        mask: shadow_mmio_mask(),
        access: shadow_mmio_access_mask(),
    }
}

/// The format of MMIO SPTEs with the host's masks, for a VM whose value is `value`.
#[inline]
pub(crate) fn mmio_format(value: u64) -> MmioFormat {
    MmioFormat {
        mask: MmioMask {
            value,
            ..installed_mask()
        },
        caching: mmio_caching(),
        l1tf: shadow_nonpresent_or_rsvd_mask(),
        lower_gfn: shadow_nonpresent_or_rsvd_lower_gfn_mask(),
    }
}
