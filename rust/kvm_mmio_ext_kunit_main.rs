// SPDX-License-Identifier: GPL-2.0

//! KUnit tests of the extension, which run when this module is loaded.
//!
//! MMIO SPTEs survive switching the extension on and off, so those that Rust makes and reads must
//! be bit by bit those of the C functions of the same kernel; `kunit/spte.c` compiles these.

#[expect(dead_code, reason = "the module needs more of it than the tests")]
#[expect(unreachable_pub)]
mod kvm {
    pub(crate) mod addr;
    pub(crate) mod generation;
}

#[expect(dead_code, reason = "the module needs more of it than the tests")]
#[expect(unreachable_pub)]
#[path = "../src/pure"]
mod pure {
    pub(crate) mod mask;
    pub(crate) mod spte;
}

use kernel::prelude::*;
use kvm::*;

module! {
    type: Module,
    name: "kvm_mmio_ext_kunit",
    authors: ["The kvm_mmio_ext founders"],
    description: "KUnit tests of kvm_mmio_ext",
    license: "GPL",
}

struct Module;

impl kernel::Module for Module {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        Ok(Self)
    }
}

#[kunit_tests(kvm_mmio_ext_spte)]
mod tests {
    use crate::{
        addr::Gfn,
        generation::MemslotGeneration,
        pure::{
            mask::MmioMask,
            spte::{get_mmio_spte_generation, MmioFormat, Spte}, //
        }, //
    };
    use kvm_bindings as bindings;

    /// Random inputs of each test.
    const INPUTS: u32 = 1_000_000;

    /// Hosts that the random inputs are spread over.
    const HOSTS: u32 = 1_000;

    /// SplitMix64.
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ z >> 31
        }

        fn below(&mut self, end: u32) -> u32 {
            (self.next() % u64::from(end)) as u32
        }
    }

    /// The format on a host with addresses of `bits` bits, as `kvm_mmu_reset_all_pte_masks()`
    /// computes it.
    fn format(mask: MmioMask, bits: u32, l1tf: bool, caching: bool) -> MmioFormat {
        let low = if l1tf { bits - 5 } else { bits };
        MmioFormat {
            mask,
            caching: caching && mask.value != 0,
            l1tf: (1 << bits) - (1 << low),
            lower_gfn: (1 << low) - (1 << 12),
        }
    }

    /// Calls `check` for every width of an address, kind of page table and place of SME's C-bit,
    /// with L1TF where it exists and without, with MMIO caching and without.
    fn for_all_hosts(mut check: impl FnMut(MmioFormat) -> bool) -> bool {
        for bits in 36..=52 {
            for (l1tf, caching) in [(false, true), (false, false), (true, true), (true, false)] {
                if l1tf && bits > 46 {
                    continue;
                }
                let sme = (36..=63).map(|c_bit| MmioMask::sme(bits, c_bit));
                for mask in sme.chain([MmioMask::paging(bits), MmioMask::ept()]) {
                    if !check(format(mask, bits, l1tf, caching)) {
                        return false;
                    }
                }
            }
        }
        true
    }

    fn random_host(random: &mut Random) -> MmioFormat {
        let bits = 36 + random.below(17);
        let mask = match random.below(3) {
            0 => MmioMask::paging(bits),
            1 => MmioMask::ept(),
            _ => MmioMask::sme(bits, 36 + random.below(28)),
        };
        let l1tf = bits <= 46 && random.below(2) == 0;
        format(mask, bits, l1tf, random.below(8) != 0)
    }

    /// Makes C's variables those of the host.
    fn set_host(format: &MmioFormat) {
        let host = bindings::mmio_ext_kunit_host {
            value: format.mask.value,
            mask: format.mask.mask,
            access: format.mask.access,
            l1tf: format.l1tf,
            lower_gfn: format.lower_gfn,
            caching: format.caching,
        };
        // SAFETY: The pointer is valid, and this is the only thread that tests SPTEs.
        unsafe { bindings::mmio_ext_kunit_set_host(&host) };
    }

    /// Whether Rust and C make the same SPTE on the host that is set.
    fn same_encoding(format: &MmioFormat, generation: u64, gfn: u64, access: u32) -> bool {
        let width = format.l1tf | format.lower_gfn;
        let gfn = (gfn << 12 & width) >> 12;
        let Spte(rust) =
            format.mark_mmio_spte(Gfn(gfn), MemslotGeneration(generation).mmio(), access);
        // SAFETY: The function changes variables of its own only, in this thread only.
        let c = unsafe { bindings::mmio_ext_kunit_make_mmio_spte(generation, gfn, access) };

        if rust != c {
            kernel::pr_err!(
                "{format:x?} gfn {gfn:#x} generation {generation:#x} access {access}: \
                 Rust {rust:#x}, C {c:#x}\n"
            );
        }
        rust == c && same_decoding(format, Spte(rust))
    }

    /// Whether Rust and C find the same in an SPTE, whatever it is.
    fn same_decoding(format: &MmioFormat, spte: Spte) -> bool {
        // SAFETY: These functions only read variables that only this thread writes.
        let c = unsafe {
            (
                bindings::mmio_ext_kunit_is_mmio_spte(spte.0),
                bindings::mmio_ext_kunit_get_mmio_spte_gfn(spte.0),
                bindings::mmio_ext_kunit_get_mmio_spte_access(spte.0),
                bindings::mmio_ext_kunit_get_mmio_spte_generation(spte.0),
            )
        };
        let rust = (
            format.is_mmio_spte(spte),
            format.get_mmio_spte_gfn(spte).0,
            format.get_mmio_spte_access(spte),
            u64::from(get_mmio_spte_generation(spte).get()),
        );

        if rust != c {
            kernel::pr_err!("{format:x?} {spte:x?}: Rust {rust:x?}, C {c:x?}\n");
        }
        rust == c
    }

    /// Every bit of a GFN and of a generation alone, all of them, none of them.
    fn same_corners(format: &MmioFormat) -> bool {
        let gfns = || (0..40).map(|bit| 1 << bit).chain([0, !0]);
        let generations = || (0..64).map(|bit| 1 << bit).chain([0, !0]);

        gfns().all(|gfn| (0..8).all(|access| same_encoding(format, 0, gfn, access)))
            && generations().all(|generation| same_encoding(format, generation, !0, 7))
            && (0..64).all(|bit| {
                let bit = 1 << bit;
                [bit, !bit, format.mask.value | bit, format.mask.value & !bit]
                    .into_iter()
                    .all(|spte| same_decoding(format, Spte(spte)))
            })
    }

    #[test]
    fn corners_on_all_hosts() {
        assert!(for_all_hosts(|format| {
            set_host(&format);
            same_corners(&format)
        }));
    }

    #[test]
    fn random_sptes_are_made_alike() {
        let mut random = Random(1);

        assert!((0..HOSTS).all(|_| {
            let format = random_host(&mut random);
            set_host(&format);
            (0..INPUTS / HOSTS).all(|_| {
                let (generation, gfn) = (random.next(), random.next());
                same_encoding(&format, generation, gfn, random.below(8))
            })
        }));
    }

    #[test]
    fn random_bits_are_read_alike() {
        let mut random = Random(2);

        assert!((0..HOSTS).all(|_| {
            let format = random_host(&mut random);
            set_host(&format);
            (0..INPUTS / HOSTS).all(|n| {
                let spte = random.next();
                // Half of them are MMIO SPTEs, which random bits hardly ever are.
                let spte = match n % 2 {
                    0 => spte,
                    _ => spte & !format.mask.mask | format.mask.value,
                };
                same_decoding(&format, Spte(spte))
            })
        }));
    }
}
