// SPDX-License-Identifier: GPL-2.0
//! In the place of `rust/kvm/exit_info.rs`: exits of 64-bit code of the guest's kernel.

use crate::prelude::*;
use std::marker::PhantomData;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit(i32);

impl Exit {
    pub(crate) const PASS: Self = Self(0);
    pub(crate) const RESUME: Self = Self(1);
    pub(crate) const USERSPACE: Self = Self(2);

    pub(crate) fn error(error: Error) -> Self {
        panic!("{error:?}")
    }

    pub(super) const fn from_handler(r: i32) -> Self {
        match r {
            0 => Self::USERSPACE,
            _ => Self::RESUME,
        }
    }

    /// What KVM's handlers return, of an exit that was handled.
    pub(crate) const fn to_handler(self) -> i32 {
        match self {
            Self::USERSPACE => 0,
            _ => 1,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageFault {
    Retry,
    Emulate,
    Invalid,
}

/// The bytes 0 to 7 and 7 to 14, if the processor reports any.
#[derive(Clone, Copy)]
pub(crate) struct AssistBytes<'a>(Option<[u64; 2]>, PhantomData<&'a u8>);

impl AssistBytes<'_> {
    pub(crate) const MAX: usize = 15;
    pub(crate) const NONE: Self = Self(None, PhantomData);

    /// All of them, of 16 that are there.
    pub(crate) fn new([first, last]: [u64; 2]) -> Self {
        Self(Some([first, first >> 56 | last << 8]), PhantomData)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.map_or(0, |_| Self::MAX)
    }

    pub(crate) fn words(&self, _: u64) -> Option<[u64; 2]> {
        self.0
    }
}

/// The kernel of the guest runs 64-bit code.
#[derive(Clone, Copy)]
pub(crate) struct Mode;

impl Mode {
    pub(crate) const fn can_skip(self) -> bool {
        false
    }

    pub(crate) const fn is_user(self) -> bool {
        false
    }

    pub(crate) const fn as_64_bit(self) -> Self {
        self
    }

    pub(crate) const fn is_flat(self) -> bool {
        false
    }
}

/// Nobody looks at how long an exit takes.
pub(crate) struct LastExit<'a>(PhantomData<&'a u8>);

impl LastExit<'_> {
    pub(super) const NOW: Self = Self(PhantomData);

    pub(crate) fn tsc(&self) -> u64 {
        0
    }

    pub(crate) fn userspace_was_asked(&self) -> bool {
        false
    }
}
