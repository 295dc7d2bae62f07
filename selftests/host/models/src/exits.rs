// SPDX-License-Identifier: GPL-2.0
//! The way of a vCPU's accesses through KVM's own code and the hooks.

use crate::{
    addr::{Gfn, Gpa, Gva, PAGE_MASK},
    hooks::Ext,
    kvm::{AssistBytes, CompleteLoad, Exit, MmioExt, Mode, PageFault},
    linux::{
        effect::Effect,
        memory::Insn,
        memslots::Page,
        mmu::FORMAT,
        vcpu::{bell, Completion, KvmVcpu, DEVICE_GVA},
        Kvm, Mistake, FAST,
    },
    mmio_info::MmioInfo,
    pure::spte::{get_mmio_spte_generation, Spte},
    report::stats::{Event, Snapshot},
    state::{State, Vcpu},
};
use loom::{sync::atomic::Ordering::Relaxed, thread};
use std::rc::Rc;

/// `ACC_WRITE_MASK | ACC_USER_MASK`
const ACCESS: u32 = 6;

const RAX: usize = 0;
const RCX: usize = 1;

/// A vCPU of a VM. `direct`: guest paging is nothing to the MMU, as with TDP.
pub(crate) fn new_vcpu(kvm: &Rc<Kvm>, direct: bool) -> KvmVcpu {
    KvmVcpu::new(kvm, direct, KvmVcpu::kvm_mmu_page_fault)
}

impl KvmVcpu {
    fn counted(&mut self) -> Snapshot {
        let state = Vcpu::state_of(self);
        state.map_or(Snapshot::ZERO, |state| state.stats.snapshot())
    }

    /// How many faults a cache, an MMIO SPTE or a read-only memslot has answered.
    pub(crate) fn hits(&mut self) -> u64 {
        let now = self.counted();
        [Event::CacheHit, Event::SpteHit, Event::ReadOnly]
            .map(|event| now.get(event))
            .iter()
            .sum()
    }

    /// How many accesses the fast path has completed.
    pub(crate) fn fast(&mut self) -> u64 {
        self.counted().fast()
    }

    /// How many of them before interrupts were on.
    pub(crate) fn rung_early(&mut self) -> u64 {
        self.counted().irqsoff()
    }

    /// The guest stores `value` at an offset into the page of the device.
    pub(crate) fn store(&mut self, offset: u64, value: u64) -> Effect {
        self.regs[RCX] = value;
        let effect = self.access(Insn::Store, offset);
        self.assert_retired();
        effect
    }

    fn assert_retired(&self) {
        let moved = self.rip == self.insn.next_rip();
        assert!(moved, "the guest goes on at {:?}", self.rip);
    }

    /// The guest loads, and userspace answers `value` if it is asked. Returns what is loaded, too.
    pub(crate) fn load(&mut self, value: u64) -> (Effect, u64) {
        self.regs[RCX] = 0;
        let effect = self.access(Insn::Load, 0);
        if let Some(completion) = self.completion.take() {
            self.complete_userspace_io(completion, value);
        }
        self.assert_retired();
        (effect, self.regs[RCX])
    }

    /// One instruction of the guest; each has one effect.
    fn access(&mut self, insn: Insn, offset: u64) -> Effect {
        self.insn = insn;
        self.offset = offset;
        loop {
            self.rip = insn.rip();
            self.regs[RAX] = self.gva().0;
            match self.kvm.mmu.access() {
                Ok(ram) => {
                    self.retire(insn.next_rip());
                    return Effect::Ram(ram);
                }
                Err(spte) => self.handle_exit(spte),
            }
            assert!(self.mmio_ext.is_none() || !Vcpu::enter(self).take_faulting_in());
            let effects = self.effects.take();
            if let Some(effect) = effects.first() {
                assert_eq!(effects.len(), 1, "{effects:?}");
                return *effect;
            }
            thread::yield_now();
        }
    }

    fn is_enabled(&self) -> bool {
        self.kvm.enabled.load(Relaxed)
    }

    /// Whether KVM calls the exit handlers of the extension.
    fn is_fast(&self) -> bool {
        self.is_enabled() && FAST.load(Relaxed)
    }

