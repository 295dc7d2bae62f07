// SPDX-License-Identifier: GPL-2.0

//! Decoding of the instructions that access MMIO in practice: MOV, MOVZX, MOVSX and MOVSXD between
//! a register (or an immediate) and memory, in 64-bit mode and in 32-bit code with flat segments.
//!
//! Intel SDM, volume 2, chapter 2 "Instruction Format". Whatever is not decoded here is left to
//! KVM's emulator; nothing is decoded differently from there.

use crate::pure::gpr::{mask, Extend, Register, RSP};

/// The longest instruction, in bytes.
pub const MAX_LENGTH: usize = 15;

/// What the bytes of an instruction mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeKind {
    /// 64-bit code.
    Long,
    /// 32-bit code, all segments of which are the whole address space but for FS and GS.
    Flat,
}

/// An instruction with one operand in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Bytes of the instruction.
    pub length: u8,
    /// Bytes of the operand in memory: 1, 2, 4 or 8.
    pub size: u8,
    /// Which way it goes.
    pub operation: Operation,
    /// Where it is.
    pub address: Address,
}

/// What an instruction does with its operand in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Loads a register.
    Load {
        /// The register.
        register: Register,
        /// How the operand becomes the register's value.
        extend: Extend,
    },
    /// Stores a register.
    Store(Register),
    /// Stores a number.
    StoreImmediate(u64),
}

/// How the address of the operand is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// What is added to the rest.
    pub base: Base,
    /// The index register and the power of two that it is multiplied by.
    pub index: Option<(u8, u8)>,
    /// The displacement.
    pub displacement: i64,
    /// The address is cut to 32 bits.
    pub short: bool,
}

/// The base of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// None.
    None,
    /// A register, RSP included.
    Register(u8),
    /// The address of the next instruction.
    NextRip,
}

/// The prefixes of an instruction, and what code it is in.
#[derive(Clone, Copy)]
struct Prefixes {
    kind: CodeKind,
    operand_size: bool,
    /// Addresses have 32 bits.
    short_address: bool,
    rex: u8,
}

impl Prefixes {
    const fn none(kind: CodeKind) -> Self {
        Self {
            kind,
            operand_size: false,
            short_address: matches!(kind, CodeKind::Flat),
            rex: 0,
        }
    }

    const fn has_rex(&self) -> bool {
        self.rex != 0
    }

    /// REX.W, .R, .X or .B as the number that it adds to a register's: 8 or 0.
    const fn rex_bit(&self, bit: u32) -> u8 {
        (self.rex >> bit & 1) << 3
    }

    const fn wide(&self) -> bool {
        self.rex_bit(3) != 0
    }

    /// The operand size in bytes of instructions that are not about bytes.
    const fn size(&self) -> u8 {
        match (self.wide(), self.operand_size) {
            (true, _) => 8,
            (false, true) => 2,
            (false, false) => 4,
        }
    }
}

/// Reads the bytes of an instruction one after the other.
struct Bytes<'a> {
    bytes: &'a [u8],
    next: usize,
}

impl Bytes<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.next)?;
        self.next += 1;
        Some(byte)
    }

    /// A little-endian number of `size` bytes, sign-extended.
    fn signed(&mut self, size: u8) -> Option<i64> {
        let mut value = 0u64;
        for shift in 0..u32::from(size) {
            value |= u64::from(self.byte()?) << (8 * shift);
        }
        let unused = 64 - 8 * u32::from(size);
        Some((value << unused) as i64 >> unused)
    }
}

/// Decodes the instruction at the beginning of `bytes`, which may end before it does, of code of
/// this `kind`. `None` if it is none of those that are decoded here, or if it is not all there.
///
/// # Examples
///
/// ```
/// use kvm_mmio_ext::pure::decode::{decode, CodeKind, Operation};
/// use kvm_mmio_ext::pure::gpr::Register;
///
/// // mov %eax, 0x50(%rdi)
/// let store = decode(&[0x89, 0x47, 0x50], CodeKind::Long).unwrap();
/// assert_eq!((store.length, store.size), (3, 4));
/// assert_eq!(store.address.displacement, 0x50);
/// let eax = Register { number: 0, high: false };
/// assert_eq!(store.operation, Operation::Store(eax));
///
/// // xchg %eax, (%rdi) is the emulator's.
/// assert_eq!(decode(&[0x87, 0x07], CodeKind::Long), None);
/// ```
pub fn decode(bytes: &[u8], kind: CodeKind) -> Option<Access> {
    let mut bytes = Bytes {
        bytes: &bytes[..bytes.len().min(MAX_LENGTH)],
        next: 0,
    };
    let (prefixes, opcode) = decode_prefixes(&mut bytes, kind)?;
    let size = prefixes.size();

    match opcode {
        0x88 => modrm(&mut bytes, prefixes, 1, Form::Store),
        0x89 => modrm(&mut bytes, prefixes, size, Form::Store),
        0x8a => modrm(&mut bytes, prefixes, 1, Form::Load(Extend::Plain)),
        0x8b => modrm(&mut bytes, prefixes, size, Form::Load(Extend::Plain)),
        0x63 if prefixes.wide() => modrm(&mut bytes, prefixes, 4, Form::Load(Extend::Sign(8))),
        0xc6 => modrm(&mut bytes, prefixes, 1, Form::Immediate),
        0xc7 => modrm(&mut bytes, prefixes, size, Form::Immediate),
        0xa0 => absolute(&mut bytes, prefixes, 1, Form::Load(Extend::Plain)),
        0xa1 => absolute(&mut bytes, prefixes, size, Form::Load(Extend::Plain)),
        0xa2 => absolute(&mut bytes, prefixes, 1, Form::Store),
        0xa3 => absolute(&mut bytes, prefixes, size, Form::Store),
        0x0f => match bytes.byte()? {
            0xb6 => modrm(&mut bytes, prefixes, 1, Form::Load(Extend::Zero(size))),
            0xb7 => modrm(&mut bytes, prefixes, 2, Form::Load(Extend::Zero(size))),
            0xbe => modrm(&mut bytes, prefixes, 1, Form::Load(Extend::Sign(size))),
            0xbf => modrm(&mut bytes, prefixes, 2, Form::Load(Extend::Sign(size))),
            _ => None,
        },
        _ => None,
    }
}

