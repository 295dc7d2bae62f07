// SPDX-License-Identifier: GPL-2.0

//! Reading page tables and code of the guest, in the address space of the VM's process.
//!
//! C header: `rust/helpers.h`.

use core::ptr;
use kvm_bindings as bindings;

/// Levels of the deepest page tables.
pub(crate) const MAX_LEVELS: usize = bindings::MMIO_EXT_ROOT_MAX_LEVEL as usize;

/// Bytes of a page.
pub(crate) const PAGE_SIZE: usize = bindings::MMIO_EXT_PAGE_SIZE as usize;

/// How many levels the guest's page tables have, by `union kvm_cpu_role`.
pub(crate) fn levels(cpu_role: u64) -> usize {
    // SAFETY: The function has no preconditions.
    let levels = unsafe { bindings::mmio_ext_levels(cpu_role) };
    usize::try_from(levels).unwrap_or(0).min(MAX_LEVELS)
}

/// Whether page tables of entries of 4 bytes have large pages, CR4.PSE.
pub(crate) fn has_pse(cpu_role: u64) -> bool {
    // SAFETY: The function has no preconditions.
    unsafe { bindings::mmio_ext_has_pse(cpu_role) }
}

/// An address in the VM's process, whatever is there.
#[derive(Clone, Copy)]
pub(crate) struct UserPtr(*const u64);

impl UserPtr {
    /// `None` of a null pointer.
    pub(super) fn new(pointer: *const u64) -> Option<Self> {
        (!pointer.is_null()).then_some(Self(pointer))
    }
}

/// An entry of the guest's page tables as it was read.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Pte(bindings::mmio_ext_pte);

impl Pte {
    const NONE: Self = Self(bindings::mmio_ext_pte {
        ptep: ptr::null(),
        pte: 0,
    });

    /// Reads the entry, if there is memory.
    pub(crate) fn read(from: UserPtr) -> Option<Self> {
        let mut pte = 0;
        // SAFETY: There is room; the function copes with any user pointer.
        unsafe { bindings::mmio_ext_read_pte(from.0, &mut pte) }
            .then_some(Self(bindings::mmio_ext_pte { ptep: from.0, pte }))
    }

    /// What was read.
    pub(crate) fn value(self) -> u64 {
        self.0.pte
    }
}

/// Where a page of code is, and the entries that say so.
#[derive(Clone, Copy)]
pub(crate) struct Code {
    code: UserPtr,
    /// From the root down. Levels that there are not repeat the root's; without paging the first
    /// word of the page stands for all.
    ptes: [Pte; MAX_LEVELS],
    /// How many levels there are.
    levels: usize,
}

impl Code {
    /// Nowhere.
    pub(crate) const NONE: Self = Self {
        code: UserPtr(ptr::null()),
        ptes: [Pte::NONE; MAX_LEVELS],
        levels: 0,
    };

    /// The page at `code`, which `ptes` from the root down say. `None` if it cannot be read.
    pub(crate) fn new(code: UserPtr, ptes: [Option<Pte>; MAX_LEVELS]) -> Option<Self> {
        let root = ptes[0].or_else(|| Pte::read(code))?;
        Some(Self {
            code,
            ptes: ptes.map(|pte| pte.unwrap_or(root)),
            levels: ptes.iter().flatten().count(),
        })
    }

    /// The same page by way of another root, whose entry for it is `root`. `None` if that says something
    /// else.
    pub(crate) fn by_root(&self, root: Pte) -> Option<Self> {
        if self.ptes[0].value() != root.value() {
            return None;
        }
        let mut ptes = self.ptes;
        ptes[0] = root;
        ptes[self.levels..].fill(root);
        Some(Self { ptes, ..*self })
    }

    #[inline(always)]
    fn at(&self, offset: u64) -> *const u64 {
        self.code.0.wrapping_byte_add(offset as usize)
    }

    /// Whether a walk and a read would find `bytes` at this offset.
    #[inline(always)]
    pub(crate) fn has(&self, offset: u64, bytes: &[u64; 2]) -> bool {
        // SAFETY: There are as many entries and bytes as the function wants; it copes with any
        // user pointer.
        unsafe {
            bindings::mmio_ext_code_is_current(
                self.ptes.as_ptr().cast(),
                self.at(offset),
                bytes.as_ptr(),
            )
        }
    }

    /// What a walk and a read would find at this offset. `None` if an entry has changed, or the
    /// memory is gone.
    pub(crate) fn read(&self, offset: u64) -> Option<[u64; 2]> {
        let mut bytes = [0; 2];
        // SAFETY: There are as many entries as the function wants, and there is room; it copes with
        // any user pointer.
        unsafe {
            bindings::mmio_ext_read_code(
                self.ptes.as_ptr().cast(),
                self.at(offset),
                bytes.as_mut_ptr(),
            )
        }
        .then_some(bytes)
    }
}
