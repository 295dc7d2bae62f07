// SPDX-License-Identifier: GPL-2.0

//! A vCPU's MMU: its page tables, what it remembers of MMIO, and what the guest's page tables say.
//!
//! C headers: [`arch/x86/kvm/mmu.h`](srctree/arch/x86/kvm/mmu.h),
//! [`arch/x86/kvm/mmu/mmu_internal.h`](srctree/arch/x86/kvm/mmu/mmu_internal.h).

use super::{
    addr::{Gfn, Gpa, Gva},
    exit_info::Mode,
    generation::MemslotGeneration,
    layout,
    mmio_info::MmioInfo,
    vcpu::Vcpu, //
};
use core::{
    mem::MaybeUninit,
    ptr, //
};
use kernel::ffi::c_int;
use kvm_bindings as bindings;

/// Levels of the deepest page tables.
pub(crate) const MAX_LEVEL: usize = bindings::MMIO_EXT_ROOT_MAX_LEVEL as usize;

/// The bit of a page's rights that allows writes.
pub(crate) const ACC_WRITE: u32 = bindings::MMIO_EXT_ACC_WRITE;

/// What an address is translated for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To fetch an instruction.
    Fetch,
    /// To write.
    Write,
}

impl Purpose {
    const fn error_code(self) -> u64 {
        match self {
            Self::Fetch => bindings::MMIO_EXT_PFERR_FETCH,
            Self::Write => bindings::MMIO_EXT_PFERR_WRITE,
        }
    }
}

/// Which bits are reserved in the page tables that KVM makes.
pub(crate) struct ReservedBits<'a> {
    /// By bit 7 of the entry and by level - 1 (4 KiB pages first).
    pub(crate) masks: &'a [[u64; MAX_LEVEL]; 2],
    /// Illegal combinations of the low six bits of an EPT entry.
    pub(crate) bad_mt_xwr: u64,
}

/// The entries that a walk of the shadow page tables has come by, from the root to the leaf.
pub(crate) struct ShadowWalk {
    /// Indexed by level; 4 KiB pages are at level 1.
    sptes: [u64; MAX_LEVEL + 1],
    /// The levels of root and leaf; a leaf of -1 if there is no root.
    root: c_int,
    leaf: c_int,
}

impl ShadowWalk {
    /// The entries with their levels, from the root to the leaf. None if there are no page tables.
    pub(crate) fn entries(&self) -> impl DoubleEndedIterator<Item = (usize, u64)> + '_ {
        // An empty range if the leaf is -1.
        let levels = if self.leaf < 0 {
            0..0
        } else {
            self.leaf as usize..(self.root as usize + 1).min(self.sptes.len())
        };
        levels.rev().map(|level| (level, self.sptes[level]))
    }
}

