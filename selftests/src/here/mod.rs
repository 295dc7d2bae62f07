// SPDX-License-Identifier: GPL-2.0
//! Tests and benchmark on the machine that one sits at, and a report of them that can be sent.

pub mod child;
pub mod figures;
pub mod group;
pub mod machine;
pub mod private;
pub mod ready;
pub mod stop;
