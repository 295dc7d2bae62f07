// SPDX-License-Identifier: GPL-2.0

//! Reserved bits that must not be set in an MMU-present SPTE.

use crate::pure::spte::Spte;

/// `VMX_EPT_USER_EXECUTABLE_MASK` and `VMX_EPT_EXECUTABLE_MASK`.
const EPT_USER_EXECUTABLE: u64 = 1 << 10;
const EPT_EXECUTABLE: u64 = 1 << 2;

/// Levels of the deepest page tables, `PT64_ROOT_MAX_LEVEL`.
pub const MAX_LEVEL: usize = 5;

/// Which bits of the entries of an MMU's page tables are reserved: `struct kvm_page_format`.
#[derive(Clone, Copy, Debug)]
pub struct PageFormat<'a> {
    /// Reserved bits, by bit 7 of the entry and by level - 1 (4 KiB pages first).
    pub reserved: &'a [[u64; MAX_LEVEL]; 2],
    /// Bit `n` is set if `n`, the low six bits of an EPT entry, is not a legal combination of
    /// memory type and access rights.
    pub bad_mt_xwr: u64,
}

impl PageFormat<'_> {
    /// Whether an entry at `level` (1 is that of 4 KiB pages) has a reserved bit set:
    /// `is_rsvd_spte()`.
    ///
    /// # Examples
    ///
    /// ```
    /// use kvm_mmio_ext::pure::{rsvd::PageFormat, spte::Spte};
    ///
    /// let format = PageFormat {
    ///     reserved: &[[1 << 51; 5]; 2],
    ///     // Writable, not readable.
    ///     bad_mt_xwr: 1 << 0b010,
    /// };
    /// assert!(format.is_reserved(Spte(1 << 51), 1));
    /// assert!(format.is_reserved(Spte(0b010), 1));
    /// assert!(!format.is_reserved(Spte(0b111), 1));
    /// ```
    pub const fn is_reserved(&self, spte: Spte, level: usize) -> bool {
        let bit7 = (spte.0 >> 7 & 1) as usize;
        self.is_bad_mt_xwr(spte) || spte.0 & self.reserved[bit7][level - 1] != 0
    }

    /// The access rights of an EPT entry are judged with both execute bits taken together.
    const fn is_bad_mt_xwr(&self, spte: Spte) -> bool {
        let mut entry = spte.0;
        if entry & EPT_USER_EXECUTABLE != 0 {
            entry |= EPT_EXECUTABLE;
        }
        self.bad_mt_xwr >> (entry & 0x3f) & 1 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMAT: PageFormat<'_> = PageFormat {
        reserved: &[[1 << 51, 1 << 50, 0, 0, 0], [1 << 49, 0, 0, 0, 0]],
        bad_mt_xwr: 1 << 0b110 | 1 << 0b010,
    };

    #[test]
    fn levels_and_bit_7_select_the_mask() {
        assert!(FORMAT.is_reserved(Spte(1 << 51), 1));
        assert!(!FORMAT.is_reserved(Spte(1 << 51), 2));
        assert!(FORMAT.is_reserved(Spte(1 << 50), 2));
        assert!(FORMAT.is_reserved(Spte(1 << 49 | 1 << 7), 1));
        assert!(!FORMAT.is_reserved(Spte(1 << 51 | 1 << 7), 1));
    }

    #[test]
    fn access_rights() {
        assert!(FORMAT.is_reserved(Spte(0b110), 1));
        assert!(!FORMAT.is_reserved(Spte(0b111), 1));
        assert!(FORMAT.is_reserved(Spte(1 << 10 | 0b010), 1));
        assert!(!FORMAT.is_reserved(Spte(1 << 10 | 0b001), 1));
    }
}