/// The prefixes and the first byte of the opcode. REX counts only right before the opcode; a legacy
/// prefix behind it is no opcode that is decoded. In 32-bit code there is no REX, addresses of 16
/// bits and other segments than the usual ones are left alone.
fn decode_prefixes(bytes: &mut Bytes<'_>, kind: CodeKind) -> Option<(Prefixes, u8)> {
    let mut prefixes = Prefixes::none(kind);
    loop {
        match (kind, bytes.byte()?) {
            (_, 0x66) => prefixes.operand_size = true,
            (CodeKind::Long, 0x67) => prefixes.short_address = true,
            // ES, CS, SS and DS mean nothing in 64-bit mode.
            (CodeKind::Long, 0x26 | 0x2e | 0x36 | 0x3e) => (),
            (CodeKind::Long, rex @ 0x40..=0x4f) => {
                prefixes.rex = rex;
                return Some((prefixes, bytes.byte()?));
            }
            (_, opcode) => return Some((prefixes, opcode)),
        }
    }
}

/// What an opcode does, before its operands are known.
#[derive(Clone, Copy)]
enum Form {
    Load(Extend),
    Store,
    Immediate,
}

/// The rest of an instruction with a ModRM byte.
fn modrm(bytes: &mut Bytes<'_>, prefixes: Prefixes, size: u8, form: Form) -> Option<Access> {
    let modrm = bytes.byte()?;
    let (mode, reg) = (modrm >> 6, modrm >> 3 & 7);
    let address = decode_address(bytes, prefixes, mode, modrm & 7)?;

    let operation = match form {
        Form::Load(extend) => {
            // Only a register that is itself a byte can be a high one.
            let register_size = match extend {
                Extend::Plain => size,
                Extend::Zero(to) | Extend::Sign(to) => to,
            };
            Operation::Load {
                register: data_register(prefixes, reg, register_size)?,
                extend,
            }
        }
        Form::Store => Operation::Store(data_register(prefixes, reg, size)?),
        // The other values of the field are other instructions (XABORT, XBEGIN) or none.
        Form::Immediate if reg != 0 => return None,
        Form::Immediate => {
            let immediate = bytes.signed(size.min(4))?;
            Operation::StoreImmediate(immediate as u64 & mask(size))
        }
    };
    finish(bytes, size, operation, address)
}

/// The rest of a MOV between the accumulator and an absolute address.
fn absolute(bytes: &mut Bytes<'_>, prefixes: Prefixes, size: u8, form: Form) -> Option<Access> {
    let short = prefixes.short_address;
    let address = Address {
        base: Base::None,
        index: None,
        displacement: bytes.signed(if short { 4 } else { 8 })?,
        short,
    };
    let register = Register {
        number: 0,
        high: false,
    };
    let operation = match form {
        Form::Load(extend) => Operation::Load { register, extend },
        _ => Operation::Store(register),
    };
    finish(bytes, size, operation, address)
}

fn finish(bytes: &Bytes<'_>, size: u8, operation: Operation, address: Address) -> Option<Access> {
    Some(Access {
        length: bytes.next as u8,
        size,
        operation,
        address,
    })
}

/// The register of a ModRM byte's reg field.
fn data_register(prefixes: Prefixes, reg: u8, size: u8) -> Option<Register> {
    let high = size == 1 && !prefixes.has_rex() && reg >= 4;
    let number = if high {
        reg - 4
    } else {
        reg | prefixes.rex_bit(2)
    };
    (high || number != RSP).then_some(Register { number, high })
}

