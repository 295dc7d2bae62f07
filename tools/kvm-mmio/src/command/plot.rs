// SPDX-License-Identifier: GPL-2.0
//! `kvm-mmio plot`: a recording as a picture.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use super::report::play;
use crate::cli::{Format, Plot};
use crate::failure::Failure;
use crate::json_lines;
use crate::output::{self, plural};
use crate::plot::{Collector, Matrix, Picture, png, svg};
use crate::recording::Start;
use crate::row::process_label;

#[derive(Serialize)]
#[serde(tag = "kind", rename = "plot")]
struct Drawn<'a> {
    file: &'a Path,
    pages: usize,
    pages_hidden: usize,
    accesses: u64,
}

pub fn run(out: &mut dyn Write, args: &Plot, json: bool) -> Result<()> {
    let mut collector = Collector::new(args.select.filter());
    let output = args.output.clone().unwrap_or_else(|| default_output(args));
    let format = format(args.format, &output)?;
    let played = play(&args.file, &args.names, &args.span, |step| {
        collector.add(&step.grown, step.elapsed);
    })?;
    let matrix = collector.matrix(&played.names, args.top.into());
    let picture = Picture {
        title: "Guest pages without memory: accesses over time".to_owned(),
        notes: notes(&args.file, &played.start, &matrix),
        matrix: &matrix,
    };
    let bytes = match format {
        Format::Svg => svg(&picture)?,
        Format::Png => png(&picture)?,
    };
    if output.as_os_str() == "-" {
        out.write_all(&bytes)?;
    } else {
        fs::write(&output, bytes).with_context(|| format!("cannot write {}", output.display()))?;
        tell(out, &output, &matrix, json)?;
    }
    out.flush()?;
    played.end()
}

fn tell(out: &mut dyn Write, output: &Path, matrix: &Matrix, json: bool) -> Result<()> {
    if !json {
        return Ok(writeln!(out, "{}", output.display())?);
    }
    json_lines::header(out, "plot")?;
    json_lines::line(
        out,
        &Drawn {
            file: output,
            pages: matrix.rows.len(),
            pages_hidden: matrix.hidden.0,
            accesses: accesses(matrix),
        },
    )
}

fn accesses(matrix: &Matrix) -> u64 {
    matrix.devices.iter().map(|(_, counts)| counts.count).sum()
}

/// What has been seen of whom, where and when.
fn notes(file: &Path, start: &Start, matrix: &Matrix) -> Vec<String> {
    let mut notes = vec![note(file, matrix)];
    notes.extend(processes(matrix));
    let (kernel, time) = (&start.kernel, output::utc(start.wall_clock));
    let host = match start.host.as_str() {
        "" => String::new(),
        host => format!(", host {host}"),
    };
    notes.push(format!("recorded on {time}{host}, kernel {kernel}"));
    notes.extend(output::names_unused(&matrix.names_unused));
    notes
}

/// Most processes that are named above a picture.
const PROCESSES: usize = 4;

/// Whose VMs these are: "VM 1: web [4711]; VMs 2 and 3: db [4712]".
fn processes(matrix: &Matrix) -> Option<String> {
    let process = |(tgid, (name, vms)): (&u32, &(String, BTreeSet<u64>))| {
        let label = process_label(name, *tgid);
        match (matrix.processes.len(), vms.len()) {
            (1, _) => format!("process: {label}"),
            (_, 1) => format!("VM {}: {label}", vms.iter().next().unwrap_or(&0)),
            (_, count) => format!("{count} VMs: {label}"),
        }
    };
    let mut named: Vec<_> = matrix.processes.iter().map(process).collect();
    if named.len() > PROCESSES {
        let others = named.len() - PROCESSES;
        named.truncate(PROCESSES);
        named.push(format!("{others} more processes"));
    }
    (!named.is_empty()).then(|| named.join("; "))
}

fn note(file: &Path, matrix: &Matrix) -> String {
    let name = match file.to_str() {
        Some("-") => "standard input".into(),
        _ => file.file_name().unwrap_or_default().to_string_lossy(),
    };
    let accesses = plural(accesses(matrix), "access", "accesses");
    let pages = matrix.rows.len() + matrix.hidden.0;
    let pages = plural(pages as u64, "page", "pages");
    let vms = plural(matrix.vms as u64, "VM", "VMs");
    let hidden = match matrix.hidden {
        (0, _) => String::new(),
        (count, accesses) => format!(
            "; {count} with {} not drawn",
            plural(accesses, "access", "accesses")
        ),
    };
    format!("{name}: {accesses} to {pages} of {vms}{hidden}")
}

/// As the name of the file ends, unless it is said. A file that is called something else than it
/// is helps nobody.
fn format(given: Option<Format>, output: &Path) -> Result<Format> {
    let ending = output
        .extension()
        .map(|ending| ending.to_string_lossy().to_lowercase());
    match (given, ending.as_deref()) {
        (Some(format), _) => Ok(format),
        (None, Some("png")) => Ok(Format::Png),
        (None, Some("svg") | None) => Ok(Format::Svg),
        (None, Some(ending)) => Err(Failure::Usage(format!(
            "{}: there are pictures in SVG and PNG, none in {ending}; --format says which one \
             whatever the file is called",
            output.display()
        ))
        .into()),
    }
}

/// Of a recording that comes by standard input, the picture goes to standard output.
fn default_output(args: &Plot) -> PathBuf {
    if args.file.as_os_str() == "-" {
        return args.file.clone();
    }
    args.file.with_extension(match args.format {
        Some(Format::Png) => "png",
        _ => "svg",
    })
}
