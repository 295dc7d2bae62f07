// SPDX-License-Identifier: GPL-2.0
//! The instructions that make the accesses.

use std::fmt;

use iced_x86::IcedError;
use iced_x86::code_asm::{self as asm, AsmMemoryOperand, CodeAssembler};

/// What one instruction does; sizes in bytes. The value to be written is in RAX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insn {
    /// MOV or OUT from a register.
    Store(u32),
    /// MOV of an immediate of 4 bytes.
    StoreImmediate,
    /// MOV or IN to a register.
    Load(u32),
    /// MOVZX to 4 bytes.
    LoadZeroExtended(u32),
    /// MOVSX, or MOVSXD from 4 bytes, to 8 bytes.
    LoadSignExtended(u32),
    /// OR to memory of 4 bytes: a read, then a write.
    Or,
    /// XCHG of 4 bytes: a read, then a write.
    Exchange,
    /// STOS of 4 bytes.
    Stos,
    /// HLT.
    Halt,
    /// WRMSR of a register that KVM ignores.
    WriteMsr,
    /// INVD, which KVM answers before interrupts are on again.
    Invalidate,
}

/// MSR_IA32_UCODE_WRITE: KVM makes nothing of it.
const MSR: u32 = 0x79;

impl Insn {
    /// Whether it only reads.
    pub fn is_load(self) -> bool {
        matches!(
            self,
            Self::Load(_) | Self::LoadZeroExtended(_) | Self::LoadSignExtended(_)
        )
    }

    /// How often the device sees it.
    pub const fn accesses(self) -> u64 {
        match self {
            Self::Or | Self::Exchange => 2,
            _ => 1,
        }
    }

    /// Port I/O at DX.
    pub fn emit_port(self, a: &mut CodeAssembler) -> Result<(), IcedError> {
        match self {
            Self::Store(1) => a.out(asm::dx, asm::al),
            Self::Store(2) => a.out(asm::dx, asm::ax),
            Self::Store(4) => a.out(asm::dx, asm::eax),
            Self::Load(4) => a.in_(asm::eax, asm::dx),
            other => unreachable!("{other:?} by port I/O"),
        }
    }

    /// MMIO at `at`, which is at DI. Loads do not go to RAX, which keeps the value to be written.
    pub fn emit_mmio(
        self,
        a: &mut CodeAssembler,
        at: AsmMemoryOperand,
        value: u32,
    ) -> Result<(), IcedError> {
        match self {
            Self::Store(1) => a.mov(asm::byte_ptr(at), asm::al),
            Self::Store(2) => a.mov(asm::word_ptr(at), asm::ax),
            Self::Store(4) => a.mov(asm::dword_ptr(at), asm::eax),
            Self::Store(8) => a.mov(asm::qword_ptr(at), asm::rax),
            Self::StoreImmediate => a.mov(asm::dword_ptr(at), value),
            Self::Load(4) => a.mov(asm::ebx, asm::dword_ptr(at)),
            Self::Load(8) => a.mov(asm::rbx, asm::qword_ptr(at)),
            Self::LoadZeroExtended(1) => a.movzx(asm::ebx, asm::byte_ptr(at)),
            Self::LoadZeroExtended(2) => a.movzx(asm::ebx, asm::word_ptr(at)),
            Self::LoadSignExtended(1) => a.movsx(asm::rbx, asm::byte_ptr(at)),
            Self::LoadSignExtended(2) => a.movsx(asm::rbx, asm::word_ptr(at)),
            Self::LoadSignExtended(4) => a.movsxd(asm::rbx, asm::dword_ptr(at)),
            Self::Or => a.or(asm::dword_ptr(at), asm::eax),
            Self::Exchange => a.xchg(asm::dword_ptr(at), asm::ebx),
            Self::Stos => {
                a.stosd()?;
                a.sub(asm::rdi, 4)
            }
            other => unreachable!("{other:?} by MMIO"),
        }
    }
}

impl Insn {
    /// What is no access. Keeps the registers of the loop.
    pub fn emit_other(self, a: &mut CodeAssembler) -> Result<(), IcedError> {
        match self {
            Self::Halt => a.hlt(),
            Self::WriteMsr => {
                a.mov(asm::r8d, asm::ecx)?;
                a.mov(asm::ecx, MSR)?;
                a.wrmsr()?;
                a.mov(asm::ecx, asm::r8d)
            }
            Self::Invalidate => a.invd(),
            other => unreachable!("{other:?} is an access"),
        }
    }
}

impl fmt::Display for Insn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(4) => write!(f, "write"),
            Self::Store(1) => write!(f, "write of 1 byte"),
            Self::Store(size) => write!(f, "write of {size} bytes"),
            Self::StoreImmediate => write!(f, "write of an immediate"),
            Self::Load(4) => write!(f, "read"),
            Self::Load(size) => write!(f, "read of {size} bytes"),
            Self::LoadZeroExtended(1) => write!(f, "read of 1 byte by MOVZX"),
            Self::LoadZeroExtended(size) => write!(f, "read of {size} bytes by MOVZX"),
            Self::LoadSignExtended(1) => write!(f, "read of 1 byte by MOVSX"),
            Self::LoadSignExtended(2) => write!(f, "read of 2 bytes by MOVSX"),
            Self::LoadSignExtended(size) => write!(f, "read of {size} bytes by MOVSXD"),
            Self::Or => write!(f, "OR (read and write)"),
            Self::Exchange => write!(f, "XCHG (read and write)"),
            Self::Stos => write!(f, "write by STOS"),
            Self::Halt => write!(f, "HLT"),
            Self::WriteMsr => write!(f, "WRMSR"),
            Self::Invalidate => write!(f, "INVD"),
        }
    }
}
