// SPDX-License-Identifier: GPL-2.0
//! MMIO SPTEs are bit-identical to those of KVM's C code, which is written down here a second
//! time, as in arch/x86/kvm/mmu/spte.{c,h} and mmu.c of Linux 7.3.

use kvm_mmio_ext::addr::Gfn;
use kvm_mmio_ext::generation::MemslotGeneration;
use kvm_mmio_ext::pure::mask::MmioMask;
use kvm_mmio_ext::pure::spte::{get_mmio_spte_generation, MmioFormat, Spte};
use proptest::prelude::*;

/// `GENMASK_ULL(high, low)`.
const fn genmask(high: u32, low: u32) -> u64 {
    (u64::MAX << low) & (u64::MAX >> (63 - high))
}

const GEN_LOW_MASK: u64 = genmask(9, 3);
const GEN_HIGH_MASK: u64 = genmask(62, 52);
const GEN_LOW_SHIFT: u32 = 3;
const GEN_HIGH_SHIFT: u32 = 52 - 7;
const GEN_MASK: u64 = genmask(7 + 11 - 1, 0);
const RSVD_MASK_LEN: u32 = 5;
const PAGE_SHIFT: u32 = 12;

/// The variables that KVM's functions use.
#[derive(Clone, Copy, Debug)]
struct C {
    mmio_value: u64,
    mmio_mask: u64,
    mmio_access_mask: u64,
    nonpresent_or_rsvd_mask: u64,
    lower_gfn_mask: u64,
    enable_mmio_caching: bool,
}

impl C {
    /// `make_mmio_spte()`.
    fn make_mmio_spte(&self, generation: u64, gfn: u64, access: u64) -> u64 {
        let gen = generation & GEN_MASK;
        let mut spte =
            ((gen << GEN_LOW_SHIFT) & GEN_LOW_MASK) | ((gen << GEN_HIGH_SHIFT) & GEN_HIGH_MASK);
        let gpa = gfn << PAGE_SHIFT;
        spte |= self.mmio_value | (access & self.mmio_access_mask);
        spte |= gpa | self.nonpresent_or_rsvd_mask;
        spte |= (gpa & self.nonpresent_or_rsvd_mask) << RSVD_MASK_LEN;
        spte
    }

    /// `get_mmio_spte_gfn()`.
    fn gfn(&self, spte: u64) -> u64 {
        let mut gpa = spte & self.lower_gfn_mask;
        gpa |= (spte >> RSVD_MASK_LEN) & self.nonpresent_or_rsvd_mask;
        gpa >> PAGE_SHIFT
    }

    /// `get_mmio_spte_generation()`.
    fn generation(spte: u64) -> u64 {
        (spte & GEN_LOW_MASK) >> GEN_LOW_SHIFT | (spte & GEN_HIGH_MASK) >> GEN_HIGH_SHIFT
    }

    /// `is_mmio_spte()`.
    fn is_mmio_spte(&self, spte: u64) -> bool {
        (spte & self.mmio_mask) == self.mmio_value && self.enable_mmio_caching
    }

    /// The same for the code under test.
    fn rust(&self) -> MmioFormat {
        MmioFormat {
            mask: MmioMask {
                value: self.mmio_value,
                mask: self.mmio_mask,
                access: self.mmio_access_mask,
            },
            caching: self.enable_mmio_caching,
            l1tf: self.nonpresent_or_rsvd_mask,
            lower_gfn: self.lower_gfn_mask,
        }
    }
}

