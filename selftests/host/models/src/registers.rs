// SPDX-License-Identifier: GPL-2.0
//! In the place of `src/registers.rs`: buses without registers of a VMM's.

pub(crate) use crate::kvm::{Bell, IoBus};
