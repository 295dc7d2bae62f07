// SPDX-License-Identifier: GPL-2.0
//! Random programs that run with the fast path off and on, and must not be able to tell.

mod compare;
mod machine;
mod program;
pub(crate) mod random;

pub use compare::{Limits, Totals, run};
