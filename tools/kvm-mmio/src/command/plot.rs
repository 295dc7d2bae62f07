// SPDX-License-Identifier: GPL-2.0
//! `kvm-mmio plot`: a recording as a picture.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use super::report::play;
use crate::cli::{Format, Plot};
use crate::output::{self, plural};
use crate::plot::{Collector, Matrix, Picture, png, svg};

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
    let played = play(&args.file, |step| collector.add(&step.grown, step.elapsed))?;
    let regions = args.names.regions(&played.regions)?;
    let matrix = collector.matrix(&regions, args.top.into());
    let picture = Picture {
        title: "Guest pages without memory: accesses over time".to_owned(),
        notes: vec![note(&args.file, &matrix)],
        matrix: &matrix,
    };
    let output = args.output.clone().unwrap_or_else(|| default_output(args));
    let bytes = match format(args.format, &output) {
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
    output::header(out, "plot")?;
    output::line(
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

fn note(file: &Path, matrix: &Matrix) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
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

fn format(given: Option<Format>, output: &Path) -> Format {
    let is_png = output
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("png"));
    given.unwrap_or(if is_png { Format::Png } else { Format::Svg })
}

fn default_output(args: &Plot) -> PathBuf {
    args.file.with_extension(match args.format {
        Some(Format::Png) => "png",
        _ => "svg",
    })
}
