// SPDX-License-Identifier: GPL-2.0
//! mmio-vmm: a reference for VMMs that have registers answered in the kernel.
//!
//! Read `wiring.rs` first: it is all that `--registers` changes. README.rst has the way from there.

#![deny(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;

mod boot;
mod bus;
mod cli;
mod counts;
mod disk;
mod layout;
mod machine;
mod message;
mod nvme;
mod page;
mod pci;
mod ports;
mod sys;
mod thread;
mod virtio;
mod vmm;
mod wiring;

fn main() -> ExitCode {
    match vmm::run(&cli::Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("mmio-vmm: {e:#}");
            ExitCode::FAILURE
        }
    }
}
