// SPDX-License-Identifier: GPL-2.0

//! What needs no kernel: what instructions do, what entries of page tables hold, and what is
//! remembered, as plain data that is asked with plain values.
//!
//! The host tests compile this folder as it is, hence `pub`.

pub mod access_kind;
pub mod bells;
pub mod binary_stats;
pub mod code_address;
pub mod code_page;
pub mod decode;
pub mod doorbell;
pub mod gpr;
pub mod guest_walk;
pub mod hash;
pub mod heat;
pub mod heat_page;
pub mod hold;
pub mod info_cache;
pub mod mask;
pub mod plan;
pub mod posted;
pub mod refused;
pub mod register_request;
pub mod rsvd;
pub mod spte;
pub mod stats_format;

#[cfg(test)]
mod test_bus;
