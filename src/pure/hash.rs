// SPDX-License-Identifier: GPL-2.0

//! Where a key has its place in a table of `1 << bits` places: the top bits of a product.

/// 2^64 divided by the golden ratio: what differs little ends up far apart (Knuth, The Art of
/// Computer Programming, volume 3, section 6.4).
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// With which 900 keys in steps of any power of two, from that of a 16-bit register to 64 KiB, land
/// in 850 of 1024 places or more: the best of some random numbers. The golden ratio has steps with
/// which they land in 400.
const REGISTERS: u64 = 0x5867_fdd9_dc44_3f1f;

/// With which half as many keys as there are places, in steps of 1 to 129, land by two at the most
/// in each pair of neighbours, for tables of 2^9 and 2^10 places: the first that was found so of
/// random numbers. Of the golden ratio's steps, a few all land in a tenth of the places.
const STEPS: u32 = 0x49b6_4a09;

/// A place for the address of an instruction: those of a function, or of a table of functions, are
/// in step.
#[inline(always)]
pub const fn spread_steps(address: u64, bits: u32) -> usize {
    ((address as u32).wrapping_mul(STEPS) >> (32 - bits)) as usize
}

/// A place for a key of which all bits tell something.
#[inline(always)]
pub const fn spread(key: u64, bits: u32) -> usize {
    top(mix(key), bits)
}

/// All bits of the product, for tables that want more of them than a place.
#[inline(always)]
pub const fn mix(key: u64) -> u64 {
    key.wrapping_mul(GOLDEN)
}

/// A place for a key that begins with an address: devices lie in step, close together or a page
/// from each other.
#[inline(always)]
pub const fn spread_address(key: u64, bits: u32) -> usize {
    top(key.wrapping_mul(REGISTERS), bits)
}

#[inline(always)]
const fn top(product: u64, bits: u32) -> usize {
    (product >> (64 - bits)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn places_are_in_the_table() {
        for bits in 1..=16 {
            for key in [0, 1, 0x1000, u64::MAX] {
                assert!(spread(key, bits) < 1 << bits);
                assert!(spread_address(key, bits) < 1 << bits);
            }
        }
    }

    #[test]
    fn no_three_instructions_want_two_places() {
        for (first, bits) in [0xffff_ffff_81a3_c5d7, 0x40_1000, 0xffff_ffff_c000_0123]
            .into_iter()
            .flat_map(|first| [(first, 9), (first, 10)])
        {
            for step in 1..130 {
                let mut pairs = [0; 512];
                for i in 0..1 << (bits - 1) {
                    pairs[spread_steps(first + i * step, bits) / 2] += 1;
                }
                assert!(pairs.iter().all(|&wanted| wanted <= 2), "{first:#x} {step}");
            }
        }
    }

    /// As many neighbours as there are places take most of them.
    #[test]
    fn neighbours_are_spread() {
        let places: HashSet<_> = (0..256).map(|key| spread(key, 8)).collect();
        assert!(places.len() > 200, "{}", places.len());
    }

    #[test]
    fn registers_are_spread() {
        for first in [0xfeb0_3000u64, 0xd000_0050, 0x3800_0000_3000] {
            for step in (1..=16).map(|bit| 1 << bit) {
                let places: HashSet<_> = (0..900)
                    .map(|i| spread_address(first + i * step, 10))
                    .collect();
                assert!(places.len() >= 850, "{step:#x}: {}", places.len());
            }
        }
    }
}
