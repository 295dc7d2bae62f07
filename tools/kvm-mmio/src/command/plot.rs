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
use crate::missing::Missing;
use crate::output;
use crate::plot::{Collector, Matrix, Picture, png, svg};
use crate::recording::Start;
use crate::row::process_label;
use crate::words::{plural, short};

#[derive(Serialize)]
#[serde(tag = "kind", rename = "plot")]
struct Drawn<'a> {
    file: &'a Path,
    pages: usize,
    pages_hidden: usize,
    accesses: u64,
    #[serde(flatten)]
    missing: Missing,
}

const TITLE: &str = "Guest pages without memory: accesses over time";

pub fn run(out: &mut dyn Write, args: &Plot, json: bool) -> Result<()> {
    let filter = args.select.filter();
    let mut collector = Collector::new(filter.clone());
    let output = args.output.clone().unwrap_or_else(|| default_output(args));
    let format = format(args.format, &output)?;
    let played = play(&args.file, &args.names, &args.span, &filter, |step| {
        collector.add(&step.grown, step.elapsed);
    })?;
    let matrix = collector.matrix(&played.names, args.top.into());
    let picture = Picture {
        title: TITLE.to_owned(),
        notes: [
            notes(&args.file, &played.start, &matrix),
            played.missing.notes(),
        ]
        .concat(),
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
        tell(out, &output, &matrix, played.missing, json)?;
    }
    out.flush()?;
    played.end()
}

fn tell(
    out: &mut dyn Write,
    output: &Path,
    matrix: &Matrix,
    missing: Missing,
    json: bool,
) -> Result<()> {
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
            accesses: matrix.accesses,
            missing,
        },
    )
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

/// Characters of each of their names.
const PROCESS: usize = 60;

/// Whose VMs these are: "VM 1: web [4711]; 2 VMs: db [4712]".
fn processes(matrix: &Matrix) -> Option<String> {
    let process = |(tgid, (name, vms)): (&u32, &(String, BTreeSet<u64>))| {
        let label = process_label(&short(name, PROCESS), *tgid);
        match vms.len() {
            1 => format!("VM {}: {label}", vms.iter().next().unwrap_or(&0)),
            count => format!("{count} VMs: {label}"),
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
    let accesses = plural(matrix.accesses, "access", "accesses");
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::device::sample;
    use crate::region::Names;
    use crate::view::Filter;

    const DOCUMENTED: &str = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../Documentation/kvm-mmio.svg"
    );

    fn start() -> Start {
        Start {
            program: "1.2.3".to_owned(),
            kernel: "7.3.4".to_owned(),
            wall_clock: 0,
            interval_ms: 5,
            counters: Vec::new(),
            regions: Vec::new(),
            host: "a-host".to_owned(),
        }
    }

    /// The width of a picture, and its texts.
    fn read(svg: &str) -> (String, Vec<String>) {
        let document = roxmltree::Document::parse(svg).unwrap();
        let width = document.root_element().attribute("width").unwrap();
        let texts = document
            .descendants()
            .filter(|node| node.has_tag_name("text"));
        let texts = texts.filter_map(|node| Some(node.text()?.trim().to_owned()));
        (width.to_owned(), texts.collect())
    }

    /// Without the figures and the names of a recording.
    fn shape(texts: &[String]) -> Vec<&str> {
        let all = texts.iter();
        let known = all.filter_map(|text| match text.split_once(' ') {
            Some(("recorded", _)) => Some("recorded"),
            Some((_, rest)) if rest.contains(" accesses to ") => Some("accesses"),
            _ if text.contains(|c: char| c.is_ascii_digit()) => None,
            _ => Some(text.as_str()),
        });
        known.collect()
    }

    #[test]
    fn what_a_picture_is_of() {
        let mut collector = Collector::new(Filter::default());
        collector.add(&sample::two_vms(), Duration::from_secs(1));
        let names = Names::new(Vec::new(), [(4711, "web".to_owned())].into());
        let matrix = collector.matrix(&names, 3);
        assert_eq!(
            notes(Path::new("a/rec"), &start(), &matrix),
            [
                "rec: 10662 accesses to 4 pages of 2 VMs; 1 with 20 accesses not drawn",
                "VM 1: web [4711]; VM 2: PID 4712",
                "recorded on 1970-01-01 00:00 UTC, host a-host, kernel 7.3.4",
            ]
        );
    }

    /// `lab/demo` draws it, for which it takes a machine.
    #[test]
    fn the_documented_picture_is_what_is_drawn() {
        let mut collector = Collector::new(Filter::default());
        let mut reading = sample::two_vms();
        reading.vms.remove(&2);
        collector.add(&reading, Duration::from_secs(1));
        let matrix = collector.matrix(&Names::default(), 3);
        let picture = Picture {
            title: TITLE.to_owned(),
            notes: notes(Path::new("demo.rec"), &start(), &matrix),
            matrix: &matrix,
        };
        let drawn = String::from_utf8(svg(&picture).unwrap()).unwrap();
        let (drawn, documented) = (read(&drawn), read(&fs::read_to_string(DOCUMENTED).unwrap()));
        assert_eq!(drawn.0, documented.0, "pixels");
        for text in shape(&drawn.1) {
            let is_there = shape(&documented.1).contains(&text) || text == "local APIC";
            assert!(is_there, "{DOCUMENTED} has no {text:?}: draw it again");
        }
        // The demo gives its guest a name.
        assert!(
            documented
                .1
                .iter()
                .any(|text| text.starts_with("VM 1: q35 ["))
        );
    }
}
