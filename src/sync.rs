// SPDX-License-Identifier: GPL-2.0

//! Making MMIO SPTEs, and what becomes of them when their shadow page is synchronized.

use crate::{
    addr::Gfn,
    kvm::Vcpu,
    spte::{Spte, NONPRESENT},
    stats::Event, //
};

/// The MMIO SPTE for a frame that no memslot holds, `make_mmio_spte()`. It is KVM that stores it:
/// `mark_mmio_spte()` with shadow paging and in the legacy MMU, or the TDP MMU.
pub(crate) fn set_mmio_spte(vcpu: &Vcpu<'_>, gfn: Gfn, access: u32) -> Spte {
    vcpu.stats().count(Event::SpteMade);
    current_mmio_spte(vcpu, gfn, access)
}

/// What the MMIO SPTE `spte` is to become now that the guest's page table maps `gfn` with the
/// rights `access`: an MMIO SPTE of the current generation, or, if it stood for another frame,
/// none; the next access then faults the page in.
pub(crate) fn sync_mmio_spte(vcpu: &Vcpu<'_>, spte: Spte, gfn: Gfn, access: u32) -> Spte {
    if vcpu.mmio_format().get_mmio_spte_gfn(spte) != gfn {
        vcpu.stats().count(Event::SpteSyncDropped);
        return NONPRESENT;
    }

    vcpu.stats().count(Event::SpteSynced);
    current_mmio_spte(vcpu, gfn, access)
}

fn current_mmio_spte(vcpu: &Vcpu<'_>, gfn: Gfn, access: u32) -> Spte {
    let generation = vcpu.memslots_generation().mmio();
    vcpu.mmio_format().mark_mmio_spte(gfn, generation, access)
}
