// SPDX-License-Identifier: GPL-2.0

//! The registration of an extension with kvm.ko.
//!
//! C header: [`arch/x86/include/asm/kvm_mmio_ext.h`](srctree/arch/x86/include/asm/kvm_mmio_ext.h),
//! which the kernel patch adds.

use super::{
    callbacks::callbacks,
    ext::MmioExt, //
};
use core::marker::PhantomData;
use kernel::{
    error::to_result,
    prelude::*, //
};
use kvm_bindings as bindings;

/// The registration with kvm.ko. Dropping it takes it back.
pub(crate) struct Registration<T> {
    ops: KBox<bindings::kvm_mmio_ext_ops>,
    _ext: PhantomData<T>,
}

// SAFETY: The table is not changed after it was registered, and unregistering can be done from any
// thread.
unsafe impl<T> Send for Registration<T> {}
// SAFETY: There is nothing that can be done with a shared reference.
unsafe impl<T> Sync for Registration<T> {}

impl<T: MmioExt> Registration<T> {
    /// Registers the extension, switched on or off as the parameter `enabled` says.
    ///
    /// # Errors
    ///
    /// `EBUSY` if another extension is registered, `EINVAL` if the installed masks do not fit.
    pub(crate) fn new(module: &'static ThisModule) -> Result<Self> {
        let ops = KBox::new(callbacks::<T>(module.as_ptr().cast()), GFP_KERNEL)?;
        // SAFETY: The table is complete and stays where it is until it is unregistered; the
        // functions keep the contract of `struct kvm_mmio_ext_ops`.
        to_result(unsafe { bindings::mmio_ext_register(&*ops) })?;
        Ok(Self {
            ops,
            _ext: PhantomData,
        })
    }
}

impl<T> Drop for Registration<T> {
    fn drop(&mut self) {
        // SAFETY: The table was registered. No VM exists, as each holds a reference to the module.
        unsafe { bindings::kvm_mmio_ext_unregister(&*self.ops) };
    }
}
