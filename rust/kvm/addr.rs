// SPDX-License-Identifier: GPL-2.0

//! Guest addresses.
//!
//! KVM's `gva_t`, `gpa_t` and `gfn_t` are all plain integers; as distinct types they cannot be
//! mixed up. C header: [`include/linux/kvm_types.h`](srctree/include/linux/kvm_types.h).

/// Bits of an offset within a page. MMIO SPTEs exist for 4 KiB pages only.
pub const PAGE_SHIFT: u32 = 12;

/// Bits of an address that select the page.
pub const PAGE_MASK: u64 = !((1 << PAGE_SHIFT) - 1);

/// A guest virtual (linear) address, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gva(pub u64);

impl Gva {
    /// The first byte of the page that the address lies in.
    pub const fn page(self) -> Self {
        Self(self.0 & PAGE_MASK)
    }

    /// Whether an address of `bits` bits, 48 or 57, is extended by its sign, as a processor asks:
    /// Intel SDM, volume 1, "Canonical Addressing".
    #[inline(always)]
    pub const fn is_canonical(self, bits: u32) -> bool {
        let unused = u64::BITS - bits;
        (self.0 << unused) as i64 >> unused == self.0 as i64
    }
}

/// A guest physical address, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gpa(pub u64);

impl Gpa {
    /// The first byte of the page that the address lies in.
    pub const fn page(self) -> Self {
        Self(self.0 & PAGE_MASK)
    }

    /// The page frame that the address lies in.
    pub const fn gfn(self) -> Gfn {
        Gfn(self.0 >> PAGE_SHIFT)
    }
}

/// A guest page frame number, in pages of 4 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gfn(pub u64);

impl Gfn {
    /// The first byte of the page.
    pub const fn gpa(self) -> Gpa {
        Gpa(self.0 << PAGE_SHIFT)
    }

    /// Where a virtual address is that is mapped to the page.
    pub const fn gpa_of(self, gva: Gva) -> Gpa {
        Gpa(self.gpa().0 | gva.0 & !PAGE_MASK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_of_an_address() {
        assert_eq!(
            Gva(0xffff_8000_0000_1fff).page(),
            Gva(0xffff_8000_0000_1000)
        );
        assert_eq!(Gpa(0xfee0_0fff).gfn(), Gfn(0xfee00));
        assert_eq!(Gfn(0xfee00).gpa(), Gpa(0xfee0_0000));
        assert_eq!(Gfn(0xfee00).gpa_of(Gva(0x1fff)), Gpa(0xfee0_0fff));
    }

    #[test]
    fn both_halves_are_canonical() {
        for bits in [48, 57] {
            let half = 1u64 << (bits - 1);
            for good in [0, half - 1, half.wrapping_neg(), u64::MAX] {
                assert!(Gva(good).is_canonical(bits), "{good:#x}, {bits} bits");
            }
            for bad in [half, 1 << 63, half.wrapping_neg() - 1, u64::MAX >> 1] {
                assert!(!Gva(bad).is_canonical(bits), "{bad:#x}, {bits} bits");
            }
        }
        // Where Linux maps devices with 5-level paging.
        assert!(Gva(0xffa0_0000_0000_0000).is_canonical(57));
        assert!(!Gva(0xffa0_0000_0000_0000).is_canonical(48));
    }
}
