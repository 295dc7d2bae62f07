// SPDX-License-Identifier: GPL-2.0

//! What KVM's instruction emulator knows of the access that it has done.
//!
//! C header: `arch/x86/kvm/kvm_emulate.h`, `struct x86_emulate_ctxt`.

use crate::heat::{
    Direction::{Read, Unknown, Write},
    Kind,
    Outcome::{EmulatedKernel, EmulatedUserspace}, //
};
use core::ptr::NonNull;
use kvm_bindings as bindings;

const MEMORY: bindings::operand__bindgen_ty_4 = bindings::operand_OP_MEM;

/// The emulator of a vCPU.
///
/// # Invariants
///
/// It lives as long as the value is used, and only the vCPU's thread, which uses the value, uses it.
pub(super) struct Emulator(NonNull<bindings::x86_emulate_ctxt>);

impl Emulator {
    /// # Safety
    ///
    /// `ctxt` must point to the emulator of a vCPU that lives as long as the value is used. The
    /// caller must be in that vCPU's thread, and not use the value while the emulator runs.
    #[inline(always)]
    pub(super) unsafe fn new(ctxt: *mut bindings::x86_emulate_ctxt) -> Self {
        // INVARIANT: By the contract of this function.
        // SAFETY: The same.
        Self(unsafe { NonNull::new_unchecked(ctxt) })
    }

    /// Forgets the operands of the last instruction, lest they are taken for those of one that
    /// could not even be decoded.
    #[inline(always)]
    pub(super) fn forget(&mut self) {
        let ctxt = self.0.as_ptr();
        // SAFETY: By the type's invariants.
        unsafe {
            (*ctxt).src.type_ = bindings::operand_OP_NONE;
            (*ctxt).src2.type_ = bindings::operand_OP_NONE;
            (*ctxt).dst.type_ = bindings::operand_OP_NONE;
        }
    }

    /// Kind and size in bytes of an access that was completed.
    ///
    /// An instruction whose destination was read before is a read, which it does first. (PUSH and
    /// POP of an operand in memory are taken for reads, as they read that or the stack.)
    #[inline(always)]
    pub(super) fn done(&self) -> (Kind, u8) {
        const UNKNOWN: (Kind, u8) = (Kind::new(EmulatedKernel, Unknown), 0);
        const READ: Kind = Kind::new(EmulatedKernel, Read);
        const WRITE: Kind = Kind::new(EmulatedKernel, Write);

        match self.has_memory() {
            (true, false) => (READ, self.src_bytes()),
            (false, true) if self.has_read() => (READ, self.dst_bytes()),
            (false, true) => (WRITE, self.dst_bytes()),
            (true, true) => UNKNOWN,
            (false, false) => self.src2_bytes().map_or(UNKNOWN, |size| (READ, size)),
        }
    }

    /// The same of an access that userspace is to complete, if that is not a failure.
    #[inline(always)]
    pub(super) fn left(&self, is_write: Option<bool>) -> (Kind, u8) {
        const UNKNOWN: (Kind, u8) = (Kind::new(EmulatedUserspace, Unknown), 0);
        const READ: Kind = Kind::new(EmulatedUserspace, Read);
        const WRITE: Kind = Kind::new(EmulatedUserspace, Write);

        match (is_write, self.has_memory()) {
            (Some(true), (_, true)) => (WRITE, self.dst_bytes()),
            (Some(false), (true, _)) => (READ, self.src_bytes()),
            (Some(false), (_, true)) => (READ, self.dst_bytes()),
            (Some(false), _) => self.src2_bytes().map_or(UNKNOWN, |size| (READ, size)),
            // The size is not known, like that of what a PUSH puts on the stack.
            _ => UNKNOWN,
        }
    }

    /// Whether source and destination are in memory. Neither is if there was an exception.
    #[inline(always)]
    fn has_memory(&self) -> (bool, bool) {
        let ctxt = self.0.as_ptr();
        // SAFETY: By the type's invariants.
        let (src, dst) = unsafe { ((*ctxt).src.type_, (*ctxt).dst.type_) };
        if self.has_failed() {
            return (false, false);
        }
        (src == MEMORY, dst == MEMORY)
    }

    /// Whether there was an exception.
    #[inline(always)]
    fn has_failed(&self) -> bool {
        // SAFETY: By the type's invariants.
        unsafe { (*self.0.as_ptr()).have_exception }
    }

    /// Whether memory was read.
    #[inline(always)]
    fn has_read(&self) -> bool {
        // SAFETY: By the type's invariants.
        unsafe { (*self.0.as_ptr()).mem_read.end != 0 }
    }

    #[inline(always)]
    fn src_bytes(&self) -> u8 {
        // SAFETY: By the type's invariants.
        unsafe { (*self.0.as_ptr()).src.bytes as u8 }
    }

    /// The size of the second source, that of MUL, DIV and the like, if it is in memory.
    #[inline(always)]
    fn src2_bytes(&self) -> Option<u8> {
        let ctxt = self.0.as_ptr();
        // SAFETY: By the type's invariants.
        let (src2, bytes) = unsafe { ((*ctxt).src2.type_, (*ctxt).src2.bytes) };
        (src2 == MEMORY && !self.has_failed()).then_some(bytes as u8)
    }

    #[inline(always)]
    fn dst_bytes(&self) -> u8 {
        // SAFETY: By the type's invariants.
        unsafe { (*self.0.as_ptr()).dst.bytes as u8 }
    }
}
