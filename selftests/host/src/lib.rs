// SPDX-License-Identifier: GPL-2.0
//! The pure logic of the extension, compiled without the kernel.
//!
//! The files are those of the module itself; their unit tests run here, and `tests/` adds checks
//! that want crates or take longer.

#[path = "../../../rust/kvm/addr.rs"]
pub mod addr;
#[path = "../../../rust/kvm/generation.rs"]
pub mod generation;
#[path = "../../../rust/kvm/iodev.rs"]
pub mod iodev;
#[path = "../../../rust/kvm/mmio_info.rs"]
pub mod mmio_info;
#[path = "../../../src/pure/mod.rs"]
pub mod pure;
#[path = "../../../rust/kvm/word.rs"]
pub mod word;

#[path = "../../../rust/kvm/counter.rs"]
mod counter;

/// What of the abstractions over KVM needs no kernel either.
mod kvm {
    pub(crate) use crate::counter;
}
