// SPDX-License-Identifier: GPL-2.0
//! The command line. Its help, the man page and the completions of shells are made from this.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use regex_lite::Regex;

use crate::failure::{self, Failure};
use crate::metrics;
use crate::region::{self, Given, Monitor, Names, Owner, Region};
use crate::source::Choice;
use crate::symbols::Symbols;
use crate::values::{OwnedFile, address, duration, monitor, owned_file};
use crate::view::By;
use crate::view::{Filter, Sort, View};

/// Shows which pages of a VM trap as MMIO, how often, and what becomes of the accesses
///
/// The figures are those of the kernel module kvm_mmio_ext, in /dev/kvm_mmio_ext, or where it is
/// not loaded of KVM's tracepoints. Pages are counted while top, record or stat run.
#[derive(Debug, Parser)]
#[command(name = "kvm-mmio", version = env!("VERSION"), after_help = failure::HELP)]
pub struct Cli {
    /// JSON Lines in place of text; the first line has the version of the schema
    #[arg(long, global = true)]
    pub json: bool,
    /// Take /dev, /proc and /sys from below a directory
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/",
        global = true,
        hide = true
    )]
    pub root: PathBuf,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Say whether the extension is there and how it is set; what is missing, and what to do
    Status,
    /// Show the pages that are accessed now; text if the output is no terminal
    Top(Top),
    /// Write a recording
    Record(Record),
    /// Show the pages of a recording
    Report(Report),
    /// Show how the pages of one recording have changed in another, in accesses per second
    Diff(Diff),
    /// Draw a recording: pages over time, and a bar for each device
    Plot(Plot),
    /// Run a command and show the accesses to each page meanwhile, exactly
    Stat(Stat),
    /// Print all counts as metrics, for Prometheus, or answer its scrapes
    Export(Export),
    /// Print the man page or a shell's completions
    #[command(hide = true)]
    Generate(Generate),
}

/// How pages are named.
#[derive(Args, Debug)]
#[command(next_help_heading = "Names of pages")]
pub struct NameFiles {
    /// A TOML file with a table [[region]] for each range: name, start, size (default one page)
    ///
    /// Of the VMs of a process, or of `all` VMs. Without either, of the process that has all VMs;
    /// if there are several, the file is not used.
    #[arg(long, value_name = "[PID=]FILE", value_parser = owned_file)]
    regions: Vec<OwnedFile>,
    /// What QEMU's monitor prints for `info mtree`, with any of its options; `-` reads it from
    /// standard input
    #[arg(long, value_name = "[PID=]FILE", value_parser = owned_file)]
    mtree: Vec<OwnedFile>,
    /// Ask the monitor of a QEMU, QMP or HMP, for `info mtree`, again whenever the VM accesses new
    /// pages, and every 10 s
    #[arg(long, value_name = "PID=SOCKET", value_parser = monitor)]
    qmp: Vec<(u32, PathBuf)>,
}

impl NameFiles {
    /// The ranges that are given, those of monitors as they are now.
    pub fn given(&self) -> Result<Vec<Given>> {
        Ok(self.names()?.given())
    }

    fn files(&self) -> Result<Vec<Given>> {
        let mut given = Vec::new();
        let mut take = |file: &OwnedFile, regions: Vec<Region>| {
            let owner = file.owner;
            given.extend(regions.into_iter().map(|region| Given { owner, region }));
        };
        for file in &self.regions {
            take(file, region::read_config(&file.path)?);
        }
        for file in &self.mtree {
            take(file, region::read_mtree(&file.path)?);
        }
        Ok(given)
    }

    /// Of what runs now.
    pub fn names(&self) -> Result<Names> {
        let open = |(process, socket): &(u32, PathBuf)| Monitor::open(*process, socket.clone());
        let mut names = Names::new(self.files()?, BTreeMap::new());
        names.monitors = self.qmp.iter().map(open).collect::<Result<_>>()?;
        Ok(names)
    }
}

/// Which pages are shown.
#[derive(Args, Debug)]
#[command(next_help_heading = "Selection")]
pub struct Select {
    /// Only these VMs, by the number in the column VM
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    vm: Vec<u64>,
    /// Only VMs of these processes
    #[arg(long, short, value_name = "PID", value_delimiter = ',')]
    pid: Vec<u32>,
    /// Only accesses of these vCPUs
    #[arg(long, value_name = "N", value_delimiter = ',')]
    vcpu: Vec<u32>,
    /// Only pages with a name, or a device, that matches a regular expression
    #[arg(long, short, value_name = "REGEX")]
    filter: Option<Regex>,
}

