// SPDX-License-Identifier: GPL-2.0

//! Where a key has its place in a table of `1 << bits` places: the top bits of a product.

/// 2^64 divided by the golden ratio: what differs little ends up far apart (Knuth, The Art of
/// Computer Programming, volume 3, section 6.4).
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Brings every byte to the top ones, so that steps of a page differ there as those of a few bytes
/// do. The golden ratio does worse with pages.
const EVERY_BYTE: u64 = 0xff00_ff00_ff00_ff01;

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
    top(key.wrapping_mul(EVERY_BYTE), bits)
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

    /// As many neighbours as there are places take most of them.
    #[test]
    fn neighbours_are_spread() {
        let places: HashSet<_> = (0..256).map(|key| spread(key, 8)).collect();
        assert!(places.len() > 200, "{}", places.len());
        for step in [4, 0x1000] {
            let places: HashSet<_> = (0..256).map(|i| spread_address(i * step, 9)).collect();
            assert!(places.len() > 200, "{step:#x}: {}", places.len());
        }
    }
}
