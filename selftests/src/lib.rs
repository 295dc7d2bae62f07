// SPDX-License-Identifier: GPL-2.0
//! What the tests and the benchmark share: small guests made at run time, and readers for what
//! KVM and the extension count.

pub mod bench;
pub mod diff;
pub mod guest;
pub mod here;
pub mod host;
pub mod kick;
pub mod perf;
pub(crate) mod random;
pub mod reads;
pub mod registers;
pub mod stats;
pub mod tap;
pub mod tests;
pub mod torture;