    fn handle_exit(&mut self, spte: Spte) {
        let is_mmio = FORMAT.is_mmio_spte(spte);
        if self.ring(is_mmio) {
            return;
        }
        let kvm = self.kvm.clone();
        let _srcu = kvm.srcu.read_lock();

        let exit = match is_mmio && self.is_fast() {
            true => self.call_extension(self.error_code()),
            false => Exit::PASS,
        };
        if exit == Exit::PASS {
            self.kvm_mmu_page_fault(is_mmio);
        }
    }

    /// What KVM does before interrupts are on, where it does not hold `kvm->srcu`:
    /// `handle_fastpath_ept_fault()`, and `ring()` of `rust/kvm/callbacks.rs`. Returns whether the
    /// guest goes on.
    fn ring(&mut self, is_mmio: bool) -> bool {
        let error_code = match (is_mmio, self.insn) {
            (true, _) => Vcpu::PFERR_RSVD,
            (false, Insn::Store) => Vcpu::PFERR_WRITE,
            (false, Insn::Load) => return false,
        };
        self.ring_at(self.gpa(), error_code)
    }

    /// The same, of a fault at `gpa`.
    pub(crate) fn ring_at(&mut self, gpa: Gpa, error_code: u64) -> bool {
        let is_asked =
            self.direct && self.irqs_off && self.is_fast() && self.bells & bell(gpa) != 0;
        if !is_asked || !Vcpu::state_of(self).is_some_and(|state| Ext::may_ring(state, gpa)) {
            return false;
        }
        let kvm = self.kvm.clone();
        let _srcu = kvm.srcu.read_lock();
        let insn = self.assist_bytes();
        let next_rip = Ext::ring(&mut Vcpu::enter(self), gpa, error_code, insn, Mode);
        next_rip
            .inspect(|rip| self.retire(Gva(rip.get())))
            .is_some()
    }

    /// That of a fault by the instruction.
    fn error_code(&self) -> u64 {
        match self.insn {
            Insn::Store => Vcpu::PFERR_RSVD | Vcpu::PFERR_WRITE,
            Insn::Load => Vcpu::PFERR_RSVD,
        }
    }

    /// A load faults, and where it was there is a store when somebody looks: another vCPU has
    /// changed the code.
    pub(crate) fn store_for_load(&mut self) -> Effect {
        let kvm = self.kvm.clone();
        let _srcu = kvm.srcu.read_lock();
        self.insn = Insn::Store;
        self.rip = self.insn.rip();
        assert_eq!(self.call_extension(Vcpu::PFERR_RSVD), Exit::RESUME);
        self.assert_retired();
        self.effects.borrow_mut().pop().expect("an effect")
    }

    fn call_extension(&mut self, error_code: u64) -> Exit {
        let (gva, gpa) = (self.gva(), self.gpa());
        let (direct, assists, insn) = (self.direct, self.assists, self.assist_bytes());
        let vcpu = &mut Vcpu::enter(self);
        match (direct, assists) {
            (true, false) => Ext::ept_misconfig(vcpu, gpa, Mode),
            (true, true) => Ext::npf(vcpu, gpa, error_code, insn, Mode),
            (false, _) => Ext::shadow_fault(vcpu, gva, error_code, insn, Mode),
        }
    }

    fn assist_bytes<'a>(&self) -> AssistBytes<'a> {
        match self.assists {
            true => AssistBytes::new(self.kvm.fetch(self.rip)),
            false => AssistBytes::NONE,
        }
    }

    fn kvm_mmu_page_fault(&mut self, is_mmio: bool) -> i32 {
        let found = match is_mmio {
            true => self.handle_mmio_page_fault(),
            false => PageFault::Invalid,
        };
        let done = match found {
            PageFault::Invalid => self.do_page_fault(),
            other => other,
        };
        if done != PageFault::Emulate {
            return 1;
        }
        match self.write_fault() {
            Exit::PASS => self.emulate(),
            handled => handled.to_handler(),
        }
    }