/// The address of a ModRM byte, with what follows it: SIB and displacement.
fn decode_address(bytes: &mut Bytes<'_>, prefixes: Prefixes, mode: u8, rm: u8) -> Option<Address> {
    // Not in memory.
    if mode == 3 {
        return None;
    }

    let (base, index) = match rm {
        4 => decode_sib(bytes, prefixes, mode)?,
        5 if mode == 0 => match prefixes.kind {
            CodeKind::Long => (Base::NextRip, None),
            CodeKind::Flat => (Base::None, None),
        },
        _ => (Base::Register(rm | prefixes.rex_bit(0)), None),
    };
    let displacement = match mode {
        1 => bytes.signed(1)?,
        2 => bytes.signed(4)?,
        _ if matches!(base, Base::Register(_)) => 0,
        _ => bytes.signed(4)?,
    };
    Some(Address {
        base,
        index,
        displacement,
        short: prefixes.short_address,
    })
}

/// The base and the index of a SIB byte.
fn decode_sib(
    bytes: &mut Bytes<'_>,
    prefixes: Prefixes,
    mode: u8,
) -> Option<(Base, Option<(u8, u8)>)> {
    let sib = bytes.byte()?;
    let index = (sib >> 3 & 7) | prefixes.rex_bit(1);
    let base = match sib & 7 {
        5 if mode == 0 => Base::None,
        base => Base::Register(base | prefixes.rex_bit(0)),
    };
    Some((base, (index != RSP).then_some((index, sib >> 6))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(bytes: &[u8]) -> Access {
        decode(bytes, CodeKind::Long).unwrap()
    }

    #[test]
    fn the_usual_kick() {
        // mov %ax, (%rdi)
        let access = store(&[0x66, 0x89, 0x07, 0xcc]);
        assert_eq!((access.length, access.size), (3, 2));
        assert_eq!(access.address.base, Base::Register(7));
        assert_eq!(
            (access.address.index, access.address.displacement),
            (None, 0)
        );
    }

    #[test]
    fn an_immediate_is_sign_extended() {
        // movq $-2, 8(%rax,%rcx,4)
        let access = store(&[0x48, 0xc7, 0x44, 0x88, 0x08, 0xfe, 0xff, 0xff, 0xff]);
        assert_eq!(access.operation, Operation::StoreImmediate(-2i64 as u64));
        assert_eq!(access.length, 9);
        assert_eq!(access.address.base, Base::Register(0));
        assert_eq!(access.address.index, Some((1, 2)));
        assert_eq!(access.address.displacement, 8);
    }

    #[test]
    fn rip_relative_counts_from_the_end() {
        // movl $1, 0x10(%rip): the displacement is followed by the immediate.
        let access = store(&[0xc7, 0x05, 0x10, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(access.length, 10);
        assert_eq!(access.address.base, Base::NextRip);
        assert_eq!(access.address.displacement, 0x10);
    }

    #[test]
    fn refuses_what_is_not_a_plain_move() {
        for bytes in [
            &[0xf0, 0x89, 0x07][..],   // LOCK
            &[0xf3, 0xa4],             // rep movsb
            &[0x64, 0x89, 0x07],       // FS
            &[0x89, 0xc0],             // register to register
            &[0x09, 0x07],             // or
            &[0x89, 0x27],             // mov %esp, (%rdi)
            &[0xc7, 0xf8, 0, 0, 0, 0], // xbegin
            &[0x48, 0x66, 0x89, 0x07], // a void REX
            &[0x89],                   // cut off
            &[0xc7, 0x07, 0, 0, 0],    // cut off
            &[0x62, 0xf1, 0x7c, 0x48], // EVEX
        ] {
            assert_eq!(decode(bytes, CodeKind::Long), None, "{bytes:x?}");
        }
    }

    #[test]
    fn code_of_32_bits() {
        let decode = |bytes: &[u8]| decode(bytes, CodeKind::Flat);
        // mov %eax, 0xfebf0010: as a ModRM byte has it, and without one
        for bytes in [
            &[0x89, 0x05, 0x10, 0, 0xbf, 0xfe][..],
            &[0xa3, 0x10, 0, 0xbf, 0xfe],
        ] {
            let access = decode(bytes).unwrap();
            assert_eq!((access.length.into(), access.size), (bytes.len(), 4));
            assert_eq!(access.address.base, Base::None);
            assert_eq!(access.address.displacement as u32, 0xfebf_0010);
            assert!(access.address.short);
        }
        for bytes in [
            &[0x48, 0x89, 0x07][..], // dec %eax
            &[0x67, 0x89, 0x07],     // mov %eax, (%bx)
            &[0x26, 0x89, 0x07],     // mov %eax, %es:(%edi)
            &[0x3e, 0x89, 0x07],     // mov %eax, %ds:(%edi)
            &[0x63, 0x07],           // arpl %eax, (%edi)
        ] {
            assert_eq!(decode(bytes), None, "{bytes:x?}");
        }
    }

    #[test]
    fn never_longer_than_the_limit() {
        let mut bytes = [0x2e; 20];
        bytes[14] = 0x89;
        bytes[15] = 0x07;
        assert_eq!(decode(&bytes, CodeKind::Long), None);
        bytes[13] = 0x89;
        bytes[14] = 0x07;
        assert_eq!(decode(&bytes, CodeKind::Long).map(|a| a.length), Some(15));
    }
}
