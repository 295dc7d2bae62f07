// SPDX-License-Identifier: GPL-2.0
//! `kernel::prelude`, as far as it is used.

use std::ops::{Deref, DerefMut};

pub(crate) use crate::{in_place::Init, init};

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

/// Where the log goes.
#[macro_export]
macro_rules! pr_err {
    ($($arg:tt)*) => { eprint!($($arg)*) };
}
pub(crate) use pr_err;
