// SPDX-License-Identifier: GPL-2.0

//! kvm_mmio_ext: KVM's emulated MMIO in Rust.
//!
//! The crate's root is here because what `module!` expands to is unsafe. `kvm` holds everything
//! else that is, too; the modules in `src/` are safe code.

mod exports;
#[cfg(CONFIG_KUNIT = "y")]
#[path = "kunit/ext.rs"]
mod kunit;
#[expect(unsafe_code, reason = "the only place for it")]
mod kvm;

/// The pure logic among these is also a library of the host tests, hence `pub` there.
#[deny(unsafe_code)]
#[expect(unreachable_pub)]
#[path = "../src"]
mod src {
    pub(crate) mod access;
    pub(crate) mod arch_init;
    pub(crate) mod bells;
    pub(crate) mod binary_stats;
    pub(crate) mod code_page;
    pub(crate) mod decode;
    pub(crate) mod device;
    pub(crate) mod devices;
    pub(crate) mod doorbell;
    pub(crate) mod exit;
    pub(crate) mod ext;
    pub(crate) mod fast;
    pub(crate) mod fault;
    pub(crate) mod fetch;
    pub(crate) mod guest_walk;
    pub(crate) mod hash;
    pub(crate) mod heat;
    pub(crate) mod info_cache;
    pub(crate) mod insns;
    pub(crate) mod installed;
    pub(crate) mod mask;
    pub(crate) mod module;
    pub(crate) mod observe;
    pub(crate) mod plan;
    pub(crate) mod record;
    pub(crate) mod recorder;
    pub(crate) mod refused;
    pub(crate) mod registry;
    pub(crate) mod ring;
    pub(crate) mod rsvd;
    pub(crate) mod spte;
    pub(crate) mod state;
    pub(crate) mod stats;
    pub(crate) mod sync;
}
use kernel::prelude::*;
use kvm::{addr, generation, iodev, mmio_info};
use pin_init::Zeroable;
use src::*;

// SAFETY: All zero, it knows nothing; it consists of integers.
unsafe impl Zeroable for info_cache::InfoCache {}
// SAFETY: The same.
unsafe impl Zeroable for doorbell::Doorbells {}
// SAFETY: The same, with cells.
unsafe impl Zeroable for refused::Refused {}
// SAFETY: The same; zero is `None` of an eventfd.
unsafe impl Zeroable for bells::Bells<kvm::Eventfd> {}

module! {
    type: Module,
    name: "kvm_mmio_ext",
    authors: ["The kvm_mmio_ext founders"],
    description: "KVM: emulated MMIO in Rust",
    license: "GPL",
}

struct Module {
    _extension: Pin<KBox<module::Extension>>,
}

impl kernel::Module for Module {
    fn init(module: &'static ThisModule) -> Result<Self> {
        // SAFETY: This runs once, before anything else.
        unsafe { registry::REGISTRY.init() };

        Ok(Self {
            _extension: module::Extension::new(module)?,
        })
    }
}
