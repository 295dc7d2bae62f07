// SPDX-License-Identifier: GPL-2.0

//! Generations of the memslots, which tell whether a cached MMIO result still holds.
//!
//! Every change of a VM's memslots ends with a new generation, see `kvm_swap_active_memslots()`.
//! Generations are unique across the address spaces of a VM (normal and SMM): they advance by the
//! number of address spaces. An MMIO SPTE has room for the low 18 bits only.

/// `KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS`: a memslot change has begun and not ended.
const UPDATE_IN_PROGRESS: u64 = 1 << 63;

/// Bits of a generation that an MMIO SPTE holds, `MMIO_SPTE_GEN_MASK`.
pub const MMIO_GENERATION_BITS: u32 = 18;

/// The generation of a set of memslots, `struct kvm_memslots::generation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemslotGeneration(pub u64);

impl MemslotGeneration {
    /// Whether the memslots are being changed. Nothing may be cached now, nor found in a cache.
    pub const fn update_in_progress(self) -> bool {
        self.0 & UPDATE_IN_PROGRESS != 0
    }

    /// Whether what an MMIO SPTE that was made in generation `made` says holds now.
    ///
    /// # Examples
    ///
    /// ```
    /// use kvm_mmio_ext::generation::MemslotGeneration;
    ///
    /// let now = MemslotGeneration(2);
    /// assert!(now.is_still(now.mmio()));
    /// // Bit 63: the memslots are just being changed.
    /// assert!(!MemslotGeneration(2 | 1 << 63).is_still(now.mmio()));
    /// ```
    pub const fn is_still(self, made: MmioGeneration) -> bool {
        !self.update_in_progress() && self.mmio().get() == made.get()
    }

    /// The part of the generation that MMIO SPTEs hold.
    pub const fn mmio(self) -> MmioGeneration {
        MmioGeneration((self.0 & ((1 << MMIO_GENERATION_BITS) - 1)) as u32)
    }
}

/// The generation that an MMIO SPTE holds, 18 bits.
///
/// # Invariants
///
/// The value is below `1 << MMIO_GENERATION_BITS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioGeneration(u32);

impl MmioGeneration {
    /// Truncates `raw` to the bits that exist.
    pub const fn new(raw: u32) -> Self {
        // INVARIANT: Masked to `MMIO_GENERATION_BITS`.
        Self(raw & ((1 << MMIO_GENERATION_BITS) - 1))
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Whether the count of slot changes has come round to 0 in any address space, so that MMIO
    /// SPTEs of the last round would match again. `address_spaces` is a power of two.
    ///
    /// The low bits tell the address spaces apart and are no part of the count, see
    /// `kvm_mmu_invalidate_mmio_sptes()`.
    pub const fn wrapped(self, address_spaces: u32) -> bool {
        self.0 & !(address_spaces - 1) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_progress_is_no_part_of_the_mmio_generation() {
        let generation = MemslotGeneration(1 << 63 | 0x7_1234);
        assert!(generation.update_in_progress());
        assert_eq!(generation.mmio(), MmioGeneration::new(0x3_1234));
        assert!(!MemslotGeneration(!(1 << 63)).update_in_progress());
    }

    #[test]
    fn nothing_holds_still_during_an_update() {
        let made = MmioGeneration::new(0x1234);
        assert!(MemslotGeneration(0x1234).is_still(made));
        assert!(MemslotGeneration(1 << MMIO_GENERATION_BITS | 0x1234).is_still(made));
        assert!(!MemslotGeneration(0x1236).is_still(made));
        assert!(!MemslotGeneration(1 << 63 | 0x1234).is_still(made));
    }

    /// Counts through two rounds as `kvm_swap_active_memslots()` does and checks that each wrap
    /// is seen, exactly once, in each address space.
    #[test]
    fn wraps_once_a_round_in_every_address_space() {
        for spaces in [1u64, 2] {
            for space in 0..spaces {
                let round = 1u64 << MMIO_GENERATION_BITS;
                let wraps = (0..2 * round / spaces)
                    .map(|change| MemslotGeneration(space + (change + 1) * spaces))
                    .filter(|generation| generation.mmio().wrapped(spaces as u32))
                    .count();
                assert_eq!(wraps, 2, "{spaces} address spaces, number {space}");
            }
        }
    }
}
