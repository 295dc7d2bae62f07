// SPDX-License-Identifier: GPL-2.0

//! What the KUnit tests in `rust/kunit/` ask the extension, besides its callbacks.
//!
//! C header: `rust/kunit/vm.h`.

use crate::{
    addr::Gpa,
    fast::fetch,
    hooks::Ext,
    iodev::Write,
    kvm::{self, AssistBytes, Mode},
    pure::doorbell::first_device,
    registers::IoBus,
    report::{
        registry,
        stats::{Event, Snapshot, Taker}, //
    },
    state::{State, Vcpu}, //
};
use core::{convert::Infallible, ffi::c_void, ptr};
use kernel::ffi::{c_int, c_uint};
use kvm_bindings as bindings;

/// 64-bit code in kernel mode.
const PLAIN: Mode = Mode::new(bindings::kvm_mmio_ext_flags_KVM_MMIO_EXT_CS_L);

/// # Safety
///
/// `vcpu` must point to a live vCPU that only the caller uses, with `kvm->srcu` held.
unsafe fn enter<'a>(vcpu: *mut bindings::kvm_vcpu) -> Option<Vcpu<'a>> {
    // SAFETY: Only the caller uses the vCPU, and it holds `kvm->srcu`.
    unsafe { kvm::enter::<Ext>(vcpu) }
}

/// The callbacks as KVM gets them.
///
/// # Safety
///
/// `ops` must be valid for writes.
#[no_mangle]
unsafe extern "C" fn mmio_ext_kunit_ops(ops: *mut bindings::kvm_mmio_ext_ops) {
    // SAFETY: The pointer is valid for writes.
    unsafe { ops.write(kvm::callbacks::<Ext>(ptr::null_mut())) };
}

/// How many VMs have a vCPU with state.
#[no_mangle]
extern "C" fn mmio_ext_kunit_vms() -> c_uint {
    let mut vms = 0;
    let Ok(()) = registry::for_each_vm(|vm| {
        vms += c_uint::from(!vm.has_ended());
        Ok::<(), Infallible>(())
    });
    vms
}

/// The entries of a walk of the shadow page tables from the root down, with their levels. Returns
/// how many there are.
///
/// # Safety
///
/// As for [`enter`]; the arrays must have room for as many entries as there are levels.
#[no_mangle]
unsafe extern "C" fn mmio_ext_kunit_walk(
    vcpu: *mut bindings::kvm_vcpu,
    addr: u64,
    levels: *mut c_int,
    sptes: *mut u64,
) -> c_uint {
    // SAFETY: Only the test uses the vCPU, and it holds `kvm->srcu`.
    let Some(mut vcpu) = (unsafe { enter(vcpu) }) else {
        return 0;
    };
    let walk = vcpu.walk_shadow_page_lockless(addr);

    let mut count = 0;
    for (level, spte) in walk.entries() {
        // SAFETY: There is room for an entry of each level.
        unsafe {
            levels.add(count).write(level as c_int);
            sptes.add(count).write(spte);
        }
        count += 1;
    }
    count as c_uint
}

/// Whether a write signals an ioeventfd.
///
/// # Safety
///
/// As for [`enter`].
#[no_mangle]
unsafe extern "C" fn mmio_ext_kunit_rings(
    vcpu: *mut bindings::kvm_vcpu,
    gpa: bindings::gpa_t,
    value: u64,
    size: u8,
) -> bool {
    let write = Write {
        gpa: Gpa(gpa),
        value,
        size,
    };
    // SAFETY: Only the test uses the vCPU, and it holds `kvm->srcu`.
    unsafe { enter(vcpu) }
        .is_some_and(|mut vcpu| matches!(vcpu.write_to_device(&write), Taker::Ioeventfd))
}

/// Whether no device is offered an access.
///
/// # Safety
///
/// As for [`enter`].
#[no_mangle]
unsafe extern "C" fn mmio_ext_kunit_is_vacant(
    vcpu: *mut bindings::kvm_vcpu,
    gpa: bindings::gpa_t,
    size: u8,
) -> bool {
    // SAFETY: Only the test uses the vCPU, and it holds `kvm->srcu`.
    unsafe { enter(vcpu) }
        .and_then(|vcpu| IoBus::mmio(&vcpu))
        .is_none_or(|bus| first_device(&bus, Gpa(gpa), size).is_none())
}

/// Remembers the instruction at RIP, of which the processor reports the bytes.
///
/// # Safety
///
/// As for [`enter`] and [`AssistBytes::new`].
#[no_mangle]
unsafe extern "C" fn mmio_ext_kunit_fetch(
    vcpu: *mut bindings::kvm_vcpu,
    insn: *mut c_void,
    len: c_int,
) {
    // SAFETY: Only the test uses the vCPU, and it holds `kvm->srcu`.
    let (vcpu, insn) = unsafe { (enter(vcpu), AssistBytes::new(insn, len)) };
    if let Some(mut vcpu) = vcpu {
        // What is refused is not known, which is what the tests ask.
        let _ = fetch::fetch(&mut vcpu, PLAIN, insn);
    }
}

/// Whether the instruction at RIP is known; the processor reports `len` bytes unless `insn` is
/// null.
///
/// # Safety
///
/// As for [`enter`] and [`AssistBytes::new`].
#[no_mangle]
unsafe extern "C" fn mmio_ext_kunit_knows_insn(
    vcpu: *mut bindings::kvm_vcpu,
    insn: *mut c_void,
    len: c_int,
) -> bool {
    // SAFETY: Only the test uses the vCPU, and it holds `kvm->srcu`.
    let (vcpu, insn) = unsafe { (enter(vcpu), AssistBytes::new(insn, len)) };
    vcpu.is_some_and(|vcpu| {
        let now = vcpu.memslots_generation();
        fetch::known_plan(&vcpu, PLAIN, insn, now).is_ok()
    })
}

/// How many faults of the vCPU the extension has handled, and how many it has passed to KVM.
///
/// # Safety
///
/// As for [`enter`]; the pointers must be valid for writes.
#[no_mangle]
unsafe extern "C" fn mmio_ext_kunit_faults(
    vcpu: *mut bindings::kvm_vcpu,
    handled: *mut u64,
    passed: *mut u64,
) {
    // SAFETY: Only the test uses the vCPU, and it holds `kvm->srcu`.
    let stats = unsafe { enter(vcpu) }.map_or(Snapshot::ZERO, |vcpu| vcpu.stats().snapshot());
    // SAFETY: The pointers are valid for writes.
    unsafe {
        handled.write(stats.faults());
        passed.write(stats.get(Event::Passed));
    }
}

/// What KVM calls when userspace has completed a read.
///
/// # Safety
///
/// As for [`kvm::complete_load`].
#[no_mangle]
unsafe extern "C" fn mmio_ext_kunit_complete_load(vcpu: *mut bindings::kvm_vcpu) -> c_int {
    // SAFETY: Only the test uses the vCPU, and it holds `kvm->srcu`.
    unsafe { kvm::complete_load::<State>(vcpu) }
}
