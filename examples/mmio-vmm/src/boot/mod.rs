// SPDX-License-Identifier: GPL-2.0
//! How a guest begins: its kernel, its tables of ACPI, the first state of its processor.

mod acpi;
mod aml;
mod cpu;
mod kernel;

pub use acpi::{Region, write_tables};
pub use cpu::set_up;
pub use kernel::Boot;
