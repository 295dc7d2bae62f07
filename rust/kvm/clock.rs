// SPDX-License-Identifier: GPL-2.0

//! Clocks, and the current process.

use core::arch::x86_64::_rdtsc;
use kvm_bindings as bindings;

/// The TSC.
#[inline(always)]
pub(crate) fn tsc() -> u64 {
    // SAFETY: Every processor that KVM runs on has it.
    unsafe { _rdtsc() }
}

/// Its frequency in kHz.
pub(crate) fn tsc_khz() -> u32 {
    // SAFETY: The function has no preconditions.
    unsafe { bindings::mmio_ext_tsc_khz() }
}

/// `CLOCK_BOOTTIME` in nanoseconds.
pub(crate) fn boottime() -> u64 {
    // SAFETY: The function has no preconditions.
    unsafe { bindings::mmio_ext_boottime() }
}

/// The current process, as the initial PID namespace names it.
pub(crate) fn tgid() -> u32 {
    // SAFETY: The function has no preconditions.
    unsafe { bindings::mmio_ext_tgid() }
}
