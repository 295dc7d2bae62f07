// SPDX-License-Identifier: GPL-2.0

//! Safe abstractions over KVM.
//!
//! Everything unsafe is here. What the rest of the module sees are types that stand for a
//! context: whoever holds a [`Vcpu`] runs in that vCPU's thread with `kvm->srcu` held.

mod bus;
mod counter;
mod fetch;
mod heat;
mod hooks;
mod host;
mod irqs_off;
#[cfg(CONFIG_KUNIT = "y")]
mod kunit;
mod observe;
mod registry;
mod vcpu;

pub(crate) use counter::{Byte, Counter};
pub(crate) use hooks::Registration;
pub(crate) use host::{
    cpu_phys_bits,
    host_maxphyaddr,
    installed_mask,
    mmio_caching,
    set_mmio_spte_mask,
    tdp_enabled,
    tdp_mmu_enabled,
    VendorInit, //
};
pub(crate) use observe::{
    access_is_traced,
    boottime,
    heat_is_on,
    miss_is_traced,
    tsc,
    tsc_khz, //
};
pub(crate) use registry::{
    allow_readers,
    for_each_vm,
    init as init_registry,
    total as total_stats,
    vms_lost,
    Reader,
    VcpuEntry,
    Vm,
    VMS_KEPT, //
};
pub(crate) use vcpu::{AssistBytes, Exit, Mode, PageFault, PendingLoad, ShadowWalk, Vcpu};
