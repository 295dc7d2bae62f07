// SPDX-License-Identifier: GPL-2.0
//! `kvm-mmio export`: all counts, for Prometheus.

mod listen;
mod prometheus;

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cli::Export;
use crate::device::System;
use crate::failure::Failure;
use crate::json_lines;
use crate::reading::Reading;
use crate::region::Names;
use crate::source::{Choice, NOT_OF_MODULE};
use crate::summary::Summary;
use crate::trace;
use crate::view::{By, View};
use listen::listen;
use prometheus::{metrics, warn_of_names};

pub fn run(out: &mut dyn Write, system: &System, args: &Export, json: bool) -> Result<()> {
    if let Some(wrong) = misuse(args, json) {
        return Err(Failure::Usage(wrong.to_owned()).into());
    }
    let mut names = args.names.names()?;
    if let Some(address) = args.listen {
        return listen(system, args, address, names);
    }
    let read = read(system, &mut names);
    let reading = read.as_ref().ok();
    if let Some(reading) = reading {
        warn_of_names(reading, &names);
    }
    let bytes = match json {
        true => lines(reading, &names, args.top)?,
        false => metrics(reading, &names, args, args.format.unwrap_or_default()).into_bytes(),
    };
    match &args.output {
        Some(path) => replace(path, &bytes)?,
        None => out.write_all(&bytes)?,
    }
    // Whoever scrapes has been told; whoever has called it shall know why.
    read.map(drop)
}

/// What is wrong with options that exclude each other, if so.
fn misuse(args: &Export, json: bool) -> Option<&'static str> {
    let traced = !matches!(args.counting.source, Choice::Auto | Choice::Module);
    let latency = args.latency.latency;
    if args.by.is_some_and(|by| by != By::Page) {
        return Some(BY_PAGE);
    }
    match args.listen {
        Some(_) if json => Some("--listen and --json exclude each other"),
        Some(_) if latency && args.counting.source == Choice::Module => Some(NOT_OF_MODULE),
        None if traced || latency => Some(NOT_ONCE),
        _ => None,
    }
}

const BY_PAGE: &str = "metrics are by page only, as there is no bound to the series of addresses that \
    guests choose: each boot and each program has others. `kvm-mmio stat --by` has them of some time";

/// What the module has counted until now. Nothing else counts while nobody reads.
fn read(system: &System, names: &mut Names) -> Result<Reading> {
    let device = system.open().map_err(|error| {
        if system.has_module("kvm_mmio_ext") || !has_tracepoints(system) {
            return error;
        }
        let text = format!("the module kvm_mmio_ext is not loaded, and {NOT_ONCE}");
        Failure::Unavailable(text).into()
    })?;
    let reading = device.read()?;
    names.learn_aloud(system, &reading);
    Ok(reading)
}

const NOT_ONCE: &str = "KVM's tracepoints count only while somebody reads them: `kvm-mmio export \
    --listen 9753` does, and answers scrapes";

/// Perhaps not for this user.
fn has_tracepoints(system: &System) -> bool {
    !matches!(
        trace::explain_absence(system),
        Some(Failure::Unavailable(_))
    )
}

fn lines(reading: Option<&Reading>, names: &Names, top: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    json_lines::header(&mut bytes, "export")?;
    if let Some(reading) = reading {
        let since_boot = Duration::from_nanos(reading.clock.boottime);
        let summary = Summary::new(reading, since_boot, names, &View::default(), top);
        json_lines::summary_json(&mut bytes, &summary)?;
    }
    Ok(bytes)
}

/// Writes a file so that a reader sees the old one or the new one. A device, a pipe or a link
/// stays what it is.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || match replaceable(path) {
        None => fs::write(path, bytes),
        Some(file) => {
            let mut temporary = OsString::from(&file);
            temporary.push(format!(".{}", std::process::id()));
            fs::write(&temporary, bytes)
                .and_then(|()| fs::rename(&temporary, &file))
                .inspect_err(|_| drop(fs::remove_file(&temporary)))
        }
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// The file that is meant, be it there or not; None for what has to be written into.
fn replaceable(path: &Path) -> Option<PathBuf> {
    match fs::canonicalize(path) {
        Ok(node) => node.is_file().then_some(node),
        // A link may lead to what has no name, as /dev/stdout does to a pipe.
        Err(_) => (!path.is_symlink()).then(|| path.to_owned()),
    }
}
