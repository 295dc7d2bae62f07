// SPDX-License-Identifier: GPL-2.0

//! What it takes to see an access: static keys, clocks, tracepoints.
//!
//! C header: `rust/observe.h`.

use crate::{
    addr::Gpa,
    fault::FaultAddress,
    heat::{Direction, Outcome}, //
};
use core::arch::x86_64::_rdtsc;
use kernel::bindings::{static_key_false, tracepoint};
use kvm_bindings as bindings;

/// A static key as a structure, which the kernel's macro wants.
#[repr(C)]
struct Key {
    key: static_key_false,
}

#[expect(improper_ctypes, reason = "bindgen's own types")]
extern "C" {
    static mmio_ext_heat_key: Key;
    static __tracepoint_kvm_mmio: tracepoint;
    static __tracepoint_kvm_page_fault: tracepoint;
    static __tracepoint_mmio_access: tracepoint;
    static __tracepoint_mmio_miss: tracepoint;
}

/// Whether a static key is on: a NOP where the kernel has jump labels. Without, the kernel's own
/// macro would call a function.
macro_rules! is_on {
    ($key:path, $type:ty) => {{
        // SAFETY: It is a static key that C defines.
        #[cfg(CONFIG_JUMP_LABEL)]
        let on = unsafe { kernel::jump_label::static_branch_unlikely!($key, $type, key) };
        // SAFETY: The variable is an aligned word that may change at any time.
        #[cfg(not(CONFIG_JUMP_LABEL))]
        let on = unsafe { (&raw const $key.key.key.enabled.counter).read_volatile() } > 0;
        on
    }};
}

/// Whether heat is to be recorded, the parameter `heat`.
#[inline(always)]
pub(crate) fn heat_is_on() -> bool {
    is_on!(mmio_ext_heat_key, Key)
}

/// Whether somebody listens to KVM's tracepoint `kvm_page_fault`.
#[inline(always)]
pub(super) fn page_fault_is_traced() -> bool {
    is_on!(__tracepoint_kvm_page_fault, tracepoint)
}

/// Whether somebody listens to KVM's tracepoint `kvm_mmio`.
#[inline(always)]
pub(super) fn mmio_is_traced() -> bool {
    is_on!(__tracepoint_kvm_mmio, tracepoint)
}

/// Whether somebody listens to the tracepoint `mmio_access`.
#[inline(always)]
pub(crate) fn access_is_traced() -> bool {
    is_on!(__tracepoint_mmio_access, tracepoint)
}

/// Whether somebody listens to the tracepoint `mmio_miss`.
#[inline(always)]
pub(crate) fn miss_is_traced() -> bool {
    is_on!(__tracepoint_mmio_miss, tracepoint)
}

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
pub(super) fn tgid() -> u32 {
    // SAFETY: The function has no preconditions.
    unsafe { bindings::mmio_ext_tgid() }
}

/// Names a vCPU in the tracepoints and in the statistics file.
#[derive(Clone, Copy)]
pub(crate) struct VcpuId {
    /// The VM, from 1 up.
    pub(crate) vm: u64,
    /// Its process.
    pub(crate) tgid: u32,
    /// The number that userspace has given to the vCPU.
    pub(crate) vcpu: u32,
}

impl VcpuId {
    fn raw(self) -> bindings::mmio_ext_vcpu_id {
        bindings::mmio_ext_vcpu_id {
            vm: self.vm,
            tgid: self.tgid,
            vcpu: self.vcpu,
        }
    }

    /// The tracepoint `kvm_mmio_ext:mmio_access`.
    #[cold]
    pub(crate) fn trace_access(self, gpa: Gpa, size: u8, direction: Direction, outcome: Outcome) {
        // SAFETY: The function has no preconditions but a valid pointer.
        unsafe {
            bindings::mmio_ext_trace_access(
                &self.raw(),
                gpa.0,
                size,
                direction as u8,
                outcome as u8,
            )
        };
    }

    /// The tracepoint `kvm_mmio_ext:mmio_miss`, for an MMIO SPTE that was stale, or gone.
    #[cold]
    pub(crate) fn trace_miss(self, addr: FaultAddress, stale: bool) {
        let is_virtual = matches!(addr, FaultAddress::Virtual(_));
        // SAFETY: The function has no preconditions but a valid pointer.
        unsafe {
            bindings::mmio_ext_trace_miss(&self.raw(), addr.raw(), is_virtual, (!stale).into())
        };
    }
}