impl Select {
    pub fn filter(&self) -> Filter {
        Filter {
            vms: self.vm.clone(),
            pids: self.pid.clone(),
            vcpus: self.vcpu.clone(),
            name: self.filter.clone(),
        }
    }
}

/// How pages are listed.
#[derive(Args, Debug)]
pub struct List {
    #[command(flatten)]
    select: Select,
    /// Order, the most first
    #[arg(long, short, value_enum, default_value_t, help_heading = "Selection")]
    sort: Sort,
    /// A row for each vCPU
    #[arg(long, help_heading = "Selection")]
    per_vcpu: bool,
    /// Most pages that are listed
    #[arg(
        long,
        value_name = "N",
        default_value_t = 40,
        help_heading = "Selection"
    )]
    pub top: usize,
}

impl List {
    pub fn view(&self) -> View {
        View {
            filter: self.select.filter(),
            sort: self.sort,
            per_vcpu: self.per_vcpu,
            by: By::Page,
        }
    }
}

/// How instructions are named.
#[derive(Args, Debug)]
pub struct SymbolFiles {
    /// Names of instructions: the guest's /proc/kallsyms or System.map, or an ELF file with symbols,
    /// at the addresses that the guest runs them at
    #[arg(long, value_name = "[PID=]FILE", value_parser = owned_file)]
    symbols: Vec<OwnedFile>,
}

impl SymbolFiles {
    pub fn read(&self) -> Result<Vec<(Owner, Symbols)>> {
        let read = |file: &OwnedFile| Ok((file.owner, Symbols::read(&file.path)?));
        self.symbols.iter().map(read).collect()
    }
}

/// How a result is laid out.
#[derive(Args, Debug)]
pub struct Layout {
    /// What has a row of its own
    #[arg(long, value_enum, default_value_t, conflicts_with = "per_vcpu")]
    pub by: By,
    /// Comma-separated values in place of a table
    #[arg(long)]
    pub csv: bool,
    #[command(flatten)]
    symbols: SymbolFiles,
}

impl Layout {
    /// The functions of guests that are given.
    pub fn symbols(&self) -> Result<Vec<(Owner, Symbols)>> {
        if !self.symbols.symbols.is_empty() && self.by != By::Rip {
            return Err(Failure::Usage("--symbols is for --by rip".to_owned()).into());
        }
        self.symbols.read()
    }

    /// As the list says, with rows of what is wanted.
    pub fn view(&self, list: &List) -> View {
        View {
            by: self.by,
            ..list.view()
        }
    }
}

/// What the counts are from.
#[derive(Args, Debug)]
pub struct Counting {
    /// What counts
    #[arg(long, value_enum, default_value_t, value_name = "SOURCE")]
    pub source: Choice,
}

/// What `report --by rip` and the instructions of `top` take.
#[derive(Args, Debug)]
pub struct Telling {
    /// Tell instructions apart, which tracepoints do in any case
    #[arg(long)]
    pub instructions: bool,
}

/// Which part of a recording is shown.
#[derive(Args, Debug)]
pub struct Span {
    /// Only what was after so much of the recording, in seconds or as 500ms, 10s, 5m, 1h
    #[arg(long, value_name = "TIME", value_parser = duration)]
    since: Option<Duration>,
    /// Only what was before
    #[arg(long, value_name = "TIME", value_parser = duration)]
    until: Option<Duration>,
}

impl Span {
    /// Whether what was from one sample to the next, by their times, is shown.
    pub fn has(&self, first: Duration, last: Duration) -> bool {
        self.since.is_none_or(|since| first >= since)
            && self.until.is_none_or(|until| last <= until)
    }
}

/// What only tracepoints tell.
#[derive(Args, Debug)]
pub struct Latency {
    /// Also how long accesses take, the VMM included, at the cost of an event for each VM entry
    #[arg(long)]
    pub latency: bool,
}

#[derive(Args, Debug)]
pub struct Top {
    #[command(flatten)]
    pub counting: Counting,
    #[command(flatten)]
    pub telling: Telling,
    /// Time between two updates, in seconds or as 500ms, 10s, 5m, 1h
    #[arg(long, short, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub interval: Duration,
    /// End after so many updates
    #[arg(long, short = 'n', value_name = "N")]
    pub count: Option<u64>,
    /// Text even on a terminal
    #[arg(long)]
    pub text: bool,
    #[command(flatten)]
    pub list: List,
    #[command(flatten)]
    pub names: NameFiles,
    #[command(flatten)]
    pub symbols: SymbolFiles,
}

