// SPDX-License-Identifier: GPL-2.0
//! Small guests: a few megabytes of RAM, page tables, and code that is assembled at run time.
//!
//! A test hands [`Vcpu::exec`] a few instructions and gets back, in order, every exit that they
//! caused ([`Event`]). So the order, address, length and data of each MMIO access is seen exactly,
//! and the guest needs no kernel.

pub mod cpu;
mod event;
mod ioeventfd;
pub mod layout;
mod machine;
mod memory;
mod mode;
pub mod paging;
mod register;
pub mod vcpu;

pub use event::{Event, Fault, PAGE_FAULT, pattern, pattern_value};
pub use ioeventfd::{Bus, Doorbell, Match, new_event};
pub use machine::{Machine, SMM_SPACE, SlotKind, Svm, Zap};
pub use memory::Region;
pub use mode::Mode;
pub use paging::PageTables;
pub use register::{Place, Registers, Request, on_read, on_write, signal};
pub use vcpu::{Run, Vcpu, operand};

/// Size of a page, in bytes. KVM's MMIO caches and SPTEs work in units of it.
pub const PAGE: u64 = 4096;
