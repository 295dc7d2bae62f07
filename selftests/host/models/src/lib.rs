// SPDX-License-Identifier: GPL-2.0
//! What threads share in the extension, in every order that their steps can have.
//!
//! loom runs each test again and again, with another order of the threads' steps each time and
//! with every value that a load may return. The way of an access is the module's own code, from
//! the exit handlers down to the doorbells; `kvm/vcpu.rs` puts a model into the place of `struct
//! kvm_vcpu`, and `linux/` models what KVM does around it. Atomics are no stronger there than on
//! x86.
//!
//! loom's threads take turns on one of the system's, hence `Rc` and `Cell` in what they share.
//!
//! A test of a protocol has a second one beside it, of the same with a mistake made on purpose:
//! a model that finds nothing wrong there would prove nothing.

#![cfg(test)]
#![allow(dead_code, reason = "the module needs more of it")]

// The crates that the module's files name.
extern crate self as kernel;
extern crate self as kvm_bindings;
extern crate self as pin_init;

use kvm_mmio_ext_host_tests::{addr, generation, iodev, mmio_info, pure};
use linux::bindings::*;

#[path = "../../../../src/access.rs"]
mod access;
#[path = "../../../../src/exit.rs"]
mod exit;
#[path = "../../../../src/fast/mod.rs"]
mod fast;
#[path = "../../../../src/fault.rs"]
mod fault;
#[path = "../../../../src/insns.rs"]
#[allow(
    clippy::declare_interior_mutable_const,
    reason = "a value to begin with"
)]
mod insns;
#[path = "../../../../src/sync.rs"]
mod shadow;

mod kvm;
mod linux;
mod report;
mod tests;

/// In the place of `src/state.rs`.
mod state {
    pub(crate) use crate::kvm::{PendingLoad, Vcpu};
}

/// Nobody looks at an access.
mod observe {
    use crate::{
        access::{FaultAddress, MmioFault},
        addr::Gpa,
        kvm::Exit,
        report::stats::Event,
        state::Vcpu,
    };

    pub(crate) fn emulate(vcpu: &mut Vcpu<'_>, fault: &MmioFault<'_>) -> Exit {
        vcpu.emulate_instruction(fault)
    }

    pub(crate) fn emulate_refused(
        vcpu: &mut Vcpu<'_>,
        fault: &MmioFault<'_>,
        reason: Event,
    ) -> Exit {
        vcpu.stats().count_refused(reason, false);
        emulate(vcpu, fault)
    }