    /// What `kvm_mmu_page_fault()` asks before it emulates a write, with TDP.
    fn write_fault(&mut self) -> Exit {
        if !self.direct || self.insn != Insn::Store || !self.is_fast() {
            return Exit::PASS;
        }
        let (gpa, insn) = (self.gpa(), self.assist_bytes());
        Ext::write_fault(&mut Vcpu::enter(self), gpa, Vcpu::PFERR_WRITE, insn, Mode)
    }

    fn handle_mmio_page_fault(&mut self) -> PageFault {
        if self.is_enabled() {
            let (addr, direct) = (self.gva().0, self.direct);
            return Ext::page_fault(&mut Vcpu::enter(self), addr, direct).unwrap();
        }

        if self.knows_page() {
            return PageFault::Emulate;
        }
        let spte = self.kvm.mmu.spte();
        if !FORMAT.is_mmio_spte(spte) {
            return PageFault::Retry;
        }
        let now = self.kvm.memslots.generation();
        if now.update_in_progress() || now.mmio() != get_mmio_spte_generation(spte) {
            return PageFault::Invalid;
        }
        self.cache_mmio_info(FORMAT.get_mmio_spte_gfn(spte));
        PageFault::Emulate
    }

    fn do_page_fault(&mut self) -> PageFault {
        let gfn = self.maps;
        match self.kvm.page(gfn) {
            Page::Invalid => PageFault::Retry,
            // The model's guests only write there.
            Page::ReadOnly => PageFault::Emulate,
            Page::Ram(ram) => {
                self.kvm.mmu.map(ram);
                PageFault::Retry
            }
            Page::Hole => {
                self.cache_mmio_info(gfn);
                let kvm = self.kvm.clone();
                match kvm.mmu.map_mmio(|| self.make_spte(gfn)) {
                    true => PageFault::Emulate,
                    false => PageFault::Retry,
                }
            }
        }
    }

    /// `vcpu_cache_mmio_info()`
    fn cache_mmio_info(&mut self, gfn: Gfn) {
        let info = MmioInfo {
            gva: match self.direct {
                true => Gva(0),
                false => self.gva().page(),
            },
            gfn,
            access: ACCESS,
            generation: self.kvm.memslots.generation(),
        };
        if self.is_enabled() {
            let mut vcpu = Vcpu::enter(self);
            let generation = vcpu.memslots_generation();
            Ext::cache_info(&mut vcpu, MmioInfo { generation, ..info });
        }
        if !info.generation.update_in_progress() {
            self.mmio_info.set(info);
        }
    }

    /// `make_mmio_spte()`
    fn make_spte(&mut self, gfn: Gfn) -> Spte {
        if self.is_enabled() && self.mmio_ext.is_some() {
            return Spte(Ext::make_spte(&Vcpu::enter(self), gfn, ACCESS));
        }
        let generation = self.kvm.memslots.generation().mmio();
        FORMAT.mark_mmio_spte(gfn, generation, ACCESS)
    }

    fn complete_userspace_io(&mut self, completion: Completion, value: u64) {
        let kvm = self.kvm.clone();
        let _srcu = kvm.srcu.read_lock();
        match completion {
            Completion::Emulator => {
                self.regs[RCX] = value;
                self.retire(self.insn.next_rip());
            }
            Completion::Extension
                if kvm.makes(Mistake::CompleteOnlyWhileOn) && !self.is_enabled() => {}
            Completion::Extension => {
                self.provided = value;
                State::complete_load(&mut Vcpu::enter(self)).expect("pending");
            }
        }
    }

    /// The guest maps another page at the same address and executes INVLPG.
    pub(crate) fn remap(&mut self, gfn: Gfn) {
        self.maps = gfn;
        self.kvm.mmu.zap();
        self.clear_mmio_info(DEVICE_GVA);
    }

    /// `vcpu_clear_mmio_info()`
    fn clear_mmio_info(&mut self, gva: Gva) {
        let forwarded = !self.kvm.makes(Mistake::ClearOnlyWhileOn) || self.is_enabled();
        if let Some(state) = Vcpu::state_of(self).filter(|_| forwarded) {
            Ext::clear_info(state, Some(gva));
        }
        let info = self.mmio_info.get_mut();
        if info.gva == Gva(gva.0 & PAGE_MASK) {
            info.gva = Gva(0);
        }
    }
}
