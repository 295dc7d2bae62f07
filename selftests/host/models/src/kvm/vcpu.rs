// SPDX-License-Identifier: GPL-2.0
//! In the place of `rust/kvm/vcpu.rs`: a vCPU of 64-bit code without wildcards or nested guests.

use super::guest_memory::UserPtr;
use crate::{
    access::MmioFault,
    addr::{Gfn, Gpa, Gva},
    fast::finish_load,
    generation::{MemslotGeneration, MmioGeneration},
    insns::FetchCache,
    iodev::{Answer, Write},
    linux::{
        memory::ROOT,
        memslots::Page,
        mmio_ext::{PendingLoad, State},
        mmu::FORMAT,
        vcpu::{Completion, KvmVcpu},
    },
    mmio_info::MmioInfo,
    prelude::*,
    pure::{
        doorbell,
        info_cache::InfoCache,
        rsvd::{PageFormat, MAX_LEVEL},
        spte::{MmioFormat, Spte}, //
    },
    report::stats::{Stats, Taker},
};
use std::marker::PhantomData;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit(i32);

impl Exit {
    pub(crate) const PASS: Self = Self(0);
    pub(crate) const RESUME: Self = Self(1);
    pub(crate) const USERSPACE: Self = Self(2);

    pub(crate) fn error(error: Error) -> Self {
        panic!("{error:?}")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageFault {
    Retry,
    Emulate,
    Invalid,
}

/// No processor reports bytes here.
#[derive(Clone, Copy)]
pub(crate) struct AssistBytes<'a>(PhantomData<&'a u8>);

impl AssistBytes<'_> {
    pub(crate) const MAX: usize = 15;
    pub(crate) const NONE: Self = Self(PhantomData);

    pub(crate) fn len(&self) -> usize {
        0
    }

    pub(crate) fn words(&self, _: u64) -> Option<[u64; 2]> {
        None
    }
}

/// The kernel of the guest runs 64-bit code.
#[derive(Clone, Copy)]
pub(crate) struct Mode;

impl Mode {
    pub(crate) const fn can_skip(self) -> bool {
        false
    }

    pub(crate) const fn is_user(self) -> bool {
        false
    }

    pub(crate) const fn is_flat(self) -> bool {
        false
    }
}

/// All may be written.
pub(crate) const ACC_WRITE: u32 = 0;

#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    Fetch,
    Write,
}

/// A walk of page tables that have one level.
pub(crate) struct ShadowWalk(Spte);

impl ShadowWalk {
    pub(crate) fn entries(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        [(1, self.0 .0)].into_iter()
    }
}

/// Nothing is reserved but in MMIO SPTEs.
const RESERVED: [[u64; MAX_LEVEL]; 2] = [[0; MAX_LEVEL]; 2];

/// A vCPU in its own thread with `kvm->srcu` held, and with state.
pub(crate) struct Vcpu<'a>(&'a mut KvmVcpu);

impl<'a> Vcpu<'a> {
    pub(crate) const PFERR_RSVD: u64 = 1 << 3;
    pub(crate) const PFERR_WRITE: u64 = 1 << 1;

    pub(crate) const fn takes_error_code(_: u64) -> bool {
        true
    }

    /// Makes the state if there is none.
    pub(crate) fn enter(vcpu: &'a mut KvmVcpu) -> Self {
        if vcpu.mmio_ext.is_none() {
            vcpu.mmio_ext = Some(Box::new(State::new()));
        }
        Self(vcpu)
    }

    fn state(&self) -> &State {
        self.0.mmio_ext.as_deref().expect("has state")
    }

    fn state_mut(&mut self) -> &mut State {
        self.0.mmio_ext.as_deref_mut().expect("has state")
    }

    pub(crate) fn stats(&self) -> &Stats {
        &self.state().stats
    }

    pub(crate) fn info_cache(&self) -> &InfoCache {
        &self.state().info_cache
    }

    pub(crate) fn info_cache_mut(&mut self) -> &mut InfoCache {
        &mut self.state_mut().info_cache
    }

    pub(crate) fn take_faulting_in(&mut self) -> bool {
        core::mem::take(&mut self.state_mut().faulting_in)
    }

    pub(crate) fn last_mmio_info(&self) -> MmioInfo {
        self.0.mmio_info.get()
    }

    pub(crate) fn set_last_mmio_info(&self, info: MmioInfo) {
        self.0.mmio_info.set(info);
    }

    pub(crate) fn memslots_generation(&self) -> MemslotGeneration {
        self.0.kvm.memslots.generation()
    }

    pub(crate) fn is_read_only(&self, gpa: Gpa) -> bool {
        self.0.kvm.page(gpa.gfn()) == Page::ReadOnly
    }

    pub(crate) fn mmu_is_nested(&self) -> bool {
        self.0.nested
    }

    pub(crate) fn paging_is_off(&self) -> bool {
        false
    }

    pub(crate) fn mmio_format(&self) -> MmioFormat {
        FORMAT
    }

