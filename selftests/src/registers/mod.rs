// SPDX-License-Identifier: GPL-2.0
//! Registers that answer by themselves, very often: what is asked for at random, and bits that
//! several change at once.

mod bits;
mod limits;
mod model;
mod requests;
mod world;

pub use limits::{LIMITS, Limits};

crate::test_table! {
    registers_requests: requests::PROVES => requests::run(LIMITS.get()),
    registers_bits: bits::PROVES => bits::run(LIMITS.get()),
}
