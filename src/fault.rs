// SPDX-License-Identifier: GPL-2.0

//! Page faults on MMIO SPTEs.

use crate::{
    access::FaultAddress,
    addr::Gva,
    generation::MemslotGeneration,
    kvm::{PageFault, ShadowWalk},
    mmio_info::MmioInfo,
    observe,
    pure::spte::{get_mmio_spte_generation, MmioFormat, Spte},
    report::stats::Event,
    state::Vcpu, //
};
use kernel::prelude::*;

/// Handles a page fault with a reserved bit that `kvm_mmu_page_fault()` asks about: one of L2, or
/// one that was found stale and is being faulted in, which has been counted.
#[inline]
pub(crate) fn handle_mmio_page_fault(vcpu: &mut Vcpu<'_>, addr: FaultAddress) -> Result<PageFault> {
    if vcpu.take_faulting_in() {
        return Ok(PageFault::Invalid);
    }
    // The shortest way: with `fast=0` every access comes here.
    if emulator_knows_page(vcpu, addr, vcpu.memslots_generation()) {
        observe::hit_left_to_kvm(vcpu);
        return Ok(PageFault::Emulate);
    }

    let result = handle_mmio_page_fault_common(vcpu, addr);
    if matches!(result, Ok(PageFault::Emulate)) {
        vcpu.stats().count_left_to_kvm();
        observe::to_emulator(vcpu);
    }
    result
}

/// Finds out what a page fault with a reserved bit means:
///
/// - [`PageFault::Emulate`]: it is MMIO, the instruction is to be emulated;
/// - [`PageFault::Invalid`]: it was MMIO, but memslots have changed since; the page is to be
///   faulted in as if nothing were known of it;
/// - [`PageFault::Retry`]: the entry was zapped by another CPU, the guest may simply fault again;
/// - an error: a reserved bit is set in an entry that maps memory, which is a bug of KVM.
pub(crate) fn handle_mmio_page_fault_common(
    vcpu: &mut Vcpu<'_>,
    addr: FaultAddress,
) -> Result<PageFault> {
    if quickly_check_mmio_pf(vcpu, addr) {
        vcpu.stats().count(Event::CacheHit);
        return Ok(PageFault::Emulate);
    }
    check_shadow_page_tables(vcpu, addr)
}

/// Finds out from the shadow page tables what the info caches do not know.
fn check_shadow_page_tables(vcpu: &mut Vcpu<'_>, addr: FaultAddress) -> Result<PageFault> {
    let format = vcpu.mmio_format();
    let leaf = walk_shadow_page_get_mmio_spte(vcpu, addr)?;

    let Some(spte) = leaf.filter(|&spte| format.is_mmio_spte(spte)) else {
        vcpu.stats().count(Event::Retry);
        observe::miss(vcpu, addr, false);
        return Ok(PageFault::Retry);
    };

    if !check_mmio_spte(vcpu, spte) {
        vcpu.stats().count(Event::SpteStale);
        observe::miss(vcpu, addr, true);
        return Ok(PageFault::Invalid);
    }

    vcpu.stats().count(Event::SpteHit);
    cache_mmio_spte(vcpu, &format, addr.gva(), spte);
    Ok(PageFault::Emulate)
}

/// What the extension's info cache knows of a page of L1, as of the memslots' generation `now`.
#[inline(always)]
pub(crate) fn known_page<'a>(
    vcpu: &'a Vcpu<'_>,
    addr: FaultAddress,
    now: MemslotGeneration,
) -> Option<&'a MmioInfo> {
    match addr {
        FaultAddress::Physical(gpa) => vcpu.info_cache().find_gpa(gpa, now),
        FaultAddress::Virtual(gva) => vcpu.info_cache().find_gva(gva, now),
    }
}

/// Whether KVM's info cache knows a page, where the emulator looks. It does if the last access that
/// was emulated was to the same.
#[inline(always)]
pub(crate) fn emulator_knows_page(
    vcpu: &Vcpu<'_>,
    addr: FaultAddress,
    now: MemslotGeneration,
) -> bool {
    !vcpu.mmu_is_nested() && addr.matches(&vcpu.last_mmio_info(), now)
}

/// Whether an info cache knows a page: the extension's, or KVM's, which alone was filled while
/// the extension was switched off. Afterwards both know it, as the emulator looks into KVM's.
pub(crate) fn quickly_check_mmio_pf(vcpu: &mut Vcpu<'_>, addr: FaultAddress) -> bool {
    // The address is one of L2's, the caches hold those of L1.
    if vcpu.mmu_is_nested() {
        return false;
    }

    let now = vcpu.memslots_generation();
    match known_page(vcpu, addr, now) {
        Some(&info) => {
            // A physical address brings no virtual one along, which may have been forgotten.
            let gva = addr.gva().page();
            vcpu.set_last_mmio_info(MmioInfo { gva, ..info });
            true
        }
        None => recall_mmio_info(vcpu, addr, now),
    }
}

