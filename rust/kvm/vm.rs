// SPDX-License-Identifier: GPL-2.0

//! A VM that a process has named.
//!
//! C header: [`include/linux/kvm_host.h`](srctree/include/linux/kvm_host.h), `struct kvm`.

use core::ptr::{self, NonNull};
use kernel::{
    fs::LocalFile,
    prelude::*, //
};
use kvm_bindings as bindings;

/// A reference to a VM of the process that has made the value.
///
/// # Invariants
///
/// `0` points to a VM, and holds a reference.
pub(crate) struct Vm(NonNull<bindings::kvm>);

impl Vm {
    /// The VM that a file descriptor stands for.
    ///
    /// # Errors
    ///
    /// `EBADF` if there is no such file, `EINVAL` if it is not a VM's, `EIO` if the VM is another
    /// process's or dead, as for KVM's own ioctls.
    pub(crate) fn from_fd(fd: i32) -> Result<Self> {
        // No file has a negative number, nor has any so large a one.
        let file = LocalFile::fget(fd as u32)?;
        let raw = file.as_ptr();
        // SAFETY: The file is open.
        if !unsafe { bindings::file_is_kvm(raw.cast()) } {
            return Err(EINVAL);
        }
        // SAFETY: The file is open.
        let kvm = unsafe { (*raw).private_data }.cast::<bindings::kvm>();
        let task = current!();
        let mm = task.mm().ok_or(EIO)?;
        // SAFETY: The private data of a VM's file is the VM, to which the file holds a reference.
        let is_usable = unsafe {
            ptr::eq((*kvm).mm, mm.as_raw().cast()) && !(&raw const (*kvm).vm_dead).read_volatile()
        };
        if !is_usable {
            return Err(EIO);
        }
        let vm = NonNull::new(kvm).ok_or(EINVAL)?;
        // SAFETY: The VM is alive.
        unsafe { bindings::kvm_get_kvm(vm.as_ptr()) };
        // INVARIANT: As just taken.
        Ok(Self(vm))
    }

    /// Which VM it is.
    pub(super) fn id(&self) -> NonNull<bindings::kvm> {
        self.0
    }

    pub(super) fn as_ptr(&self) -> *mut bindings::kvm {
        self.0.as_ptr()
    }

    /// Another reference to a VM that is not destroyed yet.
    ///
    /// # Safety
    ///
    /// `kvm` must point to a VM whose memory is there until this returns.
    pub(super) unsafe fn upgrade(kvm: NonNull<bindings::kvm>) -> Option<Self> {
        // SAFETY: The memory is there.
        // INVARIANT: If it is true, there is a reference.
        unsafe { bindings::kvm_get_kvm_safe(kvm.as_ptr()) }.then_some(Self(kvm))
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // SAFETY: By the type's invariants there is a reference.
        unsafe { bindings::kvm_put_kvm(self.as_ptr()) };
    }
}
