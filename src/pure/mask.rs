// SPDX-License-Identifier: GPL-2.0

//! The value and the masks that make an SPTE an MMIO SPTE, for each kind of page table.
//!
//! An MMIO SPTE must fault in a way that nothing else does: with an EPT misconfiguration, or with
//! a page fault that reports a reserved bit (`PFERR_RSVD_MASK`).

use core::fmt;

/// `PT_PRESENT_MASK`.
const PRESENT: u64 = 1 << 0;

/// `PT_WRITABLE_MASK | PT_USER_MASK`, in KVM's terms `ACC_WRITE_MASK | ACC_USER_MASK`.
const WRITE_USER: u64 = 1 << 1 | 1 << 2;

/// `VMX_EPT_RWX_MASK`.
const EPT_RWX: u64 = 0x7;

/// `VMX_EPT_MISCONFIG_WX_VALUE`: writable and executable but not readable is a misconfiguration
/// (Intel SDM, volume 3, "EPT Misconfigurations").
const EPT_WX: u64 = 0x6;

/// `VMX_EPT_SUPPRESS_VE_BIT`.
const EPT_SUPPRESS_VE: u64 = 1 << 63;

/// Width of a physical address in a page table entry, in bits. With a processor that has as many
/// there is no reserved bit.
const PTE_ADDRESS_BITS: u32 = 52;

/// What tells MMIO SPTEs from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioMask {
    /// The bits of `mask` that are set in an MMIO SPTE, 0 if there can be none.
    pub value: u64,
    /// The bits that an SPTE is compared in.
    pub mask: u64,
    /// The bits that hold the access rights of the guest's page tables.
    pub access: u64,
}

impl MmioMask {
    /// What KVM has until the first vendor module is loaded.
    pub const NONE: Self = Self {
        value: 0,
        mask: 0,
        access: 0,
    };

    /// For x86 page tables, i.e. shadow paging and NPT: a reserved bit of the physical address,
    /// and the present bit, without which the processor does not look at reserved bits.
    ///
    /// `maxphyaddr` is the width of a physical address as CPUID gives it, in bits, without what
    /// memory encryption takes away: those bits are not reserved.
    ///
    /// # Examples
    ///
    /// ```
    /// use kvm_mmio_ext::pure::mask::MmioMask;
    ///
    /// assert_eq!(MmioMask::paging(46).value, 1 << 51 | 1);
    /// // No bit is left that would be reserved.
    /// assert_eq!(MmioMask::paging(52).value, 0);
    /// ```
    pub const fn paging(maxphyaddr: u32) -> Self {
        let value = if maxphyaddr < PTE_ADDRESS_BITS {
            1 << 51 | PRESENT
        } else {
            0
        };
        Self {
            value,
            mask: value,
            access: WRITE_USER,
        }
    }

    /// For EPT: a misconfiguration. Bit 63 is compared because it is clear in MMIO SPTEs and set
    /// in non-present ones. A misconfiguration does not depend on the address width.
    pub const fn ept() -> Self {
        Self {
            value: EPT_WX,
            mask: EPT_RWX | EPT_SUPPRESS_VE,
            access: 0,
        }
    }

    /// For x86 page tables with SME or SEV switched on.
    ///
    /// `phys_bits` is the width that memory encryption has left, `c_bit` the number of the bit
    /// that says "encrypted": it is not reserved even if it is the first bit above `phys_bits`.
    ///
    /// # Examples
    ///
    /// ```
    /// use kvm_mmio_ext::pure::mask::MmioMask;
    ///
    /// // All bits above the address but the one that says "encrypted".
    /// let mask = MmioMask::sme(47, 47);
    /// assert_eq!(mask.value, 0b1111 << 48 | 1);
    /// ```
    pub const fn sme(phys_bits: u32, c_bit: u32) -> Self {
        let first = if c_bit == phys_bits {
            phys_bits + 1
        } else {
            phys_bits
        };
        let value = if first < PTE_ADDRESS_BITS {
            ((1 << PTE_ADDRESS_BITS) - (1 << first)) | PRESENT
        } else {
            0
        };
        Self {
            value,
            mask: value,
            access: WRITE_USER,
        }
    }

    /// The same without MMIO SPTEs, as `kvm.mmio_caching=0` wants it.
    pub const fn without_caching(self) -> Self {
        Self { value: 0, ..self }
    }
}

impl fmt::Display for MmioMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            value,
            mask,
            access,
        } = self;
        write!(f, "value {value:#x}, mask {mask:#x}, access {access:#x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `SPTE_MMIO_ALLOWED_MASK`: what `kvm_mmu_set_mmio_spte_mask()` accepts.
    const ALLOWED: u64 = 1 << 63 | ((1 << 52) - (1 << 12)) | 1 << 10 | 0x7;
    /// `SPTE_MMU_PRESENT_MASK`.
    const MMU_PRESENT: u64 = 1 << 11;
    /// `FROZEN_SPTE`.
    const FROZEN: u64 = 1 << 63 | 0x1a0;

    fn all() -> impl Iterator<Item = MmioMask> {
        let paging = (32..=52).map(MmioMask::paging);
        let sme = (32..=52).flat_map(|bits| (32..64).map(move |c| MmioMask::sme(bits, c)));
        paging.chain(sme).chain([MmioMask::ept()])
    }

    /// The conditions under which the C side would warn and switch MMIO SPTEs off.
    #[test]
    fn c_accepts_every_mask() {
        for m in all() {
            assert_eq!(m.mask & !ALLOWED, 0, "{m:x?}");
            assert_eq!(m.value & m.mask, m.value, "{m:x?}");
            assert_eq!(m.access >> 32, 0, "{m:x?}");
            assert!(m.value == 0 || FROZEN & m.mask != m.value, "{m:x?}");
            assert_eq!(m.mask & MMU_PRESENT, 0, "{m:x?}");
        }
    }

    #[test]
    fn no_mmio_spte_without_a_reserved_bit() {
        assert_eq!(MmioMask::paging(52).value, 0);
        assert_eq!(MmioMask::sme(52, 51).value, 0);
        assert_eq!(MmioMask::sme(51, 51).value, 0);
        assert_ne!(MmioMask::paging(51).value, 0);
        assert_ne!(MmioMask::sme(51, 47).value, 0);
    }

    /// Every set bit of the address is beyond what the processor takes for an address, and not
    /// the C-bit.
    #[test]
    fn only_reserved_bits() {
        let address = (1u64 << 52) - (1 << 12);
        for bits in 32..=52u32 {
            let legal = (1u64 << bits) - 1;
            assert_eq!(MmioMask::paging(bits).value & address & legal, 0);
            for c_bit in 32..52u32 {
                let m = MmioMask::sme(bits, c_bit);
                assert_eq!(m.value & address & legal, 0);
                if c_bit <= bits {
                    assert_eq!(m.value & 1 << c_bit, 0, "{bits} {c_bit}");
                }
            }
        }
    }
}
