// SPDX-License-Identifier: GPL-2.0

//! Where an instruction is, as the caches of code name it.

use crate::{
    addr::{Gva, PAGE_MASK},
    pure::decode::CodeKind, //
};

/// The address of an instruction, and which kind of code it is: the same bytes at the same address
/// are two instructions to 64-bit and to 32-bit code. As a number it takes no more than the address:
/// those of 32-bit code carry a bit with which no address is canonical.
///
/// # Examples
///
/// ```
/// use kvm_mmio_ext::pure::{code_address::CodeAddress, decode::CodeKind};
///
/// let long = CodeAddress::new(0x1000, CodeKind::Long);
/// let flat = CodeAddress::new(0x1000, CodeKind::Flat);
/// assert_ne!(long, flat);
/// assert_eq!((long.kind(), flat.kind()), (CodeKind::Long, CodeKind::Flat));
/// assert_eq!(long.gva(), flat.gva());
/// assert_eq!(CodeAddress::new(0xffff_ffff, CodeKind::Flat).next(3), 2);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeAddress(u64);

impl CodeAddress {
    /// Marks 32-bit code. Addresses have the bits above it as well, or neither.
    const FLAT: u64 = 1 << 62;

    /// No instruction's: it is neither canonical nor marked.
    pub const NOWHERE: Self = Self(1 << 63);

    /// Of the instruction at `rip`. That is a linear address: segments begin at 0.
    #[inline(always)]
    pub const fn new(rip: u64, kind: CodeKind) -> Self {
        match kind {
            CodeKind::Long => Self(rip),
            CodeKind::Flat => Self(rip as u32 as u64 | Self::FLAT),
        }
    }

    /// Which code it is of.
    pub const fn kind(self) -> CodeKind {
        match self.0 >> 62 {
            1 => CodeKind::Flat,
            _ => CodeKind::Long,
        }
    }

    /// The linear address.
    pub const fn gva(self) -> Gva {
        match self.kind() {
            CodeKind::Long => Gva(self.0),
            CodeKind::Flat => Gva(self.0 & !Self::FLAT),
        }
    }

    /// What RIP is after an instruction of `length` bytes.
    pub const fn next(self, length: u8) -> u64 {
        let next = self.gva().0.wrapping_add(length as u64);
        match self.kind() {
            CodeKind::Long => next,
            CodeKind::Flat => next as u32 as u64,
        }
    }

    /// The first one in its page.
    #[inline(always)]
    pub const fn page(self) -> Self {
        Self(self.0 & PAGE_MASK)
    }

    /// The distance from another one, which is not behind it.
    #[inline(always)]
    pub const fn since(self, start: Self) -> u64 {
        self.0.wrapping_sub(start.0)
    }

    /// A number that no other has, for hashing.
    #[inline(always)]
    pub const fn key(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_are_the_same() {
        let rips = [0, 0xfff, 0x1000, 0xffff_f000, 0xffff_ffff];
        let kernel = [0xffff_ffff_8000_0000, 0xff11_0000_0000_0000, u64::MAX];
        let all: Vec<_> = rips
            .into_iter()
            .flat_map(|rip| [CodeKind::Long, CodeKind::Flat].map(|kind| (rip, kind)))
            .chain(kernel.map(|rip| (rip, CodeKind::Long)))
            .collect();
        for (i, &(rip, kind)) in all.iter().enumerate() {
            let address = CodeAddress::new(rip, kind);
            assert_eq!((address.gva(), address.kind()), (Gva(rip), kind));
            assert_eq!(address.since(address.page()), rip & 0xfff);
            assert_eq!(address.page().kind(), kind);
            assert_ne!(address, CodeAddress::NOWHERE);
            for &(other, kind) in &all[..i] {
                assert_ne!(address, CodeAddress::new(other, kind));
            }
        }
    }

    #[test]
    fn wraps_where_its_code_does() {
        let next = |rip, kind| CodeAddress::new(rip, kind).next(2);
        assert_eq!(next(0xffff_fffe, CodeKind::Flat), 0);
        assert_eq!(next(0xffff_fffe, CodeKind::Long), 0x1_0000_0000);
        assert_eq!(next(u64::MAX - 1, CodeKind::Long), 0);
        // What is above does not count.
        assert_eq!(next(0x5_0000_1000, CodeKind::Flat), 0x1002);
    }
}