impl<S> Vcpu<'_, S> {
    /// The MMU in use.
    #[inline(always)]
    fn mmu(&self) -> *mut bindings::kvm_mmu {
        // SAFETY: The vCPU is alive, and only this thread changes the pointer, which is that of one
        // of its MMUs.
        unsafe { (*self.arch()).mmu }
    }

    /// Whether L2 runs and L1 has given it page tables of its own: faults then report addresses
    /// of L2, not of the VM.
    #[inline(always)]
    pub(crate) fn mmu_is_nested(&self) -> bool {
        // SAFETY: The vCPU is alive; nothing is read.
        ptr::eq(self.mmu(), unsafe { &raw const (*self.arch()).guest_mmu })
    }

    /// The page in KVM's own info cache.
    #[inline(always)]
    pub(crate) fn last_mmio_info(&self) -> MmioInfo {
        let arch = self.arch();
        // SAFETY: The vCPU is alive, and only this thread uses these fields.
        unsafe {
            MmioInfo {
                gva: Gva((*arch).mmio_gva),
                gfn: Gfn((*arch).mmio_gfn),
                access: (*arch).mmio_access,
                generation: MemslotGeneration((*arch).mmio_gen),
            }
        }
    }

    /// Puts a page into KVM's own info cache, where the emulator looks.
    #[inline(always)]
    pub(crate) fn set_last_mmio_info(&self, info: MmioInfo) {
        let arch = self.arch();
        // SAFETY: The vCPU is alive, and only this thread uses these fields.
        unsafe {
            (*arch).mmio_gva = info.gva.0;
            (*arch).mmio_gfn = info.gfn.0;
            // As `vcpu_cache_mmio_info()`: MMIO SPTEs have no room to say that they are readable.
            (*arch).mmio_access = info.access | bindings::MMIO_EXT_ACC_READ;
            (*arch).mmio_gen = info.generation.0;
        }
    }

    /// `shadow_mmio_value` of the VM.
    #[inline(always)]
    pub(crate) fn shadow_mmio_value(&self) -> u64 {
        // SAFETY: The VM is alive. Its value is fixed when it is made.
        unsafe { (*self.kvm()).arch.shadow_mmio_value }
    }

    /// Which bits are reserved in the page tables of the MMU.
    pub(crate) fn reserved_bits(&self) -> ReservedBits<'_> {
        // SAFETY: The MMU is one of the vCPU's, which is alive, and only this thread changes its
        // format, with the vCPU borrowed mutably.
        let format = unsafe { &*layout::page_format(self.mmu()) };
        ReservedBits {
            masks: &format.rsvd_bits_mask,
            bad_mt_xwr: format.bad_mt_xwr,
        }
    }

    /// Whether the MMU has page tables, as `VALID_PAGE()` asks.
    fn root_is_valid(&self) -> bool {
        // SAFETY: The MMU is one of the vCPU's, which is alive, and only this thread changes the
        // field.
        unsafe { (*self.mmu()).root.hpa != !0 }
    }

    /// Walks the shadow page tables of `addr` without a lock.
    pub(crate) fn walk_shadow_page_lockless(&mut self, addr: u64) -> ShadowWalk {
        let mut walk = ShadowWalk {
            sptes: [0; MAX_LEVEL + 1],
            root: 0,
            leaf: -1,
        };
        if !self.root_is_valid() {
            return walk;
        }
        // SAFETY: The vCPU is alive and this is its thread, the array has an element for each level,
        // and the function protects the tables against being freed for the time of the walk.
        walk.leaf = unsafe {
            bindings::kvm_mmu_get_sptes_lockless(
                self.raw(),
                addr,
                walk.sptes.as_mut_ptr(),
                &mut walk.root,
            )
        };
        walk
    }

    /// Where an access of L1 goes by its page tables, `None` if they do not allow it. Sets accessed
    /// and dirty bits as the access does.
    pub(crate) fn translate(&self, gva: Gva, purpose: Purpose, user: bool) -> Option<Gpa> {
        let _srcu = self.srcu();
        let user = if user {
            bindings::MMIO_EXT_PFERR_USER
        } else {
            0
        };
        let access = purpose.error_code() | user;
        let mut exception = MaybeUninit::uninit();
        // SAFETY: The vCPU is alive and this is its thread; `_srcu` says that `kvm->srcu` is held. What
        // reads its page tables is set from when it was made. There is room for an exception, which
        // is not looked at.
        let gpa = unsafe {
            // As before the emulator's walks: pages may be faulted in.
            bindings::mmio_ext_request_l1d_flush();
            let walk = layout::gva_walk(self.arch()).cast_mut();
            let translate = (*walk).gva_to_gpa?;
            translate(self.raw(), walk, gva.0, access, exception.as_mut_ptr())
        };
        (gpa != bindings::MMIO_EXT_INVALID_GPA as u64).then_some(Gpa(gpa))
    }

    /// Whether the guest's page tables allow an access to an MMIO page with the rights `access`, as
    /// `vcpu_mmio_gva_to_gpa()` asks `permission_fault()`. The vCPU runs plain code with shadow
    /// paging. `false` as well if protection keys would have to be looked at.
    #[inline(always)]
    pub(crate) fn may_access_mmio(&self, access: u32, mode: Mode, write: bool) -> bool {
        let mut error_code = 0;
        if mode.is_user() {
            error_code |= bindings::MMIO_EXT_PFERR_USER;
        }
        if write {
            error_code |= bindings::MMIO_EXT_PFERR_WRITE;
        }
        // RFLAGS.AC switches SMAP off for explicit accesses, as all of plain code are.
        if mode.alignment_checked() {
            error_code |= bindings::MMIO_EXT_PFERR_SMAP_OFF;
        }
        // What is mapped is readable, but MMIO SPTEs have no room to say so.
        let access = access | bindings::MMIO_EXT_ACC_READ;

        // SAFETY: The vCPU is alive, and only this thread changes these fields.
        unsafe {
            let format = layout::walk_format(self.arch());
            let faults = (*format).permissions[(error_code >> 1) as usize % 16];
            (*format).pkru_mask == 0 && faults >> (access & 0xf) & 1 == 0
        }
    }

    /// Warns, once, that page tables are corrupt.
    pub(crate) fn warn_reserved(&self) {
        // SAFETY: The function has no preconditions.
        unsafe { bindings::mmio_ext_warn_reserved() };
    }
}
