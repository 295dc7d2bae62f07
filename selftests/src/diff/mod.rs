// SPDX-License-Identifier: GPL-2.0
//! Random programs that run with the extension, or its fast path, off and on. Nothing that a
//! guest or its host can see may tell which it was.
//!
//! From below: [`space`], [`slots`], [`smm`] and [`nested`] are what a guest has; a [`program`] is
//! made for that; a [`machine`] runs it, which leaves a [`trace`]; and [`compare`] judges by the
//! traces, of what [`plan`] says.

mod compare;
mod machine;
mod nested;
mod plan;
mod program;
mod slots;
mod smm;
mod space;
mod switch;
mod trace;

pub use compare::{Limits, Totals, run};
pub use plan::{Comparison, plan};
pub use switch::Switch;