    pub(crate) fn page_format(&self) -> PageFormat<'_> {
        PageFormat {
            reserved: &RESERVED,
            bad_mt_xwr: 0,
        }
    }

    pub(crate) fn walk_shadow_page_lockless(&mut self, _: u64) -> ShadowWalk {
        ShadowWalk(self.0.kvm.mmu.spte())
    }

    pub(crate) fn has_wildcards(&self) -> bool {
        false
    }

    pub(crate) fn signal_wildcard(&mut self, _: Gpa) -> bool {
        false
    }

    pub(crate) fn skip_emulated_instruction(&mut self) -> Exit {
        Exit::RESUME
    }

    pub(crate) fn has_wildcard(&self, _: Gpa) -> bool {
        false
    }

    pub(crate) fn can_emulate(&mut self, _: &MmioFault<'_>) -> bool {
        true
    }

    pub(crate) fn emulate_instruction(&mut self, _: &MmioFault<'_>) -> Exit {
        self.0.emulate()
    }

    pub(crate) fn fetch_cache(&self) -> &FetchCache {
        &self.state().fetch_cache
    }

    pub(crate) fn fetch_cache_mut(&mut self) -> &mut FetchCache {
        &mut self.state_mut().fetch_cache
    }

    pub(crate) fn runs_plain_code(&self, _: Mode) -> bool {
        true
    }

    pub(crate) fn rip(&self) -> u64 {
        self.0.rip.0
    }

    pub(crate) fn runs_plain_flat_code(&self, _: Mode) -> bool {
        false
    }

    pub(crate) fn flat_root(&self, _: Gva) -> u64 {
        0
    }

    pub(crate) fn cr3(&self) -> u64 {
        ROOT.gpa().0
    }

    pub(crate) fn has_5_levels(&self) -> bool {
        false
    }

    pub(crate) fn cpu_role(&self) -> u64 {
        0
    }

    pub(crate) fn user_pointer(&self, gpa: Gpa) -> Option<UserPtr> {
        UserPtr::new(self.0.kvm.user_pointer(gpa)?)
    }

    pub(crate) fn translate(&self, gva: Gva, _: Purpose, _: bool) -> Option<Gpa> {
        Some(self.0.kvm.translate_fetch(gva))
    }

    pub(crate) fn read_rsp(&self) {}

    pub(crate) fn register(&self, number: u8) -> u64 {
        self.0.regs[usize::from(number)]
    }

    pub(crate) fn set_register(&mut self, number: u8, value: u64) {
        self.0.regs[usize::from(number)] = value;
    }

    pub(crate) fn may_access_mmio(&self, _: u32, _: Mode, _: bool) -> bool {
        true
    }

    pub(crate) fn write_mmio(&mut self, write: Write, next_rip: u64, known: bool) -> Exit {
        let bus = self.0.kvm.bus_now();
        let slots = self.memslots_generation();
        let bells = &mut self.state_mut().bells;
        let taker = match bells.ring(&bus, &write, slots, |_| ()) {
            true => Taker::Ioeventfd,
            false => match doorbell::write(&bus, &write) {
                Some(Answer::Rung { bell, again }) => {
                    bells.remember(&bus, &write, slots, (bell, again));
                    Taker::Ioeventfd
                }
                Some(_) => Taker::Kernel,
                None => Taker::Userspace,
            },
        };
        match taker {
            Taker::Userspace => self.0.exit_for_write(write.gpa, write.size),
            _ => self.0.rang(),
        }
        self.stats().count_fast(known, taker, true, write.size);
        self.retire(next_rip)
    }

    pub(crate) fn read_mmio(&mut self, load: PendingLoad, known: bool) -> Option<u64> {
        self.stats()
            .count_fast(known, Taker::Userspace, false, load.size);
        self.state_mut().pending_load = Some(load);
        self.0
            .exit_for_read(load.gpa, load.size, Completion::Extension);
        None
    }

    /// `complete_load()` of `src/hooks.rs`.
    pub(crate) fn complete_load(&mut self, value: u64) {
        let load = self.state_mut().pending_load.take().expect("pending");
        finish_load(self, load, value);
    }

    pub(crate) fn retire(&mut self, next_rip: u64) -> Exit {
        self.0.retire(Gva(next_rip));
        Exit::RESUME
    }

    pub(crate) fn retire_read(&mut self, next_rip: u64) -> Exit {
        self.retire(next_rip)
    }

    pub(crate) fn fault_in(&mut self, _: &MmioFault<'_>) -> Exit {
        self.state_mut().faulting_in = true;
        let exit = self.0.kvm_mmu_page_fault(true);
        self.state_mut().faulting_in = false;
        exit
    }

    pub(crate) fn warn_reserved(&self) {
        panic!("reserved bits");
    }

    pub(crate) fn trace_check_mmio_spte(&self, _: Spte, _: MmioGeneration, _: MmioGeneration) {}

    pub(crate) fn trace_handle_mmio_page_fault(&self, _: Gva, _: Gfn, _: u32) {}

    pub(crate) fn trace_page_fault(&self, _: Gpa, _: u64) {}
}
