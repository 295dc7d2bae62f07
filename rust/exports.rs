// SPDX-License-Identifier: GPL-2.0

//! What C calls by its name.

use crate::{
    hooks::Ext,
    kvm,
    pure::register_request::{Place, Request},
    registers, //
};
use core::mem::{offset_of, size_of};
use kernel::ffi::{c_int, c_uint, c_ulong};
use kvm_bindings as bindings;

/// What KVM calls as `handle_mmio_page_fault()`, exported under the name that it has in the seed.
///
/// # Safety
///
/// `vcpu` must point to a live vCPU in its own thread, with its mutex and `kvm->srcu` held; the
/// caller must be able to sleep.
#[no_mangle]
unsafe extern "C" fn handle_mmio_page_fault_common(
    vcpu: *mut bindings::kvm_vcpu,
    addr: u64,
    direct: bool,
) -> c_int {
    // SAFETY: This is the vCPU's thread with its mutex and `kvm->srcu` held, which can sleep.
    unsafe { kvm::page_fault::<Ext>(vcpu, addr, direct) }
}

/// Sees an access that was not the extension's, see [`kvm::Emulated`].
///
/// # Safety
///
/// As for [`handle_mmio_page_fault_common`]. `flags` must be of `enum kvm_mmio_ext_access`.
#[no_mangle]
unsafe extern "C" fn mmio_ext_see_access(
    vcpu: *mut bindings::kvm_vcpu,
    flags: c_ulong,
    gpa: bindings::gpa_t,
    len: c_uint,
) {
    // SAFETY: This is the vCPU's thread with its mutex and `kvm->srcu` held, which can sleep.
    unsafe { kvm::see_access::<Ext>(vcpu, flags, gpa, len) };
}

/// The same for when only heat is on: there is little to do as a rule.
///
/// # Safety
///
/// As for [`mmio_ext_see_access`].
#[no_mangle]
unsafe extern "C" fn mmio_ext_record_access(
    vcpu: *mut bindings::kvm_vcpu,
    flags: c_ulong,
    gpa: bindings::gpa_t,
    len: c_uint,
) {
    // SAFETY: This is the vCPU's thread with its mutex and `kvm->srcu` held, which can sleep.
    unsafe { kvm::record_access::<Ext>(vcpu, flags, gpa, len) };
}

// What C takes them for.
const _: [bindings::kvm_mmio_ext_observer_t; 2] =
    [Some(mmio_ext_see_access), Some(mmio_ext_record_access)];

/// What userspace's C takes the structures of registers for.
macro_rules! same_layout {
    ($c:ident, $rust:ty { $($field:ident),* }) => {
        const _: () = {
            assert!(size_of::<bindings::$c>() == size_of::<$rust>());
            $(assert!(offset_of!(bindings::$c, $field) == offset_of!($rust, $field));)*
        };
    };
}
same_layout!(
    kvm_mmio_register,
    Request {
        gpa,
        user_addr,
        datamatch,
        len,
        vm_fd,
        event_fd,
        on_write,
        on_read,
        signal,
        reserved
    }
);
same_layout!(
    kvm_mmio_register_at,
    Place {
        gpa,
        vm_fd,
        reserved
    }
);

const _: () = {
    assert!(bindings::MMIO_EXT_REGISTER_ADD == registers::ADD);
    assert!(bindings::MMIO_EXT_REGISTER_REMOVE == registers::REMOVE);
    assert!(bindings::KVM_MMIO_REGISTER_WRITE_EXIT == Request::WRITE_EXIT as u32);
    assert!(bindings::KVM_MMIO_REGISTER_WRITE_STORE == Request::WRITE_STORE as u32);
    assert!(bindings::KVM_MMIO_REGISTER_WRITE_CLEAR == Request::WRITE_CLEAR as u32);
    assert!(bindings::KVM_MMIO_REGISTER_WRITE_SET == Request::WRITE_SET as u32);
    assert!(bindings::KVM_MMIO_REGISTER_READ_EXIT == Request::READ_EXIT as u32);
    assert!(bindings::KVM_MMIO_REGISTER_READ_RETURN == Request::READ_RETURN as u32);
    assert!(bindings::KVM_MMIO_REGISTER_READ_CLEAR == Request::READ_CLEAR as u32);
    assert!(bindings::KVM_MMIO_REGISTER_SIGNAL_NEVER == Request::SIGNAL_NEVER as u32);
    assert!(bindings::KVM_MMIO_REGISTER_SIGNAL_ALWAYS == Request::SIGNAL_ALWAYS as u32);
    assert!(bindings::KVM_MMIO_REGISTER_SIGNAL_VALUE == Request::SIGNAL_VALUE as u32);
    assert!(bindings::KVM_MMIO_REGISTER_SIGNAL_CHANGE == Request::SIGNAL_CHANGE as u32);
};
