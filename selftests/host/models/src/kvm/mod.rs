// SPDX-License-Identifier: GPL-2.0
//! In the place of the module's abstractions over KVM.

#[path = "../../../../../rust/kvm/counter.rs"]
mod counter;
#[path = "../../../../../rust/kvm/fetch.rs"]
#[allow(
    clippy::declare_interior_mutable_const,
    reason = "a value to begin with"
)]
mod fetch;
mod observe;
#[path = "../../../../../rust/kvm/registry.rs"]
pub(crate) mod registry;
mod vcpu;

pub(crate) use counter::Counter;
pub(crate) use vcpu::{
    AssistBytes, Exit, Mode, OwnState, PageFault, PendingLoad, ShadowWalk, State, Vcpu,
};
