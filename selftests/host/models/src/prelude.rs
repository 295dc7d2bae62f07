// SPDX-License-Identifier: GPL-2.0
//! `kernel::prelude`, as far as it is used.

use std::{
    marker::PhantomData,
    mem::ManuallyDrop,
    ops::{BitOr, Deref, DerefMut},
};

pub(crate) use crate::{in_place::Init, init, try_init};

#[derive(Debug)]
pub(crate) struct Error(pub(crate) i32);

pub(crate) type Result<T = (), E = Error> = core::result::Result<T, E>;

pub(crate) const EINVAL: Error = Error(-22);
pub(crate) const EAGAIN: Error = Error(-11);

pub(crate) struct Flags;

pub(crate) const GFP_KERNEL_ACCOUNT: Flags = Flags;
pub(crate) const __GFP_NOWARN: Flags = Flags;

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, _: Self) -> Self {
        self
    }
}

/// What is not dropped once a test has failed: that may take loom, which is of no use any more.
pub(crate) struct Kept<T>(ManuallyDrop<T>);

impl<T> Kept<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(ManuallyDrop::new(value))
    }
}

impl<T> Drop for Kept<T> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: It is not used any more.
            unsafe { ManuallyDrop::drop(&mut self.0) };
        }
    }
}

impl<T> Deref for Kept<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Kept<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

/// Memory, which there always is.
pub(crate) struct KVBox<T>(Kept<Box<T>>);

pub(crate) type VBox<T> = KVBox<T>;

impl<T> KVBox<T> {
    pub(crate) fn init(init: impl Init<T>, _: Flags) -> Result<Self> {
        Ok(Self(Kept::new(init.make())))
    }

    pub(crate) fn new_uninit(_: Flags) -> Result<Room<T>> {
        Ok(Room(PhantomData))
    }
}

/// Where a value is going to be.
pub(crate) struct Room<T>(PhantomData<T>);

impl<T> Room<T> {
    pub(crate) fn write_init(self, init: impl Init<T>) -> Result<KVBox<T>> {
        KVBox::init(init, GFP_KERNEL_ACCOUNT)
    }
}

impl<T> Deref for KVBox<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for KVBox<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

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

/// Where the log goes.
#[macro_export]
macro_rules! pr_err {
    ($($arg:tt)*) => { eprint!($($arg)*) };
}
pub(crate) use pr_err;
pub(crate) use pr_err as pr_info;
