// SPDX-License-Identifier: GPL-2.0
//! What of the module may be all zero, as the crate's root says there.

use crate::{
    in_place::Zeroable,
    pure::{bells::Bells, info_cache::InfoCache, refused::Refused},
    registers::Bell,
};

// SAFETY: As in `rust/kvm_mmio_ext_main.rs`.
unsafe impl Zeroable for InfoCache {}
// SAFETY: As in `rust/kvm_mmio_ext_main.rs`.
unsafe impl Zeroable for Refused {}
// SAFETY: As in `rust/kvm_mmio_ext_main.rs`; the pointer of a bell is never null here either.
unsafe impl Zeroable for Bells<Bell> {}