    pub(crate) fn wildcard(_: &mut Vcpu<'_>, _: Gpa) {}

    pub(crate) fn miss(_: &Vcpu<'_>, _: FaultAddress, _: bool) {}

    pub(crate) fn to_emulator(_: &Vcpu<'_>) {}

    pub(crate) fn hit_left_to_kvm(vcpu: &Vcpu<'_>) {
        vcpu.stats().count(Event::CacheHit);
    }
}

/// `kernel::prelude`, as far as it is used.
mod prelude {
    pub(crate) use crate::init;
    use std::ops::{Deref, DerefMut};

    #[derive(Debug)]
    pub(crate) struct Error(pub(crate) i32);

    pub(crate) type Result<T = (), E = Error> = core::result::Result<T, E>;

    pub(crate) const EINVAL: Error = Error(-22);
    pub(crate) const EAGAIN: Error = Error(-11);

    pub(crate) struct Flags;

    pub(crate) const GFP_KERNEL_ACCOUNT: Flags = Flags;

    pub(crate) type VBox<T> = Box<T>;

    /// A vector for which there is always memory.
    pub(crate) struct KVec<T>(Vec<T>);

    impl<T> KVec<T> {
        pub(crate) fn new() -> Self {
            Self(Vec::new())
        }

        pub(crate) fn with_capacity(capacity: usize, _: Flags) -> Result<Self> {
            Ok(Self(Vec::with_capacity(capacity)))
        }

        pub(crate) fn push(&mut self, value: T, _: Flags) -> Result {
            self.0.push(value);
            Ok(())
        }
    }

    impl<T> Deref for KVec<T> {
        type Target = Vec<T>;

        fn deref(&self) -> &Vec<T> {
            &self.0
        }
    }

    impl<T> DerefMut for KVec<T> {
        fn deref_mut(&mut self) -> &mut Vec<T> {
            &mut self.0
        }
    }

    /// What makes a value in place: the stacks of loom's threads are small.
    pub(crate) trait Init<T>: Sized {
        /// # Safety
        ///
        /// `place` must be good for writing.
        unsafe fn write(self, place: *mut T);

        fn make(self) -> Box<T> {
            let mut place = Box::new_uninit();
            // SAFETY: There is room for it, and it is written.
            unsafe {
                self.write(place.as_mut_ptr());
                place.assume_init()
            }
        }
    }

    impl<T, F: FnOnce(*mut T)> Init<T> for F {
        unsafe fn write(self, place: *mut T) {
            self(place)
        }
    }

    /// Where the log goes.
    #[macro_export]
    macro_rules! pr_err {
        ($($arg:tt)*) => { eprint!($($arg)*) };
    }
    pub(crate) use pr_err;
}

/// `init!`.
#[macro_export]
macro_rules! init {
    ($Type:ident { $($fields:tt)* }) => {
        |place: *mut $Type| { $crate::init_fields!(place, $($fields)*); }
    };
}

/// Of the fields of `init!`, the first, then the others.
#[macro_export]
macro_rules! init_fields {
    ($place:ident, $field:ident <- $init:expr, $($others:tt)*) => {
        let init = $init;
        // SAFETY: By the contract of `Init::write()`.
        unsafe { init.write(&raw mut (*$place).$field) };
        $crate::init_fields!($place, $($others)*);
    };
    ($place:ident, $field:ident: $value:expr, $($others:tt)*) => {
        let value = $value;
        // SAFETY: By the contract of `Init::write()`.
        unsafe { (&raw mut (*$place).$field).write(value) };
        $crate::init_fields!($place, $($others)*);
    };
    ($place:ident,) => {};
}

/// `pin_init::init_array_from_fn()`.
fn init_array_from_fn<T, const N: usize>(
    mut make: impl FnMut(usize) -> T,
) -> impl prelude::Init<[T; N]> {
    move |place: *mut [T; N]| {
        for i in 0..N {
            // SAFETY: By the contract of `Init::write()`.
            unsafe { place.cast::<T>().add(i).write(make(i)) };
        }
    }
}

/// `pin_init::Zeroable`.
///
/// # Safety
///
/// As there.
unsafe trait Zeroable {}

/// `pin_init::init_zeroed()`.
fn init_zeroed<T: Zeroable>() -> impl prelude::Init<T> {
    // SAFETY: There is room for one, which may be all zero.
    |place: *mut T| unsafe { place.write_bytes(0, 1) }
}

/// `kernel::sync`, as far as it is used.
mod sync {
    use crate::prelude::{Flags, Init, Result};
    use std::ops::Deref;

    /// loom notices if one is never freed.
    pub(crate) struct Arc<T>(loom::sync::Arc<T>);

    impl<T> Arc<T> {
        pub(crate) fn new(value: T, _: Flags) -> Result<Self> {
            Ok(Self(loom::sync::Arc::new(value)))
        }

        pub(crate) fn init(init: impl Init<T>, flags: Flags) -> Result<Self> {
            Self::new(*init.make(), flags)
        }

        pub(crate) fn ptr_eq(a: &Self, b: &Self) -> bool {
            loom::sync::Arc::ptr_eq(&a.0, &b.0)
        }
    }

    impl<T> Clone for Arc<T> {
        fn clone(&self) -> Self {
            Self(self.0.clone())
        }
    }

    impl<T> Deref for Arc<T> {
        type Target = T;

        fn deref(&self) -> &T {
            &self.0
        }
    }

    /// A lock that loom makes anew for each order.
    #[macro_export]
    macro_rules! global_lock {
        ($(#[$meta:meta])* $vis:vis unsafe(uninit) static $name:ident: Mutex<$Type:ty> = $value:expr;) => {
            loom::lazy_static! {
                static ref LOCK: loom::sync::Mutex<$Type> = loom::sync::Mutex::new($value);
            }

            pub(crate) struct Global;

            impl Global {
                fn lock(&self) -> loom::sync::MutexGuard<'static, $Type> {
                    LOCK.lock().unwrap()
                }
            }

            $(#[$meta])* $vis static $name: Global = Global;
        };
    }
    pub(crate) use global_lock;

    /// A counter that no model looks at.
    pub(crate) mod atomic {
        use std::sync::atomic::{AtomicI64, Ordering};

        pub(crate) use Ordering::Relaxed;

        pub(crate) struct Atomic<T>(AtomicI64, std::marker::PhantomData<T>);

        impl Atomic<i64> {
            pub(crate) const fn new(value: i64) -> Self {
                Self(AtomicI64::new(value), std::marker::PhantomData)
            }

            pub(crate) fn add(&self, n: i64, order: Ordering) {
                self.0.fetch_add(n, order);
            }

            pub(crate) fn load(&self, order: Ordering) -> i64 {
                self.0.load(order)
            }
        }
    }
}
