// SPDX-License-Identifier: GPL-2.0

//! An eventfd that the module holds a reference to.
//!
//! C header: [`include/linux/eventfd.h`](srctree/include/linux/eventfd.h).

use core::ptr::NonNull;
use kernel::{
    error::from_err_ptr,
    prelude::*, //
};
use kvm_bindings as bindings;

/// A reference to an eventfd.
///
/// # Invariants
///
/// `0` points to an eventfd, and holds a reference.
pub(crate) struct OwnEventfd(NonNull<bindings::eventfd_ctx>);

// SAFETY: References can be dropped by any thread.
unsafe impl Send for OwnEventfd {}
// SAFETY: Eventfds can be signalled by any thread, by several at once.
unsafe impl Sync for OwnEventfd {}

impl OwnEventfd {
    /// The eventfd that a file descriptor of the current process stands for.
    ///
    /// # Errors
    ///
    /// `EBADF` if there is no such file, `EINVAL` if it is not an eventfd.
    pub(crate) fn from_fd(fd: i32) -> Result<Self> {
        // SAFETY: The function copes with any number.
        let eventfd = from_err_ptr(unsafe { bindings::eventfd_ctx_fdget(fd) })?;
        // INVARIANT: It came with a reference.
        Ok(Self(NonNull::new(eventfd).ok_or(EINVAL)?))
    }

    /// Signals it, in any context that spinlocks may be taken in. Who sees that sees what was
    /// written before.
    #[inline(always)]
    pub(crate) fn signal(&self) {
        // SAFETY: By the type's invariants there is a reference.
        unsafe { bindings::eventfd_signal_mask(self.0.as_ptr(), 0) };
    }
}

impl Drop for OwnEventfd {
    fn drop(&mut self) {
        // SAFETY: By the type's invariants there is a reference.
        unsafe { bindings::eventfd_ctx_put(self.0.as_ptr()) };
    }
}
