// SPDX-License-Identifier: GPL-2.0

//! The format of MMIO SPTEs, bit by bit that of `make_mmio_spte()` and its inverses.
//!
//! | bits           | contents                                                      |
//! |----------------|---------------------------------------------------------------|
//! | 0-2            | part of the value (EPT 110b, otherwise present), access rights|
//! | 3-9            | bits 0-6 of the generation                                    |
//! | 11             | clear: the SPTE is not MMU-present                            |
//! | 12-51          | guest frame number; above the physical address width the value|
//! | 52-62          | bits 7-17 of the generation                                   |
//! | 63             | clear under EPT                                               |
//!
//! On a host with L1TF no SPTE may look like the address of cacheable memory. There the five top
//! bits of the address range are set in every MMIO SPTE, and the bits of the GFN that belong there
//! move up by five. C header: `arch/x86/kvm/mmu/spte.h`.

use crate::{
    addr::{Gfn, Gpa},
    generation::MmioGeneration,
    pure::mask::MmioMask, //
};

/// Where bits 0-6 of the generation are.
const GENERATION_LOW_SHIFT: u32 = 3;
const GENERATION_LOW_BITS: u32 = 7;
const GENERATION_LOW: u64 = ((1 << GENERATION_LOW_BITS) - 1) << GENERATION_LOW_SHIFT;

/// Where bits 7-17 of the generation are.
const GENERATION_HIGH_SHIFT: u32 = 52;
const GENERATION_HIGH: u64 = 0x7ff << GENERATION_HIGH_SHIFT;

/// By how many bits a GFN's top bits move on a host with L1TF, and how many they are:
/// `SHADOW_NONPRESENT_OR_RSVD_MASK_LEN`.
const L1TF_SHIFT: u32 = 5;

/// `SPTE_MMU_PRESENT_MASK`.
const MMU_PRESENT: u64 = 1 << 11;

/// `SHADOW_NONPRESENT_VALUE`: what an SPTE that maps nothing holds.
pub const NONPRESENT: Spte = Spte(1 << 63);

/// A shadow page table entry, of any kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spte(pub u64);

impl Spte {
    /// Whether the entry maps memory (or a lower table), `is_shadow_present_pte()`. An MMIO SPTE
    /// does not, even though its hardware-present bit is set.
    pub const fn is_shadow_present(self) -> bool {
        self.0 & MMU_PRESENT != 0
    }
}

/// The format of a VM's MMIO SPTEs.
#[derive(Clone, Copy, Debug)]
pub struct MmioFormat {
    /// The masks that hold for the host, and the value that holds for the VM.
    pub mask: MmioMask,
    /// Whether there are MMIO SPTEs at all, `enable_mmio_caching`.
    pub caching: bool,
    /// Bits that are set on hosts with L1TF, 0 elsewhere: `shadow_nonpresent_or_rsvd_mask`.
    pub l1tf: u64,
    /// Bits of the GFN that stay in place: `shadow_nonpresent_or_rsvd_lower_gfn_mask`.
    pub lower_gfn: u64,
}

impl MmioFormat {
    /// An SPTE that marks `gfn` as MMIO, for the access rights that the guest's page tables give
    /// to it, as of `generation`.
    ///
    /// # Examples
    ///
    /// ```
    /// use kvm_mmio_ext::{addr::Gfn, generation::MmioGeneration};
    /// use kvm_mmio_ext::pure::{mask::MmioMask, spte::{self, MmioFormat}};
    ///
    /// let format = MmioFormat {
    ///     mask: MmioMask::ept(),
    ///     caching: true,
    ///     l1tf: 0,
    ///     lower_gfn: (1 << 52) - (1 << 12),
    /// };
    /// let spte = format.mark_mmio_spte(Gfn(0xfeb00), MmioGeneration::new(42), 0);
    /// // Writable and executable, not readable: misconfigured.
    /// assert_eq!(spte.0 & 7, 0b110);
    /// assert!(format.is_mmio_spte(spte));
    /// assert_eq!(format.get_mmio_spte_gfn(spte), Gfn(0xfeb00));
    /// assert_eq!(spte::get_mmio_spte_generation(spte).get(), 42);
    /// ```
    pub const fn mark_mmio_spte(&self, gfn: Gfn, generation: MmioGeneration, access: u32) -> Spte {
        let Gpa(gpa) = gfn.gpa();

        Spte(
            self.mask.value
                | (access as u64 & self.mask.access)
                | encode_generation(generation)
                | gpa
                | self.l1tf
                | (gpa & self.l1tf) << L1TF_SHIFT,
        )
    }