#[derive(Args, Debug)]
pub struct Record {
    #[command(flatten)]
    pub counting: Counting,
    #[command(flatten)]
    pub telling: Telling,
    #[command(flatten)]
    pub latency: Latency,
    /// The file to write, `-` for standard output
    #[arg(long, short, value_name = "FILE", default_value = "kvm-mmio.rec")]
    pub output: PathBuf,
    /// Overwrite the file if there is one
    #[arg(long)]
    pub force: bool,
    /// Time between two samples, in seconds or as 500ms, 10s, 5m, 1h
    #[arg(long, short, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub interval: Duration,
    /// End after this time, in place of Ctrl-C
    #[arg(long, short, value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Begin a new file after each such time; those before are FILE.1, the newest, FILE.2 ...
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub rotate: Option<Duration>,
    /// Most files before that are kept
    #[arg(long, value_name = "N", default_value_t = 10, requires = "rotate",
        value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub keep: u32,
    #[command(flatten)]
    pub names: NameFiles,
    /// Record while a command runs
    #[arg(last = true)]
    pub command: Vec<OsString>,
}

#[derive(Args, Debug)]
pub struct Report {
    /// A recording, `-` for standard input
    #[arg(default_value = "kvm-mmio.rec")]
    pub file: PathBuf,
    #[command(flatten)]
    pub span: Span,
    #[command(flatten)]
    pub layout: Layout,
    #[command(flatten)]
    pub list: List,
    #[command(flatten)]
    pub names: NameFiles,
}

#[derive(Args, Debug)]
pub struct Diff {
    /// A recording
    pub before: PathBuf,
    /// A recording that it is compared with
    pub after: PathBuf,
    #[command(flatten)]
    pub span: Span,
    /// Most pages that are listed
    #[arg(long, value_name = "N", default_value_t = 40)]
    pub top: usize,
    #[command(flatten)]
    pub select: Select,
    #[command(flatten)]
    pub names: NameFiles,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Svg,
    Png,
}

#[derive(Args, Debug)]
pub struct Plot {
    /// A recording, `-` for standard input
    #[arg(default_value = "kvm-mmio.rec")]
    pub file: PathBuf,
    /// The file to write, `-` for standard output; by default the recording's name with .svg
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// By default as the output's name ends, SVG if it has no ending
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// Most pages that are drawn
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=200))]
    pub top: u16,
    #[command(flatten)]
    pub span: Span,
    #[command(flatten)]
    pub select: Select,
    #[command(flatten)]
    pub names: NameFiles,
}

#[derive(Args, Debug)]
pub struct Stat {
    #[command(flatten)]
    pub counting: Counting,
    #[command(flatten)]
    pub latency: Latency,
    /// Write the result to a file in place of standard error
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub layout: Layout,
    #[command(flatten)]
    pub list: List,
    #[command(flatten)]
    pub names: NameFiles,
    /// The command to run
    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
}

#[derive(Args, Debug)]
pub struct Export {
    /// Write to a file, which is replaced as a whole, in place of standard output
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// The format of the text; with --listen, by default the one that a scraper prefers
    #[arg(long, value_enum)]
    pub format: Option<metrics::Format>,
    /// Answer HTTP requests for /metrics at IP:PORT, or at PORT of this machine only, until Ctrl-C
    #[arg(long, value_name = "ADDR", value_parser = address, conflicts_with = "output")]
    pub listen: Option<SocketAddr>,
    #[command(flatten)]
    pub counting: Counting,
    /// Have the module count by page while answering; tracepoints do so anyway
    #[arg(long, requires = "listen", conflicts_with = "latency")]
    pub heat: bool,
    #[command(flatten)]
    pub latency: Latency,
    /// Refused, with the reason
    #[arg(long, value_enum, hide = true)]
    pub by: Option<By>,
    /// Most pages that have metrics, over all VMs
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub top: usize,
    /// Most VMs that have metrics, the busiest
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub vms: usize,
    #[command(flatten)]
    pub names: NameFiles,
}

#[derive(Args, Debug)]
pub struct Generate {
    #[command(subcommand)]
    pub what: Generated,
}

#[derive(Debug, Subcommand)]
pub enum Generated {
    /// The man page
    Man,
    /// The completions of a shell
    Completions { shell: Shell },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_parser_is_consistent() {
        Cli::command().debug_assert();
    }
}
