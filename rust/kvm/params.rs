// SPDX-License-Identifier: GPL-2.0

//! The module's parameters, which `rust/params.c` defines.

use core::ptr;
use kvm_bindings as bindings;

/// Reads a parameter.
macro_rules! read_bool {
    ($var:ident) => {
        // SAFETY: A bool that the C side only ever writes 0 or 1 to; a read that races with a write
        // sees one or the other.
        unsafe { ptr::read_volatile(&raw const bindings::$var) }
    };
}

/// What the parameter `enabled` is.
pub(crate) fn is_enabled() -> bool {
    read_bool!(mmio_ext_enabled)
}

/// Whether the fast path is switched on, the parameter `fast`.
#[inline(always)]
pub(crate) fn fast_path_enabled() -> bool {
    read_bool!(mmio_ext_fast)
}
