// SPDX-License-Identifier: GPL-2.0

//! kvm_mmio_ext: KVM's emulated MMIO in Rust.
//!
//! The crate's root is here because what `module!` expands to is unsafe. `kvm` holds everything
//! else that is, too; the modules in `src/` are safe code.

mod exports;
#[cfg(CONFIG_KUNIT = "y")]
#[path = "kunit/queries.rs"]
mod kunit;
#[expect(unsafe_code, reason = "the only place for it")]
mod kvm;

#[deny(unsafe_code)]
#[path = "../src"]
mod src {
    pub(crate) mod access;
    pub(crate) mod arch_init;
    pub(crate) mod devices;
    pub(crate) mod exit;
    pub(crate) mod fast;
    pub(crate) mod fault;
    pub(crate) mod hooks;
    pub(crate) mod insns;
    pub(crate) mod installed;
    pub(crate) mod module;
    pub(crate) mod observe;
    #[expect(unreachable_pub, reason = "the host tests are another crate")]
    pub(crate) mod pure;
    pub(crate) mod registers;
    pub(crate) mod report;
    pub(crate) mod ring;
    pub(crate) mod state;
    pub(crate) mod sync;
}
use kernel::prelude::*;
use kvm::{addr, generation, iodev, mmio_info, word};
use pin_init::Zeroable;
use src::*;

// SAFETY: All zero, it knows nothing; it consists of integers.
unsafe impl Zeroable for pure::info_cache::InfoCache {}
// SAFETY: All zero, it has refused nothing; it consists of cells with integers.
unsafe impl Zeroable for pure::refused::Refused {}
// SAFETY: All zero, it knows nothing: it consists of integers, and of an `Option` of a bell, whose
// pointer is never null, so that zero is `None`.
unsafe impl Zeroable for pure::bells::Bells<registers::Bell> {}

module! {
    type: Module,
    name: "kvm_mmio_ext",
    authors: ["The kvm_mmio_ext founders"],
    description: "KVM: emulated MMIO in Rust",
    license: "GPL",
}

#[pin_data]
struct Module {
    #[pin]
    _extension: module::Extension,
}

impl kernel::InPlaceModule for Module {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        // SAFETY: This runs once, before anything else.
        unsafe { report::registry::REGISTRY.init() };

        try_pin_init!(Self {
            _extension <- module::Extension::new(module),
        })
    }
}