/// The masks of a host, as KVM's C code sets them: address width, EPT, SME's C-bit, L1TF.
fn hosts() -> impl Strategy<Value = C> {
    let masks = prop_oneof![
        // kvm_mmu_reset_all_pte_masks()
        (36..=52u32).prop_map(|bits| {
            let value = if bits < 52 { 1 << 51 | 1 } else { 0 };
            (bits, value, value, 0x6)
        }),
        // kvm_mmu_set_ept_masks()
        (36..=52u32).prop_map(|bits| (bits, 0x6, 1 << 63 | 0x7, 0)),
        // svm_adjust_mmio_mask()
        (36..=51u32, 36..=51u32).prop_map(|(bits, c_bit)| {
            let first = if c_bit == bits { bits + 1 } else { bits };
            let value = if first < 52 {
                genmask(51, first) | 1
            } else {
                0
            };
            (bits, value, value, 0x6)
        }),
    ];
    (masks, any::<bool>(), any::<bool>()).prop_map(|((bits, value, mask, access), l1tf, on)| {
        // L1TF exists with up to 46 bits, and mainline warns from 47 on.
        let low = if l1tf && bits <= 46 {
            bits - RSVD_MASK_LEN
        } else {
            bits
        };
        C {
            mmio_value: value,
            mmio_mask: mask,
            mmio_access_mask: access,
            nonpresent_or_rsvd_mask: genmask(bits - 1, 0) & !genmask(low - 1, 0),
            lower_gfn_mask: genmask(low - 1, PAGE_SHIFT),
            enable_mmio_caching: on && value != 0,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    /// For every host, frame, generation and access rights.
    #[test]
    fn encoding_is_that_of_c(
        c in hosts(), gfn in any::<u64>(), generation in any::<u64>(), access in 0..8u32,
    ) {
        let width = c.nonpresent_or_rsvd_mask | c.lower_gfn_mask;
        let gfn = (gfn << PAGE_SHIFT & width) >> PAGE_SHIFT;
        let rust = c.rust();
        let spte = rust.mark_mmio_spte(Gfn(gfn), MemslotGeneration(generation).mmio(), access);
        prop_assert_eq!(spte.0, c.make_mmio_spte(generation, gfn, access.into()));
    }

    /// Any 64 bits at all decode to the same: what C made Rust reads, and the reverse.
    #[test]
    fn decoding_is_that_of_c(c in hosts(), spte in any::<u64>(), mmio in any::<bool>()) {
        // Half of the cases are MMIO SPTEs, which random bits hardly ever are.
        let spte = if mmio { spte & !c.mmio_mask | c.mmio_value } else { spte };
        let rust = c.rust();
        prop_assert_eq!(rust.is_mmio_spte(Spte(spte)), c.is_mmio_spte(spte));
        prop_assert_eq!(rust.get_mmio_spte_gfn(Spte(spte)), Gfn(c.gfn(spte)));
        prop_assert_eq!(
            u64::from(rust.get_mmio_spte_access(Spte(spte))),
            spte & c.mmio_access_mask
        );
        prop_assert_eq!(
            u64::from(get_mmio_spte_generation(Spte(spte)).get()),
            C::generation(spte)
        );
    }
}

/// The masks that Rust computes are those that C sets, for all address widths and C-bits.
#[test]
fn masks_are_those_of_c() {
    for bits in 32..=52 {
        let value = if bits < 52 { 1 << 51 | 1 } else { 0 };
        let want = MmioMask {
            value,
            mask: value,
            access: 0x6,
        };
        assert_eq!(MmioMask::paging(bits), want, "{bits} bits");
    }
    assert_eq!(
        MmioMask::ept(),
        MmioMask {
            value: 0x6,
            mask: 1 << 63 | 0x7,
            access: 0
        }
    );
    for bits in 32..=52 {
        for c_bit in 32..=63 {
            // svm_adjust_mmio_mask(): `rsvd_bits(mask_bit, 51) | PT_PRESENT_MASK`.
            let first = if bits == c_bit { bits + 1 } else { bits };
            let value = if first < 52 {
                genmask(51, first) | 1
            } else {
                0
            };
            let want = MmioMask {
                value,
                mask: value,
                access: 0x6,
            };
            assert_eq!(
                MmioMask::sme(bits, c_bit),
                want,
                "{bits} bits, C-bit {c_bit}"
            );
        }
    }
}

/// A wrap of the generation is seen as `kvm_mmu_invalidate_mmio_sptes()` sees it.
#[test]
fn wraps_are_those_of_c() {
    for spaces in [1u64, 2] {
        for generation in (0..4 * (GEN_MASK + 1)).chain(u64::MAX - GEN_MASK..=u64::MAX) {
            let c = generation & GEN_MASK & !(spaces - 1) == 0;
            let rust = MemslotGeneration(generation).mmio().wrapped(spaces as u32);
            assert_eq!(
                rust, c,
                "generation {generation:#x}, {spaces} address spaces"
            );
        }
    }
}
