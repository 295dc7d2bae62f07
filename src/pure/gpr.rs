// SPDX-License-Identifier: GPL-2.0

//! General purpose registers, and what loads make of them.

/// The number of RSP, which nothing here uses for data.
pub const RSP: u8 = 4;

/// A general purpose register or a part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register {
    /// The number, 0 to 15, never that of RSP.
    pub number: u8,
    /// Bits 8-15 are meant (AH, CH, DH, BH) rather than the low bits.
    pub high: bool,
}

/// How a loaded operand becomes a register's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extend {
    /// As loads of the operand's size do: 4 bytes clear the upper half, 1 and 2 leave the rest.
    Plain,
    /// MOVZX to a register of so many bytes.
    Zero(u8),
    /// MOVSX and MOVSXD to a register of so many bytes.
    Sign(u8),
}

impl Register {
    /// What becomes of the register's value `old` when `size` bytes are loaded.
    ///
    /// # Examples
    ///
    /// ```
    /// use kvm_mmio_ext::pure::gpr::{Extend, Register};
    ///
    /// let ah = Register { number: 0, high: true };
    /// assert_eq!(ah.loaded(0x1122_3344, 0xff, 1, Extend::Plain), 0x1122_ff44);
    /// // movsbq
    /// let rax = Register { number: 0, high: false };
    /// assert_eq!(rax.loaded(0, 0x80, 1, Extend::Sign(8)), -0x80_i64 as u64);
    /// ```
    #[inline(always)]
    pub fn loaded(self, old: u64, value: u64, size: u8, extend: Extend) -> u64 {
        let (value, size) = match extend {
            Extend::Plain => (value, size),
            Extend::Zero(to) => (value & mask(size), to),
            Extend::Sign(to) => {
                let unused = 64 - 8 * u32::from(size);
                ((((value << unused) as i64) >> unused) as u64, to)
            }
        };
        match size {
            1 if self.high => (old & !0xff00) | ((value & 0xff) << 8),
            1 | 2 => (old & !mask(size)) | (value & mask(size)),
            _ => value & mask(size),
        }
    }
}

/// The low `size` bytes of a word.
pub(super) const fn mask(size: u8) -> u64 {
    u64::MAX >> (64 - 8 * size as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_into_parts_of_registers() {
        let reg = |number, high| Register { number, high };
        let old = 0x1111_2222_3333_4444;
        let of = |r: Register, value, size, extend| r.loaded(old, value, size, extend);
        assert_eq!(
            of(reg(0, true), 0xab, 1, Extend::Plain),
            0x1111_2222_3333_ab44
        );
        assert_eq!(
            of(reg(0, false), 0xab, 1, Extend::Plain),
            0x1111_2222_3333_44ab
        );
        assert_eq!(
            of(reg(0, false), 0xabcd, 2, Extend::Plain),
            0x1111_2222_3333_abcd
        );
        assert_eq!(
            of(reg(0, false), 0x8000_0000, 4, Extend::Plain),
            0x8000_0000
        );
        assert_eq!(of(reg(0, false), 0x80, 1, Extend::Sign(4)), 0xffff_ff80);
        assert_eq!(
            of(reg(0, false), 0x80, 1, Extend::Sign(2)),
            0x1111_2222_3333_ff80
        );
        assert_eq!(
            of(reg(0, false), 0x8000_0000, 4, Extend::Sign(8)),
            0xffff_ffff_8000_0000
        );
        assert_eq!(of(reg(0, false), 0x80, 1, Extend::Zero(8)), 0x80);
    }
}
