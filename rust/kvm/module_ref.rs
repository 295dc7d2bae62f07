// SPDX-License-Identifier: GPL-2.0

//! A reference to this module.
//!
//! C header: [`include/linux/module.h`](srctree/include/linux/module.h).

use kernel::{
    error::to_result,
    prelude::*, //
};
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
        // SAFETY: The function has no preconditions.
        to_result(unsafe { bindings::mmio_ext_hold_module() })?;
        Ok(Self(()))
    }
}

impl Drop for ModuleRef {
    fn drop(&mut self) {
        // SAFETY: There is a reference: that of `new()`.
        unsafe { bindings::mmio_ext_release_module() };
    }
}
