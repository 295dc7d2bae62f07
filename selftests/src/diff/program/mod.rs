// SPDX-License-Identifier: GPL-2.0
//! Random programs of accesses and of what changes the meaning of the next ones.

mod access;
mod assembled;
mod control;
mod form;
mod generate;
mod operand;
mod smi;
mod step;

pub use assembled::Program;
pub use control::Changes;
pub use generate::generate;
pub use step::{Guest, Step};
