// SPDX-License-Identifier: GPL-2.0
//! In the place of the module's abstractions over KVM.

#[path = "../../../../../rust/kvm/counter.rs"]
pub(crate) mod counter;
#[path = "../../../../../rust/kvm/global.rs"]
mod global;
#[path = "../../../../../rust/kvm/guest_memory.rs"]
mod guest_memory;
mod trace;
mod vcpu;

pub(crate) use global::global_mutex;
pub(crate) use guest_memory::{has_pse, levels, Code, Pte, MAX_LEVELS, PAGE_SIZE};
pub(crate) use trace::VcpuId;
pub(crate) use vcpu::{AssistBytes, Exit, Mode, PageFault, Purpose, ShadowWalk, Vcpu, ACC_WRITE};
