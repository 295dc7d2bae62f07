// SPDX-License-Identifier: GPL-2.0
//! kvm-mmio: where the MMIO of virtual machines goes.

use std::process::ExitCode;

use clap::Parser;
use kvm_mmio::cli::Cli;
use kvm_mmio::failure::{self, Failure, Status};

fn main() -> ExitCode {
    let Err(error) = kvm_mmio::command::run(&Cli::parse()) else {
        return ExitCode::from(Status::Ok as u8);
    };
    if failure::is_broken_pipe(&error) {
        return ExitCode::from(Status::Ok as u8);
    }
    if !matches!(error.downcast_ref(), Some(Failure::Silent(_))) {
        failure::warn(format_args!("{error:#}"));
    }
    ExitCode::from(failure::status_of(&error))
}