    /// Whether `spte` is an MMIO SPTE of this VM.
    pub const fn is_mmio_spte(&self, spte: Spte) -> bool {
        spte.0 & self.mask.mask == self.mask.value && self.caching
    }

    /// The guest frame that an MMIO SPTE stands for.
    pub const fn get_mmio_spte_gfn(&self, spte: Spte) -> Gfn {
        Gpa((spte.0 & self.lower_gfn) | (spte.0 >> L1TF_SHIFT & self.l1tf)).gfn()
    }

    /// The access rights that an MMIO SPTE holds, `ACC_*`.
    pub const fn get_mmio_spte_access(&self, spte: Spte) -> u32 {
        (spte.0 & self.mask.access) as u32
    }
}

/// The generation that an MMIO SPTE was made in.
pub const fn get_mmio_spte_generation(spte: Spte) -> MmioGeneration {
    let low = (spte.0 & GENERATION_LOW) >> GENERATION_LOW_SHIFT;
    let high = (spte.0 & GENERATION_HIGH) >> GENERATION_HIGH_SHIFT;
    MmioGeneration::new((low | high << GENERATION_LOW_BITS) as u32)
}

const fn encode_generation(generation: MmioGeneration) -> u64 {
    let generation = generation.get() as u64;
    (generation << GENERATION_LOW_SHIFT & GENERATION_LOW)
        | (generation >> GENERATION_LOW_BITS << GENERATION_HIGH_SHIFT)
}

