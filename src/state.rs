// SPDX-License-Identifier: GPL-2.0

//! What a vCPU has of the extension.

use crate::{
    access::MmioFault,
    addr::Gpa,
    generation::MmioGeneration,
    insns::FetchCache,
    installed::mmio_format,
    kvm::{self, tgid, Exit, VcpuId, VcpuState},
    pure::{
        bells::Bells,
        gpr::{Extend, Register},
        info_cache::{Clear, InfoCache},
        rsvd::PageFormat,
        spte::{MmioFormat, Spte}, //
    },
    registers::Bell,
    report::{
        recorder::{self, VcpuRecorder},
        registry,
        stats::{Event, Stats}, //
    }, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};
use pin_init::init_zeroed;

/// A vCPU in its own thread, with the extension's state.
pub(crate) type Vcpu<'a> = kvm::Vcpu<'a, State>;

/// The state of a vCPU. Made with the first MMIO access.
pub(crate) struct State {
    pub(crate) stats: Arc<Stats>,
    id: VcpuId,
    pub(crate) recorder: VcpuRecorder,
    info_cache: InfoCache,
    /// A stale MMIO SPTE was found and KVM is about to ask about it once more.
    faulting_in: bool,
    pub(crate) fetch_cache: FetchCache,
    pub(crate) bells: Bells<Bell>,
    /// What a load waits for userspace to provide.
    pub(crate) pending_load: Option<PendingLoad>,
}

/// A load that is complete but for the value.
#[derive(Clone, Copy)]
pub(crate) struct PendingLoad {
    /// Where the operand is.
    pub(crate) gpa: Gpa,
    /// The register to load.
    pub(crate) register: Register,
    /// How.
    pub(crate) extend: Extend,
    /// Bytes of the operand.
    pub(crate) size: u8,
    /// Where to go on.
    pub(crate) next_rip: u64,
}

impl VcpuState for State {
    fn new(vm: u64, vcpu: u32) -> Result<KVBox<Self>> {
        let stats = Arc::init(Stats::init(), GFP_KERNEL_ACCOUNT)?;
        // Without memory C does the work, which is nothing for the kernel to warn of.
        let state = KVBox::new_uninit(GFP_KERNEL_ACCOUNT | __GFP_NOWARN)?;
        let id = registry::add(vm, tgid(), vcpu, stats.clone())?;
        // In place: it is too large for a stack. Nothing of it can fail.
        let state = state.write_init(try_init!(Self {
                stats,
                id,
                recorder <- recorder::init(),
                info_cache <- init_zeroed(),
                faulting_in: false,
                fetch_cache <- FetchCache::init(),
                bells <- init_zeroed(),
                pending_load: None,
            }? Error))?;
        Ok(state)
    }
}

impl Drop for State {
    fn drop(&mut self) {
        registry::remove(&self.stats);
    }
}

impl State {
    /// Forgets virtual addresses in the info cache.
    #[inline]
    pub(crate) fn clear_info(&mut self, what: Clear) {
        self.info_cache.clear(what);
        self.stats.count(Event::CacheCleared);
    }
}

impl Vcpu<'_> {
    /// The vCPU's counters.
    #[inline(always)]
    pub(crate) fn stats(&self) -> &Stats {
        &self.state().stats
    }

    /// How the vCPU is named where it is seen.
    pub(crate) fn id(&self) -> VcpuId {
        self.state().id
    }

    /// The extension's info cache.
    #[inline(always)]
    pub(crate) fn info_cache(&self) -> &InfoCache {
        &self.state().info_cache
    }

    /// The same, to be changed.
    pub(crate) fn info_cache_mut(&mut self) -> &mut InfoCache {
        &mut self.state_mut().info_cache
    }

    /// What is known of the guest's code.
    #[inline(always)]
    pub(crate) fn fetch_cache(&self) -> &FetchCache {
        &self.state().fetch_cache
    }

    /// The same, to be changed.
    #[inline(always)]
    pub(crate) fn fetch_cache_mut(&mut self) -> &mut FetchCache {
        &mut self.state_mut().fetch_cache
    }

    /// Whether [`Vcpu::fault_in`] has just been called.
    pub(crate) fn take_faulting_in(&mut self) -> bool {
        core::mem::take(&mut self.state_mut().faulting_in)
    }

    /// Lets KVM fault the page in, for an MMIO SPTE that is not of the current generation.
    #[cold]
    pub(crate) fn fault_in(&mut self, fault: &MmioFault<'_>) -> Exit {
        self.state_mut().faulting_in = true;
        let exit = self.kvm_mmu_page_fault(fault.addr.raw(), fault.error_code, fault.insn);
        // KVM does not ask if the extension has just been switched off.
        self.state_mut().faulting_in = false;
        exit
    }

    /// Whether KVM's emulator knows the instruction that has caused a fault.
    pub(crate) fn can_emulate(&mut self, fault: &MmioFault<'_>) -> bool {
        self.can_emulate_bytes(fault.insn)
    }

    /// Emulates the instruction that has caused a fault.
    #[inline(always)]
    pub(crate) fn emulate_instruction(&mut self, fault: &MmioFault<'_>) -> Exit {
        self.x86_emulate_instruction(fault.addr.raw(), fault.insn)
    }

    /// The format of the VM's MMIO SPTEs.
    pub(crate) fn mmio_format(&self) -> MmioFormat {
        mmio_format(self.shadow_mmio_value())
    }

    /// Which bits are reserved in the page tables of the MMU.
    pub(crate) fn page_format(&self) -> PageFormat<'_> {
        let bits = self.reserved_bits();
        PageFormat {
            reserved: bits.masks,
            bad_mt_xwr: bits.bad_mt_xwr,
        }
    }

    /// The tracepoint `kvmmmu:check_mmio_spte`.
    pub(crate) fn trace_check_mmio_spte(
        &self,
        spte: Spte,
        now: MmioGeneration,
        made: MmioGeneration,
    ) {
        self.trace_mmio_spte_check(spte.0, now.get(), made.get());
    }
}
