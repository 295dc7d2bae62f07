// SPDX-License-Identifier: GPL-2.0
//! In the place of `rust/kvm/vcpu.rs` and of what gives a `Vcpu` methods there: a vCPU of 64-bit code
//! without wildcards or nested guests.

use super::{
    exit_info::{AssistBytes, Exit, LastExit, Mode},
    guest_memory::UserPtr,
};
use crate::{
    addr::{Gfn, Gpa, Gva},
    generation::MemslotGeneration,
    iodev::Write,
    linux::{
        memory::ROOT,
        memslots::Page,
        mmu::FORMAT,
        vcpu::{bell, Completion, KvmVcpu},
        VM,
    },
    mmio_info::MmioInfo,
    prelude::*,
    pure::rsvd::MAX_LEVEL,
};
use std::marker::PhantomData;

/// What an extension has for each vCPU.
pub(crate) trait VcpuState: Sized + 'static {
    fn new(vm: u64, vcpu: u32) -> Result<KVBox<Self>>;
}

/// What goes on with a load.
pub(crate) trait CompleteLoad: VcpuState {
    fn complete_load(vcpu: &mut Vcpu<'_, Self>) -> Option<Exit>;
}

/// All may be written.
pub(crate) const ACC_WRITE: u32 = 0;

#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    Fetch,
    Write,
}

/// A walk of page tables that have one level.
pub(crate) struct ShadowWalk(u64);

impl ShadowWalk {
    pub(crate) fn entries(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        [(1, self.0)].into_iter()
    }
}

/// Nothing is reserved but in MMIO SPTEs.
const RESERVED: [[u64; MAX_LEVEL]; 2] = [[0; MAX_LEVEL]; 2];

pub(crate) struct ReservedBits<'a> {
    pub(crate) masks: &'a [[u64; MAX_LEVEL]; 2],
    pub(crate) bad_mt_xwr: u64,
}

/// A vCPU in its own thread with `kvm->srcu` held, and with state.
pub(crate) struct Vcpu<'a, S>(&'a mut KvmVcpu, PhantomData<S>);

impl<'a, S: VcpuState> Vcpu<'a, S> {
    pub(crate) const PFERR_RSVD: u64 = 1 << 3;
    pub(crate) const PFERR_WRITE: u64 = 1 << 1;

    pub(crate) const fn takes_error_code(error_code: u64) -> bool {
        error_code & !(Self::PFERR_RSVD | Self::PFERR_WRITE) == 0
    }

    /// Makes the state if there is none.
    pub(crate) fn enter(vcpu: &'a mut KvmVcpu) -> Self {
        if vcpu.mmio_ext.is_none() {
            vcpu.mmio_ext = Some(Box::new(S::new(VM, 0).expect("has memory")));
        }
        Self(vcpu, PhantomData)
    }

    /// The state, if there is any.
    pub(crate) fn state_of(vcpu: &mut KvmVcpu) -> Option<&mut S> {
        let state = vcpu.mmio_ext.as_mut()?.downcast_mut::<KVBox<S>>();
        Some(state.expect("is of the type"))
    }

    pub(crate) fn state(&self) -> &S {
        let state = self.0.mmio_ext.as_ref().expect("has state");
        state.downcast_ref::<KVBox<S>>().expect("is of the type")
    }

    pub(crate) fn state_mut(&mut self) -> &mut S {
        Self::state_of(self.0).expect("has state")
    }

    pub(crate) fn kvm_vcpu(&self) -> &KvmVcpu {
        self.0
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

    pub(crate) fn shadow_mmio_value(&self) -> u64 {
        FORMAT.mask.value
    }

    pub(crate) fn reserved_bits(&self) -> ReservedBits<'_> {
        ReservedBits {
            masks: &RESERVED,
            bad_mt_xwr: 0,
        }
    }

    pub(crate) fn walk_shadow_page_lockless(&mut self, _: u64) -> ShadowWalk {
        ShadowWalk(self.0.kvm.mmu.spte().0)
    }

    pub(crate) fn kvm_mmu_page_fault(&mut self, _: u64, _: u64, _: AssistBytes<'_>) -> Exit {
        Exit::from_handler((self.0.page_fault)(self.0, true))
    }

    pub(crate) fn skip_emulated_instruction(&mut self) -> Exit {
        Exit::RESUME
    }

    pub(crate) fn can_emulate_bytes(&mut self, _: AssistBytes<'_>) -> bool {
        true
    }

    pub(crate) fn x86_emulate_instruction(&mut self, _: u64, _: AssistBytes<'_>) -> Exit {
        Exit::from_handler(self.0.emulate())
    }

    pub(crate) fn runs_plain_code(&self, _: Mode) -> bool {
        true
    }

    pub(crate) fn runs_plain_flat_code(&self, _: Mode) -> bool {
        false
    }

    pub(crate) fn is_in_long_mode(&self) -> bool {
        true
    }

    pub(crate) fn counts_no_instructions(&self) -> bool {
        !self.0.counts_instructions
    }

    pub(crate) fn rip(&self) -> u64 {
        self.0.rip.0
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

    /// There is no local APIC in the kernel.
    pub(crate) fn is_apic_page(&self, _: Gpa) -> bool {
        false
    }

    pub(crate) fn write_to_apic(&mut self, _: &Write) -> bool {
        false
    }

    /// `kvm_mmio_ext_bell()`, for KVM to ask about the address.
    pub(crate) fn add_bell(&mut self, gpa: Gpa) {
        self.0.bells |= bell(gpa);
    }

    pub(crate) fn exit_for_write(&mut self, write: &Write, next_rip: u64) {
        self.0.exit_for_write(write.gpa, write.size);
        self.0.retire(Gva(next_rip));
    }

    /// No device answers reads.
    pub(crate) fn read_mmio_at(&mut self, gpa: Gpa, size: u8, _: bool) -> (u64, bool) {
        self.0.exit_for_read(gpa, size, Completion::Extension);
        (0, false)
    }

    pub(crate) fn provided_value(&mut self, _: Gpa, _: u8) -> u64 {
        self.0.provided
    }

    pub(crate) fn retire(&mut self, next_rip: u64) -> Exit {
        self.0.retire(Gva(next_rip));
        Exit::RESUME
    }

    pub(crate) fn retire_read(&mut self, next_rip: u64) -> Exit {
        self.retire(next_rip)
    }

    pub(crate) fn exit_tsc(&self) -> u64 {
        0
    }

    pub(crate) fn last_exit(&self) -> LastExit<'a> {
        LastExit::NOW
    }

    pub(crate) fn warn_reserved(&self) {
        panic!("reserved bits");
    }

    pub(crate) fn trace_mmio_spte_check(&self, _: u64, _: u32, _: u32) {}

    pub(crate) fn trace_handle_mmio_page_fault(&self, _: Gva, _: Gfn, _: u32) {}

    pub(crate) fn trace_page_fault(&self, _: Gpa, _: u64) {}

    pub(crate) fn trace_mmio_write(&self, _: &Write) {}

    pub(crate) fn trace_fast_mmio(&self, _: Gpa) {}
}
