// SPDX-License-Identifier: GPL-2.0

//! A reference to this module.
//!
//! C header: [`include/linux/module.h`](srctree/include/linux/module.h).

use kernel::prelude::*;
use kvm_bindings as bindings;

/// Keeps the module loaded, for what an open file of it needs: the crate `kernel` of 7.2 has no owner
/// for files of misc devices. What holds it drops it last.
pub(crate) struct ModuleRef(());

impl ModuleRef {
    /// # Errors
    ///
    /// `ENODEV` if the module is just being unloaded.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: The function has no preconditions.
        if !unsafe { bindings::mmio_ext_hold_module() } {
            return Err(ENODEV);
        }
        Ok(Self(()))
    }
}

impl Drop for ModuleRef {
    fn drop(&mut self) {
        // SAFETY: There is a reference: that of `new()`.
        unsafe { bindings::mmio_ext_release_module() };
    }
}
