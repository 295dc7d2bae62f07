// SPDX-License-Identifier: GPL-2.0
//! The table of messages, PCI 3.0 section 6.8.2: who writes it says where interrupts go.

use crate::message::Message;
use crate::page::RegisterPage;

/// In bytes: an address of 64 bits, data, and whether the vector is masked.
const ENTRY: u32 = 16;
const MASKED: u32 = 1;

/// The message of a vector, unless it is masked.
pub fn message(table: &RegisterPage, vector: u32) -> Option<Message> {
    let word = |index: u32| table.get(ENTRY * vector + 4 * index);
    (word(3) & MASKED == 0).then(|| Message {
        address: u64::from(word(0)) | u64::from(word(1)) << 32,
        data: word(2),
    })
}

/// All vectors are masked at first.
pub fn reset(table: &RegisterPage, vectors: u32) {
    for vector in 0..vectors {
        table.set(ENTRY * vector + 12, MASKED);
    }
}
