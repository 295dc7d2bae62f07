// SPDX-License-Identifier: GPL-2.0
//! The table of messages, PCI 3.0 section 6.8.2: who writes it says where interrupts go.

use kvm_bindings::kvm_irq_routing_msi;

use crate::page::RegisterPage;

/// In bytes: an address of 64 bits, data, and whether the vector is masked.
const ENTRY: u32 = 16;
const MASKED: u32 = 1;

/// The message of a vector, unless it is masked.
pub fn message(table: &RegisterPage, vector: u32) -> Option<kvm_irq_routing_msi> {
    let word = |index: u32| table.get(ENTRY * vector + 4 * index);
    (word(3) & MASKED == 0).then(|| kvm_irq_routing_msi {
        address_lo: word(0),
        address_hi: word(1),
        data: word(2),
        ..Default::default()
    })
}

/// All vectors are masked at first.
pub fn reset(table: &RegisterPage, vectors: u32) {
    for vector in 0..vectors {
        table.set(ENTRY * vector + 12, MASKED);
    }
}
