// SPDX-License-Identifier: GPL-2.0

//! What a VM exit reports, and what handling it ends in.
//!
//! C header: [`arch/x86/include/asm/kvm_mmio_ext.h`](srctree/arch/x86/include/asm/kvm_mmio_ext.h),
//! which the kernel patch adds.

use super::vcpu::Vcpu;
use core::{
    ffi::c_void,
    marker::PhantomData,
    ptr, //
};
use kernel::{
    ffi::c_int,
    prelude::*, //
};
use kvm_bindings as bindings;

/// What handling a VM exit ends in, in the form that KVM wants to have it:
/// `enum kvm_mmio_ext_verdict`, or a negative errno that fails `KVM_RUN`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit(c_int);

impl Exit {
    /// The extension does not handle it and nothing has happened.
    pub(crate) const PASS: Self = Self(bindings::kvm_mmio_ext_verdict_KVM_MMIO_EXT_PASS as c_int);

    /// Run the guest.
    pub(crate) const RESUME: Self =
        Self(bindings::kvm_mmio_ext_verdict_KVM_MMIO_EXT_RESUME as c_int);

    /// Exit to userspace.
    pub(crate) const USERSPACE: Self =
        Self(bindings::kvm_mmio_ext_verdict_KVM_MMIO_EXT_EXIT as c_int);

    /// Fail `KVM_RUN`.
    pub(crate) fn error(error: Error) -> Self {
        Self(error.to_errno())
    }

    /// From what a function returns that KVM uses as an exit handler.
    #[inline(always)]
    pub(super) const fn from_handler(r: c_int) -> Self {
        match r {
            1.. => Self::RESUME,
            0 => Self::USERSPACE,
            _ => Self(r),
        }
    }

    /// What such a function returns, of an exit that was handled.
    pub(super) const fn to_handler(self) -> c_int {
        match self {
            Self::USERSPACE => 0,
            Self(verdict) => verdict,
        }
    }

    /// The form that KVM wants to have.
    #[inline(always)]
    pub(super) const fn raw(self) -> c_int {
        self.0
    }
}

/// What handling a page fault ends in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageFault {
    /// `RET_PF_RETRY`: run the guest, it may fault again.
    Retry,
    /// `RET_PF_EMULATE`: emulate the instruction.
    Emulate,
    /// `RET_PF_INVALID`: fault the page in.
    Invalid,
}

/// The bytes of an instruction as the processor reports them with an exit (AMD's decode assists,
/// APM volume 2, section 15.8.4): 15 as a rule, fewer where the next page cannot be read, none if
/// the code cannot be read at all. What is behind them is of an earlier exit.
///
/// # Invariants
///
/// `bytes` is null, or valid for reads of [`AssistBytes::MAX`] bytes for `'a`.
#[derive(Clone, Copy)]
pub(crate) struct AssistBytes<'a> {
    bytes: *mut c_void,
    len: c_int,
    _bytes: PhantomData<&'a [u8; 15]>,
}

impl AssistBytes<'_> {
    /// How many there are at most, as many as an instruction may have.
    pub(crate) const MAX: usize = 15;

    /// None.
    pub(crate) const NONE: Self = Self {
        bytes: ptr::null_mut(),
        len: 0,
        _bytes: PhantomData,
    };

    /// The first `len` bytes are those of the instruction and of what follows it.
    ///
    /// # Safety
    ///
    /// `bytes` must be null, or valid for reads of [`AssistBytes::MAX`] bytes as long as the value lives.
    #[inline(always)]
    pub(crate) unsafe fn new(bytes: *mut c_void, len: c_int) -> Self {
        // INVARIANT: `bytes` is null, or valid for reads of 15 bytes as long as the value lives, by
        // the caller.
        Self {
            bytes,
            len,
            _bytes: PhantomData,
        }
    }

    /// How many bytes are those of the instruction or follow it, at most [`AssistBytes::MAX`].
    pub(crate) fn len(&self) -> usize {
        usize::try_from(self.len).unwrap_or(0).min(Self::MAX)
    }

    /// As C has it, which trusts the length.
    pub(super) fn raw(&self) -> (*mut c_void, c_int) {
        (self.bytes, self.len)
    }

    /// The bytes 0 to 7 and 7 to 14, if there are at least `wanted`, from 1 to [`AssistBytes::MAX`].
    /// Those from [`AssistBytes::len`] on mean nothing.
    #[inline(always)]
    pub(crate) fn words(&self, wanted: u64) -> Option<[u64; 2]> {
        if self.bytes.is_null() || i64::from(self.len) < wanted as i64 {
            return None;
        }
        let bytes = self.bytes.cast::<u8>();
        // SAFETY: By the type's invariant there are 15 bytes, and 7 + 8 is 15.
        Some(unsafe {
            [
                bytes.cast::<u64>().read_unaligned(),
                bytes.add(7).cast::<u64>().read_unaligned(),
            ]
        })
    }
}

/// What the processor was doing when it took an exit, `enum kvm_mmio_ext_flags`.
#[derive(Clone, Copy)]
pub(crate) struct Mode(u32);

