// SPDX-License-Identifier: GPL-2.0

//! kvm_mmio_ext: KVM's emulated MMIO in Rust.
//!
//! The crate's root is here because what `module!` expands to is unsafe. `kvm` holds everything
//! else that is, too; the modules in `src/` are safe code.

#[expect(unsafe_code, reason = "the only place for it")]
mod kvm;

/// The pure logic among these is also a library of the host tests, hence `pub` there.
#[deny(unsafe_code)]
#[expect(unreachable_pub)]
#[path = "../src"]
mod src {
    pub(crate) mod addr;
    pub(crate) mod arch_init;
    pub(crate) mod bells;
    pub(crate) mod binary_stats;
    pub(crate) mod code_page;
    pub(crate) mod decode;
    pub(crate) mod device;
    pub(crate) mod doorbell;
    pub(crate) mod exit;
    pub(crate) mod fast;
    pub(crate) mod fault;
    pub(crate) mod generation;
    pub(crate) mod guest_walk;
    pub(crate) mod heat;
    pub(crate) mod info_cache;
    pub(crate) mod mask;
    pub(crate) mod module;
    pub(crate) mod observe;
    pub(crate) mod plan;
    pub(crate) mod refused;
    pub(crate) mod ring;
    pub(crate) mod rsvd;
    pub(crate) mod spte;
    pub(crate) mod stats;
    pub(crate) mod sync;
}
use kernel::prelude::*;
use src::*;

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
        unsafe { kvm::init_registry() };

        Ok(Self {
            _extension: module::Extension::new(module)?,
        })
    }
}
