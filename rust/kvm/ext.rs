// SPDX-License-Identifier: GPL-2.0

//! An extension of KVM's MMIO: what KVM calls it for.
//!
//! C header: [`arch/x86/include/asm/kvm_mmio_ext.h`](srctree/arch/x86/include/asm/kvm_mmio_ext.h),
//! which the kernel patch adds. It has no optional callback, so [`MmioExt`] is no `#[vtable]`: an
//! extension has them all.

use super::{
    addr::{Gfn, Gpa, Gva},
    exit_info::{AssistBytes, Exit, Mode, PageFault},
    generation::MemslotGeneration,
    host::{PageTables, VendorInit},
    mmio_info::MmioInfo,
    vcpu::{Vcpu, VcpuState}, //
};
use core::num::NonZero;
use kernel::{
    ffi::c_ulong,
    prelude::*, //
};
use kvm_bindings as bindings;

/// An extension of KVM's MMIO. See `struct kvm_mmio_ext_ops` for when KVM calls it.
pub(crate) trait MmioExt: 'static {
    /// What there is of it for each vCPU.
    type VcpuState: VcpuState;

    /// Computes and installs the masks of MMIO SPTEs.
    fn set_spte_mask(init: &VendorInit, tables: PageTables);

    /// Checks those that are installed.
    ///
    /// # Errors
    ///
    /// `EINVAL` if they do not fit.
    fn check_spte_mask(init: &VendorInit, tables: PageTables) -> Result;

    /// Handles an EPT misconfiguration of L1.
    fn ept_misconfig(vcpu: &mut Vcpu<'_, Self::VcpuState>, gpa: Gpa, mode: Mode) -> Exit;

    /// Handles a nested page fault of L1 with a reserved bit.
    fn npf(
        vcpu: &mut Vcpu<'_, Self::VcpuState>,
        gpa: Gpa,
        error_code: u64,
        insn: AssistBytes<'_>,
        mode: Mode,
    ) -> Exit;

    /// Handles a page fault with a reserved bit under shadow paging.
    fn shadow_fault(
        vcpu: &mut Vcpu<'_, Self::VcpuState>,
        gva: Gva,
        error_code: u64,
        insn: AssistBytes<'_>,
        mode: Mode,
    ) -> Exit;

    /// Handles a write of L1, with TDP, that has found no memory to write to: a memslot may be
    /// read-only. There may be other reasons.
    fn write_fault(
        vcpu: &mut Vcpu<'_, Self::VcpuState>,
        gpa: Gpa,
        error_code: u64,
        insn: AssistBytes<'_>,
        mode: Mode,
    ) -> Exit;

    /// Whether [`MmioExt::ring`] may be worth a try. As cheap as can be: other exits pay for it.
    fn may_ring(state: &Self::VcpuState, gpa: Gpa) -> bool;

    /// Completes a store, but for RIP, before interrupts are on again. Returns where the guest goes
    /// on, `None` if nothing has happened.
    fn ring(
        vcpu: &mut Vcpu<'_, Self::VcpuState>,
        gpa: Gpa,
        error_code: u64,
        insn: AssistBytes<'_>,
        mode: Mode,
    ) -> Option<NonZero<u64>>;

    /// Finds out what a page fault with a reserved bit means, for faults that did not come through
    /// one of the exit handlers above (those of L2 with TDP), or that one of them hands on.
    fn page_fault(
        vcpu: &mut Vcpu<'_, Self::VcpuState>,
        addr: u64,
        direct: bool,
    ) -> Result<PageFault>;

    /// KVM has put a page into its own info cache.
    fn cache_info(vcpu: &mut Vcpu<'_, Self::VcpuState>, info: MmioInfo);

    /// Forgets a virtual address, or all. `kvm->srcu` need not be held.
    fn clear_info(state: &mut Self::VcpuState, gva: Option<Gva>);

    /// Makes an MMIO SPTE. Must not sleep.
    fn make_spte(vcpu: &Vcpu<'_, Self::VcpuState>, gfn: Gfn, access: u32) -> u64;

    /// What becomes of an MMIO SPTE when its shadow page is synchronized. Must not sleep.
    fn sync_spte(vcpu: &Vcpu<'_, Self::VcpuState>, spte: u64, gfn: Gfn, access: u32) -> u64;

    /// An MMIO SPTE is zapped. In any context.
    fn zap_spte(spte: u64);

    /// Whether `generation` begins a new round of those that MMIO SPTEs hold, of a VM with so many
    /// address spaces.
    fn generation_wrapped(generation: MemslotGeneration, spaces: u32) -> bool;

    /// Sees an access that was not the extension's.
    fn see_access(vcpu: &mut Vcpu<'_, Self::VcpuState>, gpa: Gpa, access: Emulated);

    /// The same for when only heat is on, if there is little to do. Returns whether it is done. Is
    /// not asked about a zero-length ioeventfd.
    fn record_quickly(vcpu: &mut Vcpu<'_, Self::VcpuState>, gfn: Gfn, access: Emulated) -> bool;
}

/// An access of up to 8 bytes that a device in the kernel has done for KVM's emulator, or that
/// leaves for userspace, `enum kvm_mmio_ext_access`.
#[derive(Clone, Copy)]
pub(crate) struct Emulated {
    flags: c_ulong,
    /// Bytes. 0 if KVM has signalled a zero-length ioeventfd without a look at the instruction.
    pub(crate) len: u32,
}

impl Emulated {
    /// As KVM says.
    #[inline(always)]
    pub(super) const fn new(flags: c_ulong, len: u32) -> Self {
        Self { flags, len }
    }

    pub(super) const WRITE: c_ulong = bindings::kvm_mmio_ext_access_KVM_MMIO_EXT_WRITE as c_ulong;
    pub(super) const USERSPACE: c_ulong =
        bindings::kvm_mmio_ext_access_KVM_MMIO_EXT_USERSPACE as c_ulong;

    /// Whether it is a write.
    #[inline(always)]
    pub(crate) const fn is_write(self) -> bool {
        self.flags & Self::WRITE != 0
    }

    /// Whether it leaves for userspace.
    #[inline(always)]
    pub(crate) const fn is_userspace(self) -> bool {
        self.flags & Self::USERSPACE != 0
    }
}
