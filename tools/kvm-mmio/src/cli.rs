// SPDX-License-Identifier: GPL-2.0
//! The command line. Its help, the man page and the completions of shells are made from this.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use regex_lite::Regex;

use crate::failure;
use crate::region::{self, Region, Regions};
use crate::summary::{Filter, Sort, View};

/// Shows which pages of a VM trap as MMIO, how often, and what becomes of the accesses
///
/// The figures are those of the kernel module kvm_mmio_ext, in /dev/kvm_mmio_ext. Pages are
/// counted while the module's parameter `heat` is set: top, record and stat set it while they run.
#[derive(Debug, Parser)]
#[command(name = "kvm-mmio", version, after_help = failure::HELP)]
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
    /// Draw a recording: pages over time, and a bar for each device
    Plot(Plot),
    /// Run a command and show the accesses to each page meanwhile, exactly
    Stat(Stat),
    /// Print all counts as OpenMetrics, for Prometheus
    Export(Export),
    /// Print the man page or a shell's completions
    #[command(hide = true)]
    Generate(Generate),
}

/// How pages are named.
#[derive(Args, Debug)]
#[command(next_help_heading = "Names of pages")]
pub struct Names {
    /// A TOML file with a table [[region]] for each range: name, start, size (default one page)
    #[arg(long, value_name = "FILE")]
    regions: Vec<PathBuf>,
    /// What QEMU's monitor prints for `info mtree`
    #[arg(long, value_name = "FILE")]
    mtree: Vec<PathBuf>,
}

impl Names {
    /// The ranges that are given.
    pub fn given(&self) -> Result<Vec<Region>> {
        let mut given = Vec::new();
        for path in &self.regions {
            given.extend(region::read_config(path)?);
        }
        for path in &self.mtree {
            given.extend(region::read_mtree(path)?);
        }
        Ok(given)
    }

    /// All ranges, also those that a recording brings.
    pub fn regions(&self, recorded: &[Region]) -> Result<Regions> {
        let given = self.given()?;
        Ok(Regions::from([&given, recorded].concat()))
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
    /// Only pages whose names match a regular expression
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
        }
    }
}

#[derive(Args, Debug)]
pub struct Top {
    /// Time between two updates
    #[arg(long, short, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
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
    pub names: Names,
}

#[derive(Args, Debug)]
pub struct Record {
    /// The file to write
    #[arg(long, short, value_name = "FILE", default_value = "kvm-mmio.rec")]
    pub output: PathBuf,
    /// Time between two samples
    #[arg(long, short, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub interval: Duration,
    /// End after this time, in place of Ctrl-C
    #[arg(long, short, value_name = "SECONDS", value_parser = seconds)]
    pub duration: Option<Duration>,
    #[command(flatten)]
    pub names: Names,
    /// Record while a command runs
    #[arg(last = true)]
    pub command: Vec<OsString>,
}

#[derive(Args, Debug)]
pub struct Report {
    /// A recording
    #[arg(default_value = "kvm-mmio.rec")]
    pub file: PathBuf,
    #[command(flatten)]
    pub list: List,
    #[command(flatten)]
    pub names: Names,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Svg,
    Png,
}

#[derive(Args, Debug)]
pub struct Plot {
    /// A recording
    #[arg(default_value = "kvm-mmio.rec")]
    pub file: PathBuf,
    /// The file to write, `-` for standard output; by default the recording's name with .svg
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// By default PNG if the output's name ends in .png, otherwise SVG
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// Most pages that are drawn
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=200))]
    pub top: u16,
    #[command(flatten)]
    pub select: Select,
    #[command(flatten)]
    pub names: Names,
}

#[derive(Args, Debug)]
pub struct Stat {
    /// Write the result to a file in place of standard error
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub list: List,
    #[command(flatten)]
    pub names: Names,
    /// The command to run
    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
}

#[derive(Args, Debug)]
pub struct Export {
    /// Write to a file, which is replaced as a whole, in place of standard output
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Most pages that have metrics, over all VMs
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub top: usize,
    /// Most VMs that have metrics
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub vms: usize,
    #[command(flatten)]
    pub names: Names,
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

/// A time of 1 ms to a week.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| "not a number of seconds".to_owned())?;
    if !(0.001..=604_800.0).contains(&seconds) {
        return Err("not between 0.001 and 604800 seconds".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_parser_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times() {
        assert_eq!(seconds("0.5").unwrap(), Duration::from_millis(500));
        for text in ["0", "-1", "NaN", "inf", "1e9", "1s", ""] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
