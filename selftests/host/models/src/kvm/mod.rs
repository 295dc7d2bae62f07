// SPDX-License-Identifier: GPL-2.0
//! In the place of the module's abstractions over KVM.

#[path = "../../../../../rust/kvm/counter.rs"]
pub(crate) mod counter;
#[path = "../../../../../rust/kvm/ext.rs"]
mod ext;
#[path = "../../../../../rust/kvm/global.rs"]
mod global;
#[path = "../../../../../rust/kvm/guest_memory.rs"]
mod guest_memory;
#[path = "../../../../../rust/kvm/loan.rs"]
mod loan;

mod bus;
mod exit_info;
mod host;
mod trace;
mod vcpu;

// As the module's files name them.
use crate::{addr, generation, mmio_info};

pub(crate) use bus::{Bell, IoBus};
pub(crate) use exit_info::{AssistBytes, Exit, LastExit, Mode, PageFault};
pub(crate) use ext::{Emulated, MmioExt};
pub(crate) use global::global_mutex;
pub(crate) use guest_memory::{has_pse, levels, Code, Pte, MAX_LEVELS, PAGE_SIZE};
pub(crate) use host::{
    cpu_phys_bits, host_maxphyaddr, mmio_caching, set_mmio_spte_mask, shadow_mmio_access_mask,
    shadow_mmio_mask, shadow_mmio_value, shadow_nonpresent_or_rsvd_lower_gfn_mask,
    shadow_nonpresent_or_rsvd_mask, PageTables, VendorInit,
};
pub(crate) use loan::{Borrows, Loan};
pub(crate) use trace::{
    access_is_traced, heat_is_on, instructions_are_told, miss_is_traced, mmio_is_traced,
    page_fault_is_traced, tgid, tsc, VcpuId,
};
pub(crate) use vcpu::{CompleteLoad, Purpose, ShadowWalk, Vcpu, VcpuState, ACC_WRITE};

/// The parameter `enabled`, for what is counted of the emulator, which nobody looks at.
pub(crate) const fn is_enabled() -> bool {
    true
}
