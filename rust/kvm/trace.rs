// SPDX-License-Identifier: GPL-2.0

//! What it takes to see an access: static keys and tracepoints.
//!
//! C header: `rust/observe.h`.

use super::{
    addr::{Gfn, Gpa, Gva},
    iodev::Write,
    vcpu::Vcpu, //
};
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
    static mmio_ext_instructions_key: Key;
    static __tracepoint_kvm_fast_mmio: tracepoint;
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

/// Whether heat is to be recorded: by the parameter `heat`, or as there is a [`HeatUser`].
#[inline(always)]
pub(crate) fn heat_is_on() -> bool {
    is_on!(mmio_ext_heat_key, Key)
}

/// As long as one exists, heat is recorded.
pub(crate) struct HeatUser(());

impl HeatUser {
    /// Sleeps.
    pub(crate) fn new() -> Self {
        // SAFETY: The function has no preconditions but a context that may sleep.
        unsafe { bindings::mmio_ext_heat_get() };
        Self(())
    }
}

impl Drop for HeatUser {
    fn drop(&mut self) {
        // SAFETY: `new()` has called the other one, once.
        unsafe { bindings::mmio_ext_heat_put() };
    }
}

/// Whether heat is to be recorded by instruction, as there is an [`InstructionUser`].
#[inline(always)]
pub(crate) fn instructions_are_told() -> bool {
    is_on!(mmio_ext_instructions_key, Key)
}

/// As long as one exists, heat tells instructions apart.
pub(crate) struct InstructionUser(());

impl InstructionUser {
    /// Sleeps.
    pub(crate) fn new() -> Self {
        // SAFETY: The function has no preconditions but a context that may sleep.
        unsafe { bindings::mmio_ext_instructions_get() };
        Self(())
    }
}

impl Drop for InstructionUser {
    fn drop(&mut self) {
        // SAFETY: `new()` has called the other one, once.
        unsafe { bindings::mmio_ext_instructions_put() };
    }
}

/// Whether somebody listens to KVM's tracepoint `kvm_page_fault`.
#[inline(always)]
pub(crate) fn page_fault_is_traced() -> bool {
    is_on!(__tracepoint_kvm_page_fault, tracepoint)
}

/// Whether somebody listens to KVM's tracepoint `kvm_mmio`.
#[inline(always)]
pub(crate) fn mmio_is_traced() -> bool {
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

    /// The tracepoint `kvm_mmio_ext:mmio_access`; `direction` and `outcome` as
    /// Documentation/interface.rst has them.
    #[cold]
    pub(crate) fn trace_access(self, gpa: Gpa, size: u8, direction: u8, outcome: u8) {
        // SAFETY: The function has no preconditions but a valid pointer.
        unsafe { bindings::mmio_ext_trace_access(&self.raw(), gpa.0, size, direction, outcome) };
    }

    /// The tracepoint `kvm_mmio_ext:mmio_miss`, for an MMIO SPTE that was stale, or gone.
    #[cold]
    pub(crate) fn trace_miss(self, addr: u64, is_virtual: bool, stale: bool) {
        // SAFETY: The function has no preconditions but a valid pointer.
        unsafe { bindings::mmio_ext_trace_miss(&self.raw(), addr, is_virtual, (!stale).into()) };
    }
}

impl<S> Vcpu<'_, S> {
    /// The tracepoint `kvmmmu:check_mmio_spte`, with the generations that MMIO SPTEs hold.
    pub(crate) fn trace_mmio_spte_check(&self, spte: u64, now: u32, made: u32) {
        // SAFETY: The function has no preconditions.
        unsafe { bindings::mmio_ext_trace_check_mmio_spte(spte, now, made) };
    }

    /// The tracepoint `kvmmmu:handle_mmio_page_fault`.
    pub(crate) fn trace_handle_mmio_page_fault(&self, gva: Gva, gfn: Gfn, access: u32) {
        // SAFETY: The function has no preconditions.
        unsafe { bindings::mmio_ext_trace_handle_mmio_page_fault(gva.0, gfn.0, access) };
    }

    /// The tracepoint `kvm:kvm_mmio`.
    #[cold]
    pub(crate) fn trace_mmio_write(&self, write: &Write) {
        // SAFETY: The function has no preconditions.
        unsafe { bindings::mmio_ext_trace_mmio_write(write.gpa.0, write.size.into(), write.value) };
    }

    /// The tracepoint `kvm:kvm_fast_mmio`.
    #[inline(always)]
    pub(crate) fn trace_fast_mmio(&self, gpa: Gpa) {
        if is_on!(__tracepoint_kvm_fast_mmio, tracepoint) {
            // SAFETY: The function has no preconditions.
            unsafe { bindings::mmio_ext_trace_fast_mmio(gpa.0) };
        }
    }

    /// The tracepoint `kvm:kvm_page_fault`.
    #[inline(always)]
    pub(crate) fn trace_page_fault(&self, gpa: Gpa, error_code: u64) {
        if page_fault_is_traced() {
            // SAFETY: The vCPU is alive and this is its thread.
            unsafe { bindings::mmio_ext_trace_page_fault(self.raw(), gpa.0, error_code) };
        }
    }
}
