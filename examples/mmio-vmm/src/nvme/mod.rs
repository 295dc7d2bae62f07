// SPDX-License-Identifier: GPL-2.0
//! An NVMe controller with one namespace and one pair of I/O queues: NVM Express 1.4.
//!
//! Its doorbells show what an ioeventfd cannot do: they have values, which a posted register keeps.

mod command;
mod controller;
mod data;
mod doorbells;
mod engine;
mod msix;

pub use controller::{Controller, PCI};
