// SPDX-License-Identifier: GPL-2.0
//! What KVM does around the extension, as far as threads share it.

pub(crate) mod bus;
pub(crate) mod effect;
mod emulate;
pub(crate) mod memory;
pub(crate) mod memslots;
mod mistake;
pub(crate) mod mmu;
pub(crate) mod srcu;
pub(crate) mod vcpu;
mod vm;

pub(crate) use mistake::Mistake;
pub(crate) use vm::{Kvm, FAST, VM};
