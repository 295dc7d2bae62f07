// SPDX-License-Identifier: GPL-2.0
//! What threads share in the extension, in every order that their steps can have.
//!
//! loom runs each test again and again, with another order of the threads' steps each time and
//! with every value that a load may return. The way of an access is the module's own code, from
//! the exit handlers down to the doorbells; `kvm/vcpu.rs` is in the place of its abstraction over
//! `struct kvm_vcpu`, `linux/` models what of KVM is below that, and `hooks.rs` what calls the
//! module. Atomics are no stronger there than on
//! x86.
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
use in_place::{init_array_from_fn, init_zeroed, Zeroable};
use kvm_mmio_ext::{addr, generation, iodev, mmio_info, pure};

#[path = "../../../../src/access.rs"]
mod access;
#[path = "../../../../src/exit.rs"]
mod exit;
#[path = "../../../../src/fast/mod.rs"]
mod fast;
#[path = "../../../../src/fault.rs"]
mod fault;
#[path = "../../../../src/insns.rs"]
#[allow(
    clippy::declare_interior_mutable_const,
    reason = "a value to begin with"
)]
mod insns;
#[path = "../../../../src/sync.rs"]
mod shadow;

mod bindings;
mod hooks;
mod in_place;
mod kvm;
mod linux;
mod observe;
mod prelude;
mod report;
mod state;
mod sync;
mod tests;
