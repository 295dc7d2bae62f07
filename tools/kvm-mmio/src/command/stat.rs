// SPDX-License-Identifier: GPL-2.0
//! `kvm-mmio stat`: a command is run, and what has grown meanwhile is shown.

use std::fs::File;
use std::io::{self, Write};
use std::process::ExitStatus;

use anyhow::{Context, Result};

use super::report::show;
use crate::child::{self, Running};
use crate::cli::Stat;
use crate::device::{System, warn_of_setting};
use crate::region::Names;
use crate::signal::Stop;
use crate::source::{Source, Wanted};
use crate::summary::Summary;
use crate::view::By;

pub fn run(system: &System, args: &Stat, json: bool) -> Result<()> {
    child::with_own_status(count(system, args, json).and_then(child::result))
}

fn count(system: &System, args: &Stat, json: bool) -> Result<ExitStatus> {
    // What can be wrong is found before anything runs.
    let mut names = args.names.names()?;
    names.symbols = args.layout.symbols()?;
    let mut out: Box<dyn Write> = match &args.output {
        Some(path) => Box::new(File::create(path).with_context(|| path.display().to_string())?),
        None => Box::new(io::stderr()),
    };
    let (status, summary) = measure(system, args, names)?;
    show(&mut out, "stat", &summary, &args.layout, json)?;
    out.flush()?;
    Ok(status)
}

fn measure(system: &System, args: &Stat, mut names: Names) -> Result<(ExitStatus, Summary)> {
    let stop = Stop::on_signals()?;
    // Open all the time: the kernel keeps the counts of VMs that end meanwhile.
    let wanted = Wanted {
        sites: args.layout.by == By::Rip,
        times: args.latency.latency,
    };
    let source = Source::open(system, args.counting.source, wanted)?;
    let before = source.read()?;
    names.learn_aloud(system, &before);
    warn_of_setting(&before);
    let status = Running::start(&args.command)?.wait(&stop)?;
    let after = source.read()?;
    names.learn_aloud(system, &after);
    let (grown, elapsed) = (after.since(&before), after.elapsed_since(&before));
    Ok((
        status,
        Summary::new(
            &grown,
            elapsed,
            &names,
            &args.layout.view(&args.list),
            args.list.top,
        ),
    ))
}
