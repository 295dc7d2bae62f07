// SPDX-License-Identifier: GPL-2.0
//! In the place of `rust/helpers.c` and of what bindgen makes of its header and of KVM's.
#![allow(non_camel_case_types, non_upper_case_globals, reason = "names of C")]

pub(crate) const MMIO_EXT_ROOT_MAX_LEVEL: i32 = 5;
pub(crate) const MMIO_EXT_PAGE_SIZE: u64 = 4096;
pub(crate) const kvm_mmio_ext_access_KVM_MMIO_EXT_WRITE: u32 = 1;
pub(crate) const kvm_mmio_ext_access_KVM_MMIO_EXT_USERSPACE: u32 = 2;

#[derive(Clone, Copy)]
pub(crate) struct mmio_ext_pte {
    pub(crate) ptep: *const u64,
    pub(crate) pte: u64,
}

/// # Safety
///
/// None, but that of C.
pub(crate) unsafe fn mmio_ext_levels(_: u64) -> i32 {
    1
}

/// # Safety
///
/// None, but that of C.
pub(crate) unsafe fn mmio_ext_has_pse(_: u64) -> bool {
    false
}

/// # Safety
///
/// The pointers must be those of something that can be read.
pub(crate) unsafe fn mmio_ext_read_pte(from: *const u64, to: &mut u64) -> bool {
    // SAFETY: The caller says that `from` can be read.
    *to = unsafe { from.read() };
    true
}

/// # Safety
///
/// The pointers must be those of something that was read.
pub(crate) unsafe fn mmio_ext_code_is_current(
    ptes: *const mmio_ext_pte,
    code: *const u64,
    bytes: *const u64,
) -> bool {
    // SAFETY: The caller says that five entries, what they point to, 16 bytes of code and 16 of
    // `bytes` can be read.
    unsafe {
        ptes_are_current(ptes) && code.cast::<[u64; 2]>().read() == bytes.cast::<[u64; 2]>().read()
    }
}

/// # Safety
///
/// As for [`mmio_ext_code_is_current`], with room for what is read at `bytes`.
pub(crate) unsafe fn mmio_ext_read_code(
    ptes: *const mmio_ext_pte,
    code: *const u64,
    bytes: *mut u64,
) -> bool {
    // SAFETY: The caller says that five entries, what they point to and 16 bytes of code can be
    // read, and that there is room for these at `bytes`.
    unsafe {
        let same = ptes_are_current(ptes);
        if same {
            bytes
                .cast::<[u64; 2]>()
                .write(code.cast::<[u64; 2]>().read());
        }
        same
    }
}

/// # Safety
///
/// As for [`mmio_ext_code_is_current`].
unsafe fn ptes_are_current(ptes: *const mmio_ext_pte) -> bool {
    // SAFETY: The caller says that there are five entries, and that what they point to can be read.
    unsafe {
        std::slice::from_raw_parts(ptes, MMIO_EXT_ROOT_MAX_LEVEL as usize)
            .iter()
            .all(|pte| pte.ptep.read() == pte.pte)
    }
}
