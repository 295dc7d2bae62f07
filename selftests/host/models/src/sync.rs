// SPDX-License-Identifier: GPL-2.0
//! `kernel::sync`, as far as it is used, and `src/sync.rs`, which has the same name.

#[path = "../../../../src/sync.rs"]
mod shadow;

pub(crate) use shadow::{set_mmio_spte, sync_mmio_spte};

use crate::prelude::{Flags, Init, Kept, Result};
use std::ops::Deref;

/// loom notices if one is never freed.
pub(crate) struct Arc<T>(Kept<loom::sync::Arc<T>>);

impl<T> Arc<T> {
    pub(crate) fn new(value: T, _: Flags) -> Result<Self> {
        Ok(Self(Kept::new(loom::sync::Arc::new(value))))
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
        Self(Kept::new(loom::sync::Arc::clone(&self.0)))
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
