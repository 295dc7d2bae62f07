// SPDX-License-Identifier: GPL-2.0
//! The threads that change what vCPUs meet.

pub mod bells;
pub mod slots;
pub mod switches;