// The generation shares no bit with what the software or MMU-present bits need, nor with those of
// the mask: `SPTE_MMIO_ALLOWED_MASK`.
const _: () = {
    let generation = GENERATION_LOW | GENERATION_HIGH;
    let mask_allowed: u64 = (1 << 63) | ((1 << 52) - (1 << 12)) | (1 << 10) | 0b111;
    assert!(GENERATION_LOW & GENERATION_HIGH == 0);
    assert!(generation & (MMU_PRESENT | NONPRESENT.0) == 0);
    assert!(generation & mask_allowed == 0);
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generation::MMIO_GENERATION_BITS;

    /// `SHADOW_ACC_TRACK_SAVED_MASK`.
    const SAVED_RIGHTS: u64 = (1 << 10 | 0b101) << 52;

    /// `FROZEN_SPTE`.
    const FROZEN: Spte = Spte(1 << 63 | 0x1a0);

    /// As `kvm_mmu_reset_all_pte_masks()` computes it; `cache_bits` is the width of an address in
    /// the L1 cache if the host has L1TF.
    fn format(mask: MmioMask, phys_bits: u32, cache_bits: Option<u32>) -> MmioFormat {
        let (low, l1tf) = match cache_bits {
            Some(bits) => (bits - 5, (1 << bits) - (1u64 << (bits - 5))),
            None => (phys_bits, 0),
        };
        MmioFormat {
            mask,
            caching: mask.value != 0,
            l1tf,
            lower_gfn: (1 << low) - (1 << 12),
        }
    }

    /// A TDX guest, whose MMIO SPTEs have to be without any bit that its processor would look at.
    fn tdx(phys_bits: u32) -> MmioFormat {
        let mask = MmioMask {
            value: 0,
            ..MmioMask::ept()
        };
        MmioFormat {
            caching: true,
            ..format(mask, phys_bits, None)
        }
    }

    /// Every host: address widths, EPT or not, with L1TF (which exists up to 46 bits) or without,
    /// with memory encryption or without, TDX.
    fn formats() -> impl Iterator<Item = (u32, MmioFormat)> {
        let plain = (36..=52u32).flat_map(|bits| {
            [MmioMask::paging(bits), MmioMask::ept()]
                .into_iter()
                .map(move |mask| (bits, format(mask, bits, None)))
        });
        let l1tf = (36..=46u32).flat_map(|bits| {
            (bits..=46).flat_map(move |cache| {
                [MmioMask::paging(bits), MmioMask::ept()]
                    .into_iter()
                    .map(move |mask| (bits, format(mask, bits, Some(cache))))
            })
        });
        let sme = (36..=51u32).flat_map(|bits| {
            (bits..=51).map(move |c| (bits, format(MmioMask::sme(bits, c), bits, None)))
        });
        let tdx = (46..=52u32).map(|bits| (bits, tdx(bits)));
        plain.chain(l1tf).chain(sme).chain(tdx)
    }

    fn gfns(bits: u32) -> impl Iterator<Item = Gfn> {
        let all = (1u64 << (bits - 12)) - 1;
        (0..bits - 12)
            .flat_map(|bit| [1 << bit, (1 << bit) - 1])
            .chain([
                all,
                0xaaaa_aaaa_aaaa_aaaa & all,
                0x5555_5555_5555_5555 & all,
            ])
            .map(Gfn)
    }

    #[test]
    fn decoding_inverts_encoding() {
        for (bits, format) in formats().filter(|(_, f)| f.caching) {
            for gfn in gfns(bits) {
                for generation in [0, 1, 0x7f, 0x80, 0x1_5555, 0x2_aaaa, 0x3_ffff] {
                    let generation = MmioGeneration::new(generation);
                    for access in 0..8 {
                        let spte = format.mark_mmio_spte(gfn, generation, access);
                        let why = format_args!("{bits} bits, {format:x?}, {gfn:x?}: {spte:x?}")
                            .to_string();
                        assert!(format.is_mmio_spte(spte), "{why}");
                        assert!(!spte.is_shadow_present(), "{why}");
                        assert_eq!(format.get_mmio_spte_gfn(spte), gfn, "{why}");
                        assert_eq!(get_mmio_spte_generation(spte), generation, "{why}");
                        assert_eq!(
                            u64::from(format.get_mmio_spte_access(spte)),
                            u64::from(access) & format.mask.access,
                            "{why}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn every_generation_survives() {
        for (bits, format) in formats().filter(|(_, f)| f.caching) {
            let gfn = Gfn((1 << (bits - 12)) - 1);
            for generation in 0..1 << MMIO_GENERATION_BITS {
                let generation = MmioGeneration::new(generation);
                let spte = format.mark_mmio_spte(gfn, generation, 0);
                assert_eq!(get_mmio_spte_generation(spte), generation);
                assert_eq!(format.get_mmio_spte_gfn(spte), gfn);
                assert!(format.is_mmio_spte(spte));
            }
        }
    }

    /// Neither with any frame that the host can have, nor with any rights that a processor takes:
    /// EPT has no writing without reading, and everything else is present. Nor with saved rights,
    /// of an EPT that does without accessed bits. (A present SPTE of TDX has bit 63.)
    #[test]
    fn no_present_spte_is_an_mmio_spte() {
        for (bits, format) in formats() {
            let is_ept = format.mask.mask == MmioMask::ept().mask;
            let is_legal = |rights: u64| match is_ept {
                true => rights & 0b011 != 0b010,
                false => rights & 0b001 != 0,
            };
            for gfn in gfns(bits) {
                for rights in (0..8).filter(|&rights| is_legal(rights)) {
                    for top in [0, SAVED_RIGHTS, NONPRESENT.0, NONPRESENT.0 | SAVED_RIGHTS] {
                        let is_tdx = format.mask.value == 0 && format.caching;
                        let top = if is_tdx { top | NONPRESENT.0 } else { top };
                        let spte = Spte(top | gfn.gpa().0 | MMU_PRESENT | rights);
                        assert!(!format.is_mmio_spte(spte), "{format:x?}: {spte:x?}");
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_else_is_an_mmio_spte() {
        for (_, format) in formats() {
            // With TDX nothing that is not there is 0, see `SHADOW_NONPRESENT_VALUE`.
            assert_eq!(
                format.is_mmio_spte(Spte(0)),
                format.mask.value == 0 && format.caching
            );
            assert!(!format.is_mmio_spte(NONPRESENT));
            assert!(!format.is_mmio_spte(FROZEN));
        }
    }

    /// On a host with L1TF the frame in an MMIO SPTE is beyond the memory that can be cached.
    #[test]
    fn no_cacheable_frame_with_l1tf() {
        for (bits, format) in formats().filter(|(_, f)| f.l1tf != 0 && f.caching) {
            for gfn in gfns(bits) {
                let spte = format.mark_mmio_spte(gfn, MmioGeneration::new(0), 0);
                assert_eq!(spte.0 & format.l1tf, format.l1tf);
            }
        }
    }
}
