// SPDX-License-Identifier: GPL-2.0
//! `kvm-mmio export`: all counts, for Prometheus.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cli::Export;
use crate::device::System;
use crate::openmetrics::{Limits, render};
use crate::output;
use crate::summary::{Summary, View};

pub fn run(out: &mut dyn Write, system: &System, args: &Export, json: bool) -> Result<()> {
    let regions = args.names.regions(&[])?;
    let read = system.open().and_then(|device| device.read());
    let mut bytes = Vec::new();
    if json {
        output::header(&mut bytes, "export")?;
        if let Ok(reading) = &read {
            let since_boot = Duration::from_nanos(reading.clock.boottime);
            let summary = Summary::new(reading, since_boot, &regions, &View::default(), args.top);
            output::summary_json(&mut bytes, &summary)?;
        }
    } else {
        let limits = Limits {
            vms: args.vms,
            pages: args.top,
        };
        bytes = render(read.as_ref().ok(), &regions, limits).into_bytes();
    }
    match &args.output {
        Some(path) => replace(path, &bytes)?,
        None => out.write_all(&bytes)?,
    }
    // Whoever scrapes has been told; whoever has called it shall know why.
    read.map(drop)
}

/// Writes a file so that a reader sees the old one or the new one. A device or a pipe stays what
/// it is.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || match fs::metadata(path) {
        Ok(node) if !node.is_file() => fs::write(path, bytes),
        _ => {
            let mut temporary = OsString::from(path);
            temporary.push(format!(".{}", std::process::id()));
            fs::write(&temporary, bytes)
                .and_then(|()| fs::rename(&temporary, path))
                .inspect_err(|_| drop(fs::remove_file(&temporary)))
        }
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
