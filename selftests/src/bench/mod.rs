// SPDX-License-Identifier: GPL-2.0
//! What one trapped access costs, by kind of access, with the extension off and on.

pub mod insn;
pub mod measure;
pub mod places;
pub mod report;
pub mod row;
pub mod rows;
pub mod sample;
pub mod state;
pub mod turn;
