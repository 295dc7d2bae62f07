// SPDX-License-Identifier: GPL-2.0

//! Safe abstractions over KVM, without any policy: nothing of `src/` is known here.
//!
//! Everything unsafe is here. What the rest of the module sees are types that stand for a
//! context: whoever holds a [`Vcpu`] runs in that vCPU's thread with `kvm->srcu` held. What the
//! module makes of that it says by implementing [`MmioExt`].

#[deny(unsafe_code)]
#[expect(unreachable_pub)]
pub(crate) mod addr;
mod bus;
mod callbacks;
mod clock;
#[deny(unsafe_code)]
pub(crate) mod counter;
mod emulate;
mod eventfd;
mod exit_info;
mod ext;
#[deny(unsafe_code)]
#[expect(unreachable_pub)]
pub(crate) mod generation;
mod global;
mod guest_memory;
mod host;
mod io;
mod io_device;
mod io_range;
#[deny(unsafe_code)]
#[expect(unreachable_pub)]
pub(crate) mod iodev;
mod layout;
mod loan;
mod memslots;
#[deny(unsafe_code)]
#[expect(unreachable_pub)]
pub(crate) mod mmio_info;
mod mmu;
mod module_ref;
mod params;
mod registration;
mod regs;
mod srcu;
mod trace;
mod user_word;
mod vcpu;
mod vm;
#[deny(unsafe_code)]
#[expect(unreachable_pub)]
pub(crate) mod word;

pub(crate) use bus::{Bell, IoBus};
#[cfg(CONFIG_KUNIT = "y")]
pub(crate) use callbacks::{callbacks, enter};
pub(crate) use callbacks::{page_fault, record_access, see_access};
pub(crate) use clock::{boottime, tgid, tsc, tsc_khz};
pub(crate) use eventfd::OwnEventfd;
pub(crate) use exit_info::{AssistBytes, Exit, LastExit, Mode, PageFault};
pub(crate) use ext::{Emulated, MmioExt};
pub(crate) use global::global_mutex;
pub(crate) use guest_memory::{has_pse, levels, Code, Pte, MAX_LEVELS, PAGE_SIZE};
pub(crate) use host::{
    cpu_phys_bits,
    host_maxphyaddr,
    mmio_caching,
    set_mmio_spte_mask,
    shadow_mmio_access_mask,
    shadow_mmio_mask,
    shadow_mmio_value,
    shadow_nonpresent_or_rsvd_lower_gfn_mask,
    shadow_nonpresent_or_rsvd_mask,
    tdp_enabled,
    tdp_mmu_enabled,
    PageTables,
    VendorInit, //
};
#[cfg(CONFIG_KUNIT = "y")]
pub(crate) use io::complete_load;
pub(crate) use io::CompleteLoad;
pub(crate) use io_device::{IoDevice, Operations, Registered};
pub(crate) use loan::{Borrows, Loan};
pub(crate) use mmu::{Purpose, ShadowWalk, ACC_WRITE};
pub(crate) use module_ref::ModuleRef;
pub(crate) use params::{fast_path_enabled, is_enabled};
pub(crate) use registration::Registration;
pub(crate) use trace::{
    access_is_traced,
    heat_is_on,
    instructions_are_told,
    miss_is_traced,
    mmio_is_traced,
    page_fault_is_traced,
    HeatUser,
    InstructionUser,
    VcpuId, //
};
pub(crate) use user_word::UserWord;
pub(crate) use vcpu::{Vcpu, VcpuState};
pub(crate) use vm::Vm;
