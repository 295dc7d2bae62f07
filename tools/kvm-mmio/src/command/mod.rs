// SPDX-License-Identifier: GPL-2.0
//! What the program can be asked for, a command each.

mod diff;
mod export;
mod generate;
mod pair;
mod plot;
mod record;
mod report;
mod stat;
mod status;
mod top;

use std::io::{self, Write};

use anyhow::Result;

use crate::cli::{Cli, Command};
use crate::device::System;

/// Does what was asked for.
pub fn run(cli: &Cli) -> Result<()> {
    let system = System::at(&cli.root);
    let mut out = io::stdout().lock();
    match &cli.command {
        Command::Record(args) => record::run(&mut out, &system, args, cli.json),
        Command::Report(args) => report::run(&mut out, args, cli.json),
        Command::Diff(args) => diff::run(&mut out, args, cli.json),
        Command::Plot(args) => plot::run(&mut out, args, cli.json),
        Command::Stat(args) => stat::run(&system, args, cli.json),
        Command::Status => status::run(&mut out, &system, cli.json),
        Command::Top(args) => top::run(&mut out, &system, args, cli.json),
        Command::Export(args) => export::run(&mut out, &system, args, cli.json),
        Command::Generate(args) => generate::run(&mut out, &args.what),
    }?;
    Ok(out.flush()?)
}
