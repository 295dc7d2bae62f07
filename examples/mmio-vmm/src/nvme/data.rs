// SPDX-License-Identifier: GPL-2.0
//! Where a command's data is: physical region pages, section 4.3.

use anyhow::{Result, ensure};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::layout::PAGE;

/// The most that a command transfers, in bytes: MDTS of the controller, as a power of two of pages.
pub const MDTS: u8 = 5;
const LIMIT: u64 = PAGE << MDTS;

/// Pieces of memory that follow one another, each within a page.
pub fn pieces(memory: &GuestMemoryMmap, prp: [u64; 2], length: u64) -> Result<Vec<(u64, usize)>> {
    ensure!(length <= LIMIT, "{length} bytes at once");
    let first = length.min(PAGE - prp[0] % PAGE);
    let mut pieces = vec![(prp[0], first as usize)];
    let mut rest = length - first;
    // A second page, or a list of pages that fits into one as there are few.
    let is_list = rest > PAGE;
    let mut entry = prp[1];
    while rest > 0 {
        let page = if is_list {
            ensure!(entry % PAGE + 8 <= PAGE, "a list that goes on elsewhere");
            memory.read_obj(GuestAddress(entry))?
        } else {
            entry
        };
        ensure!(page % PAGE == 0, "a page at {page:#x}");
        let size = rest.min(PAGE);
        pieces.push((page, size as usize));
        rest -= size;
        entry += 8;
    }
    Ok(pieces)
}

/// Writes bytes that fit into two pages.
pub fn put(memory: &GuestMemoryMmap, prp: [u64; 2], bytes: &[u8]) -> Result<()> {
    let mut rest = bytes;
    for (at, size) in pieces(memory, prp, bytes.len() as u64)? {
        let (part, after) = rest.split_at(size);
        memory.write_slice(part, GuestAddress(at))?;
        rest = after;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_are_all_of_it_and_within_pages(
            prp in any::<[u64; 2]>(), near in any::<bool>(), length in 0..LIMIT * 2) {
            let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x4000)]).unwrap();
            let prp = if near { prp.map(|at| at % 0x4000) } else { prp };
            if let Ok(pieces) = pieces(&memory, prp, length) {
                let total: usize = pieces.iter().map(|piece| piece.1).sum();
                prop_assert_eq!(total as u64, length);
                for (at, size) in pieces {
                    prop_assert!(at % PAGE + size as u64 <= PAGE);
                }
            }
        }
    }
}
