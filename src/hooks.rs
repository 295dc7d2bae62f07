// SPDX-License-Identifier: GPL-2.0

//! The extension: what KVM calls, and what of this module answers.
//!
//! All of it is inlined: there is one caller of each, a callback of `rust/kvm/callbacks.rs`.

use crate::{
    access::FaultAddress,
    addr::{Gfn, Gpa, Gva},
    arch_init,
    exit,
    fast,
    fault,
    generation::MemslotGeneration,
    kvm::{
        is_enabled, AssistBytes, CompleteLoad, Emulated, Exit, MmioExt, Mode, PageFault,
        PageTables, VendorInit,
    },
    mmio_info::MmioInfo,
    observe::{self, record},
    pure::{
        access_kind::Kind,
        info_cache::Clear,
        spte::Spte, //
    },
    report::stats::{self, Event},
    ring,
    state::{State, Vcpu},
    sync, //
};
use core::num::NonZero;
use kernel::prelude::*;

/// The extension of this module.
pub(crate) struct Ext;

impl MmioExt for Ext {
    type VcpuState = State;

    #[inline(always)]
    fn set_spte_mask(init: &VendorInit, tables: PageTables) {
        arch_init::kvm_mmu_set_mmio_spte_mask(init, tables);
    }

    #[inline(always)]
    fn check_spte_mask(init: &VendorInit, tables: PageTables) -> Result {
        arch_init::check_mmio_spte_mask(init, tables)
    }

    #[inline(always)]
    fn ept_misconfig(vcpu: &mut Vcpu<'_>, gpa: Gpa, mode: Mode) -> Exit {
        exit::handle_ept_misconfig(vcpu, gpa, mode)
    }

    #[inline(always)]
    fn npf(
        vcpu: &mut Vcpu<'_>,
        gpa: Gpa,
        error_code: u64,
        insn: AssistBytes<'_>,
        mode: Mode,
    ) -> Exit {
        exit::npf_interception(vcpu, gpa, error_code, insn, mode)
    }

    #[inline(always)]
    fn shadow_fault(
        vcpu: &mut Vcpu<'_>,
        gva: Gva,
        error_code: u64,
        insn: AssistBytes<'_>,
        mode: Mode,
    ) -> Exit {
        exit::shadow_page_fault(vcpu, gva, error_code, insn, mode)
    }

    #[inline(always)]
    fn write_fault(
        vcpu: &mut Vcpu<'_>,
        gpa: Gpa,
        error_code: u64,
        insn: AssistBytes<'_>,
        mode: Mode,
    ) -> Exit {
        exit::write_fault(vcpu, gpa, error_code, insn, mode)
    }

    #[inline(always)]
    fn may_ring(state: &State, gpa: Gpa) -> bool {
        state.may_ring(gpa)
    }

    #[inline(always)]
    fn ring(
        vcpu: &mut Vcpu<'_>,
        gpa: Gpa,
        error_code: u64,
        insn: AssistBytes<'_>,
        mode: Mode,
    ) -> Option<NonZero<u64>> {
        ring::ring(vcpu, gpa, error_code, insn, mode)
    }

    #[inline(always)]
    fn page_fault(vcpu: &mut Vcpu<'_>, addr: u64, direct: bool) -> Result<PageFault> {
        fault::handle_mmio_page_fault(vcpu, FaultAddress::new(addr, direct))
    }

    #[inline(always)]
    fn cache_info(vcpu: &mut Vcpu<'_>, info: MmioInfo) {
        fault::remember_mmio_info(vcpu, info);
    }

    #[inline(always)]
    fn clear_info(state: &mut State, gva: Option<Gva>) {
        state.clear_info(gva.map_or(Clear::All, Clear::Page));
    }

    #[inline(always)]
    fn make_spte(vcpu: &Vcpu<'_>, gfn: Gfn, access: u32) -> u64 {
        sync::set_mmio_spte(vcpu, gfn, access).0
    }

    #[inline(always)]
    fn sync_spte(vcpu: &Vcpu<'_>, spte: u64, gfn: Gfn, access: u32) -> u64 {
        sync::sync_mmio_spte(vcpu, Spte(spte), gfn, access).0
    }

    #[inline(always)]
    fn zap_spte(_spte: u64) {
        stats::count_zap();
    }

    #[inline(always)]
    fn generation_wrapped(generation: MemslotGeneration, spaces: u32) -> bool {
        generation.mmio().wrapped(spaces)
    }

    #[inline(always)]
    fn see_access(vcpu: &mut Vcpu<'_>, gpa: Gpa, access: Emulated) {
        match access.len {
            0 => {
                if is_enabled() {
                    vcpu.stats().count(Event::Wildcard);
                }
                observe::wildcard(vcpu, gpa);
            }
            _ => observe::emulated(vcpu, gpa, kind(access), access.len),
        }
    }

    #[inline(always)]
    fn record_quickly(vcpu: &mut Vcpu<'_>, gfn: Gfn, access: Emulated) -> bool {
        record::record_emulated_quickly(vcpu, gfn, kind(access), access.len)
    }
}

impl CompleteLoad for State {
    #[inline(always)]
    fn complete_load(vcpu: &mut Vcpu<'_>) -> Option<Exit> {
        let (load, value) = vcpu.take_pending_load()?;
        Some(fast::finish_load(vcpu, load, value))
    }
}

#[inline(always)]
const fn kind(access: Emulated) -> Kind {
    Kind::emulated(access.is_write(), access.is_userspace())
}
