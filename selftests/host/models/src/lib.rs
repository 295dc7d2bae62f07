// SPDX-License-Identifier: GPL-2.0
//! What threads share in the extension, in every order that their steps can have.
//!
//! loom runs each test again and again, with another order of the threads' steps each time and
//! with every value that a load may return. The way of an access is the module's own code, from
//! what KVM calls down to the doorbells; `kvm/` is in the place of its abstractions over `struct
//! kvm_vcpu` and the host, and `linux/` models what of KVM is below that. What of KVM calls the module
//! is in `exits.rs` and `loading.rs`.
//! Atomics are no stronger there than on x86.
//!
//! loom's threads take turns on one of the system's, hence `Rc` and `Cell` in what they share.
//!
//! A test of a protocol has a second one beside it, of the same with a mistake made on purpose:
//! a model that finds nothing wrong there would prove nothing.

#![cfg(test)]
#![allow(dead_code, reason = "the module needs more of it")]

// The crates that the module's files name.
extern crate self as kernel;
extern crate self as kvm_bindings;
extern crate self as pin_init;

use bindings::*;
use in_place::{init_array_from_fn, init_zeroed};
use kvm_mmio_ext::{addr, generation, iodev, mmio_info, pure};

#[path = "../../../../src/access.rs"]
mod access;
#[path = "../../../../src/arch_init.rs"]
mod arch_init;
#[path = "../../../../src/devices.rs"]
mod devices;
#[path = "../../../../src/exit.rs"]
mod exit;
#[path = "../../../../src/fast/mod.rs"]
mod fast;
#[path = "../../../../src/fault.rs"]
mod fault;
#[path = "../../../../src/hooks.rs"]
mod hooks;
#[path = "../../../../src/insns.rs"]
#[allow(
    clippy::declare_interior_mutable_const,
    reason = "a value to begin with"
)]
mod insns;
#[path = "../../../../src/installed.rs"]
mod installed;
#[path = "../../../../src/observe/mod.rs"]
mod observe;
#[path = "../../../../src/ring.rs"]
mod ring;
#[path = "../../../../src/state.rs"]
mod state;

mod bindings;
mod exits;
mod in_place;
mod kvm;
mod linux;
mod loading;
mod prelude;
mod registers;
mod report;
mod sync;
mod tests;
mod zeroed;

/// `kernel::ffi`, as far as it is used.
mod ffi {
    pub(crate) use std::ffi::c_ulong;
}
