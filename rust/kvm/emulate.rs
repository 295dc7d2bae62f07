// SPDX-License-Identifier: GPL-2.0

//! Ending an instruction, or leaving it to KVM's own code.
//!
//! Whoever has a [`Vcpu`] in an exit handler is in its thread, handling an exit, which is what all
//! of these functions want. C header:
//! [`arch/x86/include/asm/kvm_host.h`](srctree/arch/x86/include/asm/kvm_host.h).

use super::{
    exit_info::{AssistBytes, Exit},
    vcpu::Vcpu, //
};
use kvm_bindings as bindings;

impl<S> Vcpu<'_, S> {
    /// Moves RIP behind the instruction that has caused the exit.
    pub(crate) fn skip_emulated_instruction(&mut self) -> Exit {
        // SAFETY: The vCPU is alive and loaded, handling an exit in its thread.
        Exit::from_handler(unsafe { bindings::kvm_skip_emulated_instruction(self.raw()) })
    }

    /// Whether KVM's emulator knows the instruction that has caused a fault. True as well if it
    /// cannot be fetched, the emulator then injects the page fault.
    pub(crate) fn can_emulate_bytes(&mut self, insn: AssistBytes<'_>) -> bool {
        let (bytes, len) = insn.raw();
        // SAFETY: The vCPU is alive and loaded, handling an exit in its thread, and the bytes are
        // valid. It has a context of the emulator from when it was made until it is destroyed.
        unsafe {
            bindings::x86_decode_emulated_instruction(
                self.raw(),
                bindings::MMIO_EXT_EMULTYPE_PF,
                bytes,
                len,
            ) == bindings::MMIO_EXT_EMULATION_OK
                || (*(*self.arch()).emulate_ctxt).have_exception
        }
    }

    /// Emulates the instruction that has caused a fault at `addr`.
    #[inline(always)]
    pub(crate) fn x86_emulate_instruction(&mut self, addr: u64, insn: AssistBytes<'_>) -> Exit {
        let (bytes, len) = insn.raw();
        // SAFETY: The vCPU is alive and loaded, handling an exit in its thread, and the bytes are
        // valid.
        Exit::from_handler(unsafe {
            bindings::x86_emulate_instruction(
                self.raw(),
                addr,
                bindings::MMIO_EXT_EMULTYPE_PF,
                bytes,
                len,
            )
        })
    }

    /// Lets KVM handle a page fault.
    pub(crate) fn kvm_mmu_page_fault(
        &mut self,
        addr: u64,
        error_code: u64,
        insn: AssistBytes<'_>,
    ) -> Exit {
        let (bytes, len) = insn.raw();
        // SAFETY: The vCPU is alive and loaded, handling an exit in its thread, and the bytes are
        // valid.
        Exit::from_handler(unsafe {
            bindings::kvm_mmu_page_fault(self.raw(), addr, error_code, bytes, len)
        })
    }

    /// Ends an instruction and goes on at `next_rip`.
    #[inline(always)]
    pub(crate) fn retire(&mut self, next_rip: u64) -> Exit {
        // SAFETY: The vCPU is alive and loaded, handling an exit in its thread.
        unsafe { bindings::kvm_mmio_ext_retire(self.raw(), next_rip as _) };
        Exit::RESUME
    }

    /// The same for an instruction that userspace has had part in.
    pub(crate) fn retire_read(&mut self, next_rip: u64) -> Exit {
        // SAFETY: The vCPU is alive and loaded, completing userspace's I/O in its thread.
        Exit::from_handler(unsafe { bindings::kvm_mmio_ext_retire_read(self.raw(), next_rip as _) })
    }
}
