// SPDX-License-Identifier: GPL-2.0

//! A reference to this module.
//!
//! C header: [`include/linux/module.h`](srctree/include/linux/module.h).

use kernel::prelude::*;
use kvm_bindings as bindings;

/// Keeps the module loaded, as its open files want. (Of misc devices the crate `kernel` of 7.3 says who
/// owns them, that of 7.2 does not.) What holds it drops it last.
pub(crate) struct ModuleRef(());

impl ModuleRef {
    /// # Errors
    ///
    /// `EAGAIN` if the module is still being loaded: who holds it could survive its failure.
    /// `ENODEV` if it is just being unloaded.
    pub(crate) fn new() -> Result<Self> {
        // A module that fails to load is freed whatever references there are.
        // SAFETY: The function has no preconditions.
        if unsafe { bindings::mmio_ext_module_is_coming() } {
            return Err(EAGAIN);
        }
        // SAFETY: The function has no preconditions.
        match unsafe { bindings::mmio_ext_try_get_module() } {
            true => Ok(Self(())),
            false => Err(ENODEV),
        }
    }
}

impl Drop for ModuleRef {
    fn drop(&mut self) {
        // SAFETY: There is a reference: that of `new()`.
        unsafe { bindings::mmio_ext_put_module() };
    }
}
