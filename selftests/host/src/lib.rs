// SPDX-License-Identifier: GPL-2.0
//! The pure logic of the extension, compiled without the kernel.
//!
//! The files are those of the module itself; their unit tests run here, and `tests/` adds checks
//! that want crates or take longer.

#[path = "../../../rust/kvm/addr.rs"]
pub mod addr;
#[path = "../../../src/bells.rs"]
pub mod bells;
#[path = "../../../src/binary_stats.rs"]
pub mod binary_stats;
#[path = "../../../src/code_page.rs"]
pub mod code_page;
#[path = "../../../src/decode.rs"]
pub mod decode;
#[path = "../../../src/doorbell.rs"]
pub mod doorbell;
#[path = "../../../rust/kvm/generation.rs"]
pub mod generation;
#[path = "../../../src/guest_walk.rs"]
pub mod guest_walk;
#[path = "../../../src/hash.rs"]
pub mod hash;
#[path = "../../../src/heat.rs"]
pub mod heat;
#[path = "../../../src/info_cache.rs"]
pub mod info_cache;
#[path = "../../../rust/kvm/iodev.rs"]
pub mod iodev;
#[path = "../../../src/mask.rs"]
pub mod mask;
#[path = "../../../rust/kvm/mmio_info.rs"]
pub mod mmio_info;
#[path = "../../../src/plan.rs"]
pub mod plan;
#[path = "../../../src/refused.rs"]
pub mod refused;
#[path = "../../../src/rsvd.rs"]
pub mod rsvd;
#[path = "../../../src/spte.rs"]
pub mod spte;

#[path = "../../../rust/kvm/counter.rs"]
mod counter;

/// What of the abstractions over KVM needs no kernel either.
mod kvm {
    pub(crate) use crate::counter;
}
