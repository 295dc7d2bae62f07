// SPDX-License-Identifier: GPL-2.0
//! Random programs that run with the extension, or its fast path, off and on. Nothing that a
//! guest or its host can see may tell which it was.

mod access;
mod compare;
mod control;
mod l2;
mod machine;
mod plan;
mod program;
pub(crate) mod random;
mod slots;
mod smm;

pub use compare::{Limits, Switch, Totals, run};
pub use plan::{Comparison, plan};
