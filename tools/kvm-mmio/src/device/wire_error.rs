// SPDX-License-Identifier: GPL-2.0
//! What can be wrong with the kernel's statistics file.

use thiserror::Error;

use crate::stats_format::VERSION;

#[derive(Debug, Error, PartialEq, Eq)]
pub enum Fault {
    #[error("it is not the statistics file of kvm_mmio_ext")]
    Magic,
    #[error("its version is {0}, this program knows version {VERSION}")]
    Version(u64),
    #[error("it ends too early")]
    Truncated,
    #[error("a size or an offset leads outside")]
    Outside,
    #[error("it has no field {1:?} for {0}")]
    NoField(&'static str, &'static str),
    #[error("a field of {0} bytes")]
    FieldSize(usize),
    #[error("a block without the block that it belongs to")]
    Stray,
    #[error("its {0} blocks are {1}, and it says {2}")]
    Count(&'static str, u64, u64),
}

/// What is wrong with the file, and where.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("cannot understand the kernel's statistics: at byte {offset}, {fault}")]
pub struct WireError {
    pub offset: usize,
    pub fault: Fault,
}

/// Of what is wrong at an offset.
pub fn at(offset: usize) -> impl Fn(Fault) -> WireError {
    move |fault| WireError { offset, fault }
}
