// SPDX-License-Identifier: GPL-2.0

//! A vCPU's registers and modes, as far as KVM keeps them.
//!
//! Only the vCPU's own thread changes them, and whoever has a [`Vcpu`] is in it. C header:
//! [`arch/x86/kvm/regs.h`](srctree/arch/x86/kvm/regs.h).

use super::{
    addr::Gva,
    exit_info::Mode,
    host::tdp_enabled,
    layout,
    vcpu::Vcpu, //
};
use kernel::ffi::c_int;
use kvm_bindings as bindings;

impl<S> Vcpu<'_, S> {
    /// Whether the guest's paging is off: faults report physical addresses then also with shadow
    /// paging, as the MMU is direct.
    #[inline(always)]
    pub(crate) fn paging_is_off(&self) -> bool {
        // SAFETY: The vCPU is alive. The guest never owns this bit of CR0, so it is up to date.
        unsafe { (*self.arch()).cr0 as u64 & bindings::MMIO_EXT_CR0_PG == 0 }
    }

    /// Whether the vCPU runs plain 64-bit code of L1: no nested guest, SMM, encrypted state,
    /// single-stepping, debugging, or event that is being delivered.
    #[inline(always)]
    pub(crate) fn runs_plain_code(&self, mode: Mode) -> bool {
        mode.is_plain_64_bit() && self.is_in_long_mode() && self.is_undisturbed()
    }

    /// The same of 32-bit code in flat segments, and in protected mode.
    pub(crate) fn runs_plain_flat_code(&self, mode: Mode) -> bool {
        // SAFETY: The vCPU is alive. The guest never owns this bit of CR0, so it is up to date.
        let is_protected = unsafe { (*self.arch()).cr0 as u64 & bindings::MMIO_EXT_CR0_PE != 0 };
        mode.is_plain_flat() && is_protected && self.is_undisturbed()
    }

    /// Whether the processor is in long mode, EFER.LMA.
    #[inline(always)]
    pub(crate) fn is_in_long_mode(&self) -> bool {
        // SAFETY: The vCPU is alive, and only this thread changes the field.
        unsafe { (*self.arch()).efer & bindings::MMIO_EXT_EFER_LMA != 0 }
    }

    /// Whether nothing but code of L1 runs that nobody watches: no nested guest, SMM, encrypted
    /// state, debugging, or event that is being delivered.
    #[inline(always)]
    fn is_undisturbed(&self) -> bool {
        const MODES: u32 = bindings::MMIO_EXT_HF_GUEST | bindings::MMIO_EXT_HF_SMM;
        let arch = self.arch();

        // SAFETY: The vCPU is alive, and only this thread changes these fields.
        unsafe {
            (*arch).hflags & MODES == 0
                && (*self.raw()).guest_debug == 0
                && !((*arch).guest_state_protected
                    | (*arch).exception.pending
                    | (*arch).exception.injected
                    | (*arch).interrupt.injected
                    | (*arch).nmi_injected)
        }
    }

    /// Whether the guest's performance counters count no instructions, which may end in an
    /// interrupt of theirs.
    #[inline(always)]
    pub(crate) fn counts_no_instructions(&self) -> bool {
        // SAFETY: The vCPU is alive, and only this thread changes the field.
        unsafe { (*self.arch()).pmu.pmc_counting_instructions == [0] }
    }

    /// Whether a register is where KVM keeps it. A vendor module may not have read it yet.
    #[inline(always)]
    fn has_register(&self, register: u32) -> bool {
        // SAFETY: The vCPU is alive, and only this thread changes the field.
        unsafe { (*self.arch()).regs_avail[0] & 1 << register != 0 }
    }

    /// Makes the vendor module read a register.
    fn read_register(&self, register: u32) {
        // SAFETY: The vCPU is loaded, as its thread holds its mutex, and the register is one that
        // can be read so.
        unsafe { bindings::mmio_ext_cache_reg(self.raw(), register) };
    }

    /// RIP.
    #[inline(always)]
    pub(crate) fn rip(&self) -> u64 {
        if !self.has_register(bindings::MMIO_EXT_RIP) {
            self.read_register(bindings::MMIO_EXT_RIP);
        }
        // SAFETY: The vCPU is alive, and only this thread changes the field.
        unsafe { (*self.arch()).rip as u64 }
    }

    /// CR3.
    #[inline(always)]
    pub(crate) fn cr3(&self) -> u64 {
        // With shadow paging the processor's CR3 is not the guest's, which only KVM has.
        if !self.has_register(bindings::MMIO_EXT_CR3) && tdp_enabled() {
            self.read_register(bindings::MMIO_EXT_CR3);
        }
        // SAFETY: The vCPU is alive, and only this thread changes the field.
        unsafe { (*self.arch()).cr3 as u64 }
    }

    /// What is the root of the page tables of 32-bit code for an address: CR3, or with PAE paging
    /// the entry of the first level, which the processor has in a register.
    #[cold]
    pub(crate) fn flat_root(&self, gva: Gva) -> u64 {
        if !self.has_pae_paging() {
            return self.cr3();
        }
        let _srcu = self.srcu();
        // SAFETY: The vCPU is loaded, as its thread holds its mutex; `_srcu` says that `kvm->srcu` is
        // held. It may sleep: with interrupts off `ring()` takes 64-bit code only.
        match unsafe { bindings::mmio_ext_pdptr_read(self.raw(), (gva.0 as u32 >> 30) as c_int) } {
            0 => self.cr3(),
            pdpte => pdpte,
        }
    }

    /// Whether the guest's page tables are those of PAE, `is_pae_paging()`.
    #[inline(always)]
    fn has_pae_paging(&self) -> bool {
        // SAFETY: The vCPU is alive. The guest never owns this bit of CR4, so it is up to date.
        let has_pae = unsafe { (*self.arch()).cr4 as u64 & bindings::MMIO_EXT_CR4_PAE != 0 };
        has_pae && !self.is_in_long_mode() && !self.paging_is_off()
    }

    /// Whether the guest's linear addresses have 57 bits rather than 48, `vcpu_virt_addr_bits()`.
    #[inline(always)]
    pub(crate) fn has_5_levels(&self) -> bool {
        // SAFETY: The vCPU is alive. The guest never owns this bit of CR4, so it is up to date.
        unsafe { (*self.arch()).cr4 as u64 & bindings::MMIO_EXT_CR4_LA57 != 0 }
    }

    /// How the guest's page tables are to be read, `union kvm_cpu_role`.
    #[inline(always)]
    pub(crate) fn cpu_role(&self) -> u64 {
        // SAFETY: The vCPU is alive, and only this thread changes it. The union has a view as a
        // number.
        unsafe { (*layout::gva_walk(self.arch())).cpu_role.as_u64 }
    }

    /// Makes RSP one of the registers that [`Vcpu::register`] can return.
    pub(crate) fn read_rsp(&self) {
        if !self.has_register(bindings::MMIO_EXT_RSP) {
            self.read_register(bindings::MMIO_EXT_RSP);
        }
    }

    /// The value of a general purpose register. That of RSP is an old one before
    /// [`Vcpu::read_rsp`].
    #[inline(always)]
    pub(crate) fn register(&self, number: u8) -> u64 {
        // SAFETY: The vCPU is alive, and only this thread changes the array.
        unsafe { (*self.arch()).regs[usize::from(number & 0xf)] as u64 }
    }

    /// Changes a general purpose register, which must not be RSP.
    #[inline(always)]
    pub(crate) fn set_register(&mut self, number: u8, value: u64) {
        debug_assert_ne!(u32::from(number), bindings::MMIO_EXT_RSP);
        // SAFETY: The vCPU is alive, and nobody else uses the array. All registers but RSP and RIP
        // are always in it, see `struct kvm_vcpu_arch`.
        unsafe { (*self.arch()).regs[usize::from(number & 0xf)] = value as _ };
    }
}
