// SPDX-License-Identifier: GPL-2.0
//! The pure logic of the extension, compiled without the kernel.
//!
//! The files are those of the module itself; their unit tests run here, and `tests/` adds checks
//! that want crates or take longer.

#[path = "../../../src/addr.rs"]
pub mod addr;
#[path = "../../../src/decode.rs"]
pub mod decode;
#[path = "../../../src/generation.rs"]
pub mod generation;
#[path = "../../../src/guest_walk.rs"]
pub mod guest_walk;
#[path = "../../../src/info_cache.rs"]
pub mod info_cache;
#[path = "../../../src/mask.rs"]
pub mod mask;
#[path = "../../../src/plan.rs"]
pub mod plan;
#[path = "../../../src/rsvd.rs"]
pub mod rsvd;
#[path = "../../../src/spte.rs"]
pub mod spte;
