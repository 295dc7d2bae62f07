// SPDX-License-Identifier: GPL-2.0
//! In the place of `rust/helpers.c` and of what bindgen makes of its header.

use super::Kvm;
use crate::addr::{Gpa, Gva};
use std::rc::Rc;

pub(crate) const MMIO_EXT_ROOT_MAX_LEVEL: i32 = 5;
pub(crate) const MMIO_EXT_PAGE_SIZE: u64 = 4096;
pub(crate) const MMIO_EXT_INVALID_GPA: u64 = !0;

#[allow(non_camel_case_types)]
#[derive(Clone, Copy)]
pub(crate) struct mmio_ext_pte {
    pub(crate) ptep: *const u64,
    pub(crate) pte: u64,
}

#[allow(non_camel_case_types)]
#[derive(Clone, Copy)]
pub(crate) struct mmio_ext_fetch {
    pub(crate) bytes: [u64; 2],
    pub(crate) code: *const u64,
    pub(crate) ptes: [mmio_ext_pte; 5],
}

#[allow(non_camel_case_types)]
#[derive(Clone, Copy)]
pub(crate) struct mmio_ext_doorbell {
    pub(crate) generation: u64,
    pub(crate) gpa: u64,
    pub(crate) val: u64,
    pub(crate) len: u32,
    pub(crate) dev_idx: i32,
}

#[allow(non_camel_case_types)]
#[derive(Clone, Copy)]
pub(crate) struct mmio_ext_vacancy {
    pub(crate) generation: u64,
    pub(crate) gpa: u64,
    pub(crate) len: u32,
    pub(crate) vacant: bool,
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
pub(crate) unsafe fn mmio_ext_translate_fetch(kvm: Rc<Kvm>, gva: u64, _: bool) -> u64 {
    kvm.translate_fetch(Gva(gva)).0
}

/// # Safety
///
/// None, but that of C.
pub(crate) unsafe fn mmio_ext_user_pointer(kvm: Rc<Kvm>, gpa: u64) -> *const u64 {
    kvm.user_pointer(Gpa(gpa))
        .map_or(std::ptr::null(), |word| word)
}

/// # Safety
///
/// There must be `count` words at both places.
pub(crate) unsafe fn mmio_ext_read_user(from: *const u64, to: *mut u64, count: u32) -> bool {
    // SAFETY: By the contract of this function.
    unsafe { std::ptr::copy_nonoverlapping(from, to, count as usize) };
    true
}

/// # Safety
///
/// The pointers must be those of something that was read.
pub(crate) unsafe fn mmio_ext_fetch_is_current(fetch: &mmio_ext_fetch) -> bool {
    // SAFETY: By the contract of this function.
    unsafe {
        fetch.code.cast::<[u64; 2]>().read() == fetch.bytes
            && fetch.ptes.iter().all(|pte| pte.ptep.read() == pte.pte)
    }
}

/// # Safety
///
/// None, but that of C.
pub(crate) unsafe fn mmio_ext_ring_doorbell(kvm: Rc<Kvm>, doorbell: &mmio_ext_doorbell) -> i32 {
    match kvm.ring_doorbell(doorbell) {
        true => 0,
        false => -1,
    }
}

/// # Safety
///
/// None, but that of C.
pub(crate) unsafe fn mmio_ext_remember_doorbell(
    kvm: Rc<Kvm>,
    doorbell: &mut mmio_ext_doorbell,
) -> bool {
    kvm.remember_doorbell(doorbell)
}

/// # Safety
///
/// None, but that of C.
pub(crate) unsafe fn mmio_ext_find_vacancy(kvm: Rc<Kvm>, vacancy: &mut mmio_ext_vacancy) {
    kvm.find_vacancy(vacancy);
}
