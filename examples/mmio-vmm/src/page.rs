// SPDX-License-Identifier: GPL-2.0
//! The page of a device's registers: what is in it is what the guest reads.
//!
//! Reads have no effects in the devices here, so that a page of memory can answer them: in a read's
//! exit, by KVM in the place of an exit, or as memory that the guest reads itself. Only what writes
//! do is code.

use std::sync::atomic::Ordering;

use anyhow::Result;

use crate::layout::PAGE;
use crate::sys::Shared;

/// A device's registers, one page or more, shared by its threads, the guest and the kernel.
#[derive(Clone)]
pub struct RegisterPage(Shared);

impl RegisterPage {
    /// So many pages in a row, and all registers are 0.
    pub fn new(pages: usize) -> Result<Self> {
        Ok(Self(Shared::new(pages * PAGE as usize)?))
    }

    /// What is mapped for the guest, or posted.
    pub fn memory(&self) -> &Shared {
        &self.0
    }

    /// The register at `offset`, a multiple of 4.
    pub fn get(&self, offset: u32) -> u32 {
        self.0.word(offset as usize).load(Ordering::Acquire)
    }

    /// Sets all of a register, for those that no other thread changes.
    pub fn set(&self, offset: u32, value: u32) {
        self.0.word(offset as usize).store(value, Ordering::Release);
    }

    /// Sets bits, of which none is lost that another thread or the kernel sets or clears meanwhile.
    pub fn set_bits(&self, offset: u32, bits: u32) {
        self.0
            .word(offset as usize)
            .fetch_or(bits, Ordering::AcqRel);
    }

    /// Clears bits, in the same way.
    pub fn clear_bits(&self, offset: u32, bits: u32) {
        self.0
            .word(offset as usize)
            .fetch_and(!bits, Ordering::AcqRel);
    }

    /// What a read of any size gets; what is beyond the page reads as zero.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        for (byte, at) in data.iter_mut().zip(offset..PAGE) {
            let word = self.get(at as u32 & !3);
            *byte = word.to_le_bytes()[at as usize % 4];
        }
    }

    /// Puts bytes from `offset` on, a multiple of 4.
    pub fn fill(&self, offset: u32, bytes: &[u8]) {
        for (index, chunk) in bytes.chunks(4).enumerate() {
            let mut word = [0; 4];
            word[..chunk.len()].copy_from_slice(chunk);
            self.set(offset + 4 * index as u32, u32::from_le_bytes(word));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bits_of_others_stay() {
        let page = RegisterPage::new(1).unwrap();
        page.set(0x60, 0b0110);
        page.set_bits(0x60, 0b0001);
        page.clear_bits(0x60, 0b0010);
        assert_eq!(page.get(0x60), 0b0101);
    }

    proptest! {
        #[test]
        fn reads_what_was_filled(bytes in proptest::collection::vec(any::<u8>(), 1..64),
                                 size in 1..=8usize, skip in 0..64u64) {
            let page = RegisterPage::new(1).unwrap();
            page.fill(0x100, &bytes);
            let mut got = vec![0xff; size];
            page.read(0x100 + skip, &mut got);
            let want: Vec<u8> = (skip as usize..).take(size)
                .map(|at| bytes.get(at).copied().unwrap_or(0)).collect();
            prop_assert_eq!(got, want);
        }

        #[test]
        fn reads_zero_beyond(offset in prop_oneof![PAGE - 8..PAGE + 8, any::<u64>()]) {
            let page = RegisterPage::new(1).unwrap();
            page.fill(PAGE as u32 - 8, &[1; 8]);
            let mut got = [0xff; 8];
            page.read(offset, &mut got);
            let inside = PAGE.saturating_sub(offset).min(8) as usize;
            prop_assert!(got[inside..].iter().all(|&byte| byte == 0));
        }
    }
}
