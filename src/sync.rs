// SPDX-License-Identifier: GPL-2.0

//! Making MMIO SPTEs, and what becomes of them when their shadow page is synchronized.

use crate::{
    addr::Gfn,
    pure::spte::{get_mmio_spte_generation, Spte, NONPRESENT},
    report::stats::Event,
    state::Vcpu, //
};

/// The MMIO SPTE for a frame that no memslot holds, `make_mmio_spte()`. It is KVM that stores it:
/// `mark_mmio_spte()` with shadow paging and in the legacy MMU, or the TDP MMU.
#[inline]
pub(crate) fn set_mmio_spte(vcpu: &Vcpu<'_>, gfn: Gfn, access: u32) -> Spte {
    vcpu.stats().count(Event::SpteMade);
    current_mmio_spte(vcpu, gfn, access)
}

/// What the MMIO SPTE `spte` is to become now that the guest's page table maps `gfn` with the
/// rights `access`: an MMIO SPTE with these, or none; the next access then faults the page in.
///
/// There is none if it stood for another frame, or if memslots have changed since it was made:
/// there may be one now that holds the frame. KVM does not look, and gives the entry the current
/// generation; its guest then has MMIO where there is RAM, until memslots change again.
#[inline]
pub(crate) fn sync_mmio_spte(vcpu: &Vcpu<'_>, spte: Spte, gfn: Gfn, access: u32) -> Spte {
    let now = vcpu.memslots_generation();
    let is_current = now.is_still(get_mmio_spte_generation(spte));

    if !is_current || vcpu.mmio_format().get_mmio_spte_gfn(spte) != gfn {
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
