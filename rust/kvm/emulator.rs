// SPDX-License-Identifier: GPL-2.0

//! What KVM's instruction emulator knows of the access that it has done.
//!
//! C header: `arch/x86/kvm/kvm_emulate.h`, `struct x86_emulate_ctxt`.

use crate::heat::{
    Direction::{Read, Unknown, Write},
    Kind,
    Outcome::{EmulatedKernel, EmulatedUserspace}, //
};
use core::marker::PhantomData;
use kvm_bindings as bindings;

/// The emulator of a vCPU.
///
/// # Invariants
///
/// `ctxt` points to a live emulator, in whose vCPU's thread the value is used.
pub(super) struct Emulator<'a> {
    ctxt: *mut bindings::x86_emulate_ctxt,
    _vcpu: PhantomData<&'a ()>,
}

impl Emulator<'_> {
    /// # Safety
    ///
    /// `ctxt` must point to the emulator of a vCPU that lives as long as the value. The caller must
    /// be in that vCPU's thread.
    #[inline(always)]
    pub(super) unsafe fn new(ctxt: *mut bindings::x86_emulate_ctxt) -> Self {
        // INVARIANT: By the contract of this function.
        Self {
            ctxt,
            _vcpu: PhantomData,
        }
    }

    /// Forgets the operands of the last instruction, lest they are taken for those of one that
    /// could not even be decoded.
    #[inline(always)]
    pub(super) fn forget(&self) {
        // SAFETY: By the type's invariants.
        unsafe {
            (*self.ctxt).src.type_ = bindings::operand_OP_NONE;
            (*self.ctxt).dst.type_ = bindings::operand_OP_NONE;
        }
    }

    /// Kind and size in bytes of an access that was completed.
    ///
    /// An instruction whose destination was read before is a read, which it does first. (POP to
    /// memory is taken for one, as it reads the stack.)
    #[inline(always)]
    pub(super) fn done(&self) -> (Kind, u8) {
        const UNKNOWN: (Kind, u8) = (Kind::new(EmulatedKernel, Unknown), 0);
        const READ: Kind = Kind::new(EmulatedKernel, Read);
        const WRITE: Kind = Kind::new(EmulatedKernel, Write);

        match self.has_memory() {
            (true, false) => (READ, self.src_bytes()),
            (false, true) if self.has_read() => (READ, self.dst_bytes()),
            (false, true) => (WRITE, self.dst_bytes()),
            _ => UNKNOWN,
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
            // It is not known as an operand, like the stack of a PUSH.
            _ => UNKNOWN,
        }
    }

    /// Whether source and destination are in memory. Neither is if there was an exception.
    #[inline(always)]
    fn has_memory(&self) -> (bool, bool) {
        // SAFETY: By the type's invariants.
        let (src, dst, failed) = unsafe {
            (
                (*self.ctxt).src.type_,
                (*self.ctxt).dst.type_,
                (*self.ctxt).have_exception,
            )
        };
        if failed {
            return (false, false);
        }
        (
            src == bindings::operand_OP_MEM,
            dst == bindings::operand_OP_MEM,
        )
    }

    /// Whether memory was read.
    #[inline(always)]
    fn has_read(&self) -> bool {
        // SAFETY: By the type's invariants.
        unsafe { (*self.ctxt).mem_read.end != 0 }
    }

    #[inline(always)]
    fn src_bytes(&self) -> u8 {
        // SAFETY: By the type's invariants.
        unsafe { (*self.ctxt).src.bytes as u8 }
    }

    #[inline(always)]
    fn dst_bytes(&self) -> u8 {
        // SAFETY: By the type's invariants.
        unsafe { (*self.ctxt).dst.bytes as u8 }
    }
}