const CS_L: u32 = bindings::kvm_mmio_ext_flags_KVM_MMIO_EXT_CS_L;
const TF: u32 = bindings::kvm_mmio_ext_flags_KVM_MMIO_EXT_TF;
const NO_FETCH: u32 = bindings::kvm_mmio_ext_flags_KVM_MMIO_EXT_NO_FETCH;
const FLAT: u32 = bindings::kvm_mmio_ext_flags_KVM_MMIO_EXT_FLAT;

impl Mode {
    pub(crate) const fn new(flags: u32) -> Self {
        Self(flags)
    }

    /// Whether the processor has said where the next instruction is.
    #[inline(always)]
    pub(crate) const fn can_skip(self) -> bool {
        self.0 & bindings::kvm_mmio_ext_flags_KVM_MMIO_EXT_CAN_SKIP != 0
    }

    /// Whether CS is that of 64-bit code, RFLAGS.TF is clear and the instruction at RIP can be read:
    /// neither is memory encrypted nor does an enclave run.
    ///
    /// RFLAGS.RF says nothing: a VM exit by an EPT misconfiguration or a page fault saves it as 1,
    /// so that the instruction does not meet its own breakpoint again if it is resumed (Intel SDM
    /// volume 3, "Saving RIP, RSP, RFLAGS, and SSP"). That breakpoint has been looked at before the
    /// fault, see `kvm_vcpu_check_code_breakpoint()`; retiring clears RF.
    #[inline(always)]
    pub(super) const fn is_plain_64_bit(self) -> bool {
        self.0 & (CS_L | TF | NO_FETCH) == CS_L
    }

    /// The same of 32-bit code in flat segments.
    pub(super) const fn is_plain_flat(self) -> bool {
        self.0 & (FLAT | TF | NO_FETCH) == FLAT
    }

    /// The mode of what is known to be 64-bit code, which nobody need ask again.
    #[inline(always)]
    pub(crate) const fn as_64_bit(self) -> Self {
        Self(self.0 & !FLAT)
    }

    /// Whether CS is that of 32-bit code, and CS, DS and SS are the whole address space and may be used
    /// for everything: no check of theirs can fail, and offsets are linear addresses.
    #[inline(always)]
    pub(crate) const fn is_flat(self) -> bool {
        self.0 & FLAT != 0
    }

    /// Whether RFLAGS.AC is set.
    #[inline(always)]
    pub(super) const fn alignment_checked(self) -> bool {
        self.0 & bindings::kvm_mmio_ext_flags_KVM_MMIO_EXT_AC != 0
    }

    /// Whether the CPL is 3.
    #[inline(always)]
    pub(crate) const fn is_user(self) -> bool {
        self.0 & bindings::kvm_mmio_ext_flags_KVM_MMIO_EXT_USER != 0
    }
}

/// The VM exit that is being handled.
///
/// # Invariants
///
/// `vcpu` points to the vCPU that has exited, which lives for `'a` and is in its own thread.
pub(crate) struct LastExit<'a> {
    tsc: u64,
    vcpu: *mut bindings::kvm_vcpu,
    _vcpu: PhantomData<&'a bindings::kvm_vcpu>,
}

impl LastExit<'_> {
    /// The TSC when the vCPU exited.
    #[inline(always)]
    pub(crate) fn tsc(&self) -> u64 {
        self.tsc
    }

    /// Whether userspace was asked since.
    #[inline(always)]
    pub(crate) fn userspace_was_asked(&self) -> bool {
        // SAFETY: By the type's invariants the vCPU is alive, and so is the page that `run` points
        // to. Userspace may change that at any time.
        let reason = unsafe { (&raw const (*(*self.vcpu).run).exit_reason).read_volatile() };
        // What `vcpu_run()` begins with.
        reason != bindings::KVM_EXIT_UNKNOWN
    }
}

impl<'a, S> Vcpu<'a, S> {
    /// The error code of a page fault that is due to a reserved bit.
    pub(crate) const PFERR_RSVD: u64 = bindings::MMIO_EXT_PFERR_RSVD;

    /// The bit of an error code that tells a write.
    pub(crate) const PFERR_WRITE: u64 = bindings::MMIO_EXT_PFERR_WRITE;

    /// Whether the extension handles page faults with this error code.
    pub(crate) const fn takes_error_code(error_code: u64) -> bool {
        error_code & !bindings::MMIO_EXT_PFERR_TAKEN == 0
    }

    /// The exit that is being handled.
    #[inline(always)]
    pub(crate) fn last_exit(&self) -> LastExit<'a> {
        // INVARIANT: By those of `Vcpu`.
        LastExit {
            tsc: self.exit_tsc(),
            vcpu: self.raw(),
            _vcpu: PhantomData,
        }
    }

    /// The TSC when the vCPU exited.
    #[inline(always)]
    pub(crate) fn exit_tsc(&self) -> u64 {
        // SAFETY: The vCPU is alive, and only its thread, this one, changes the field.
        unsafe { (*self.arch()).exit_tsc }
    }
}