/// Looks into KVM's info cache.
fn recall_mmio_info(vcpu: &mut Vcpu<'_>, addr: FaultAddress, now: MemslotGeneration) -> bool {
    let info = vcpu.last_mmio_info();
    let found = addr.matches(&info, now);
    if found {
        vcpu.info_cache_mut().insert(info);
    }
    found
}

/// Walks the shadow page tables without a lock down to the entry of `addr`, whether that is an
/// MMIO SPTE or not. `None` if there are no page tables: as good as zapped. (C takes 0 for the entry
/// then, which is an MMIO SPTE of TDX.)
///
/// # Errors
///
/// `EINVAL` if an entry that maps something has a reserved bit set.
fn walk_shadow_page_get_mmio_spte(vcpu: &mut Vcpu<'_>, addr: FaultAddress) -> Result<Option<Spte>> {
    let walk = vcpu.walk_shadow_page_lockless(addr.raw());
    check_spte_reserved(vcpu, addr, &walk)?;
    Ok(walk.entries().last().map(|(_, spte)| Spte(spte)))
}

/// Checks that the entries of a walk that map something have no reserved bit set, as the fault
/// could then not be told from MMIO. (An MMIO SPTE has one on purpose and maps nothing.)
///
/// The seed asked the same of the last entry in `check_direct_spte_mmio_pf()`; that an entry is
/// neither MMIO nor zapped is no bug any more, it may have been replaced since the fault.
fn check_spte_reserved(vcpu: &Vcpu<'_>, addr: FaultAddress, walk: &ShadowWalk) -> Result {
    let format = vcpu.page_format();
    let reserved = |(level, spte): (usize, u64)| {
        let spte = Spte(spte);
        spte.is_shadow_present() && format.is_reserved(spte, level)
    };

    if !walk.entries().any(reserved) {
        return Ok(());
    }

    pr_err!(
        "reserved bits set on MMU-present spte, addr 0x{:x}:\n",
        addr.raw()
    );
    for (level, spte) in walk.entries() {
        pr_err!("------ spte = 0x{:x} level = {}\n", spte, level);
    }
    vcpu.warn_reserved();
    Err(EINVAL)
}

/// Whether an MMIO SPTE is of the current generation.
fn check_mmio_spte(vcpu: &Vcpu<'_>, spte: Spte) -> bool {
    let now = vcpu.memslots_generation();
    let made = get_mmio_spte_generation(spte);

    if !now.update_in_progress() {
        vcpu.trace_check_mmio_spte(spte, now.mmio(), made);
    }
    now.is_still(made)
}

/// Remembers what an MMIO SPTE says.
fn cache_mmio_spte(vcpu: &mut Vcpu<'_>, format: &MmioFormat, gva: Gva, spte: Spte) {
    let gfn = format.get_mmio_spte_gfn(spte);
    let access = format.get_mmio_spte_access(spte);

    vcpu.trace_handle_mmio_page_fault(gva, gfn, access);
    vcpu_cache_mmio_info(
        vcpu,
        MmioInfo {
            gva,
            gfn,
            access,
            generation: vcpu.memslots_generation(),
        },
    );
}

/// Puts a page into both info caches, KVM's and the extension's.
fn vcpu_cache_mmio_info(vcpu: &mut Vcpu<'_>, info: MmioInfo) {
    if info.generation.update_in_progress() {
        return;
    }

    let info = mmio_info_of(vcpu, info);
    vcpu.set_last_mmio_info(info);
    remember_mmio_info(vcpu, info);
}

/// Puts a page that KVM has put into its own cache into the extension's as well.
#[inline]
pub(crate) fn remember_mmio_info(vcpu: &mut Vcpu<'_>, info: MmioInfo) {
    let info = mmio_info_of(vcpu, info);
    vcpu.info_cache_mut().insert(info);
    vcpu.stats().count(Event::CacheFilled);
}

/// With shadowed nested page tables the "GVA" is a GPA of L2, which must not be taken for a GVA.
fn mmio_info_of(vcpu: &Vcpu<'_>, info: MmioInfo) -> MmioInfo {
    let gva = if vcpu.mmu_is_nested() {
        Gva(0)
    } else {
        info.gva.page()
    };
    MmioInfo { gva, ..info }
}
