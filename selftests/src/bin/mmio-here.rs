// SPDX-License-Identifier: GPL-2.0
//! Tests and measures the kvm_mmio_ext module on the machine that one sits at, and writes a report
//! that can be sent to the project.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use kvm_mmio_selftests::bench::state::{Restore, State};
use kvm_mmio_selftests::here::child::{self, End};
use kvm_mmio_selftests::here::figures;
use kvm_mmio_selftests::here::group::Tally;
use kvm_mmio_selftests::here::machine;
use kvm_mmio_selftests::here::private::Filter;
use kvm_mmio_selftests::here::ready::{Looks, other_vms};
use kvm_mmio_selftests::here::stop::{self, Stopped};
use kvm_mmio_selftests::host;

/// Exit status when the machine is not ready, and was left as it is.
const NOT_READY: u8 = 2;

const C_TESTS: [&str; 4] = [
    "mmio_spte_test",
    "mmio_access_test",
    "mmio_nested_test",
    "mmio_register_test",
];

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Tests, extension on and off, and random programs compared
    Check,
    /// What accesses cost
    Bench,
}

/// Tests and measures KVM's emulated MMIO on this machine, with kvm_mmio_ext loaded, and writes a
/// report of it to standard output. Loads and unloads nothing; what it switches it puts back.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// What to do; both when none is given
    parts: Vec<Part>,
    /// A few of the tests and rows, to see that it works
    #[arg(long)]
    quick: bool,
    /// Run the tests in C too, which are beside this program
    #[arg(long)]
    c_tests: bool,
    /// What the report calls the version of these programs
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
    revision: String,
    /// Measure on this processor; else on one that is not the first, if there is one
    #[arg(long)]
    processor: Option<usize>,
}

impl Options {
    fn does(&self, part: Part) -> bool {
        self.parts.is_empty() || self.parts.contains(&part)
    }
}

/// A program of tests, and the state of the extension in which it runs.
struct Group {
    title: String,
    state: State,
    program: &'static str,
    arguments: Vec<&'static str>,
}

fn groups(options: &Options) -> Vec<Group> {
    let group =
        |title: &str, state, program, long: &[&'static str], quick: &[&'static str]| Group {
            title: title.into(),
            state,
            program,
            arguments: if options.quick { quick } else { long }.to_vec(),
        };
    let some = ["first_access", "access_sizes", "doorbell_"];
    let mut groups = vec![
        group("tests, extension on", State::On, "mmio-test", &[], &some),
        group(
            "tests, fast path off",
            State::Seed,
            "mmio-test",
            &[],
            &some[..1],
        ),
        group(
            "tests, extension off",
            State::Off,
            "mmio-test",
            &[],
            &some[..1],
        ),
        group(
            "random programs, off and on compared",
            State::On,
            "mmio-diff",
            &[],
            &["--programs", "2"],
        ),
    ];
    if options.c_tests {
        groups.extend(C_TESTS.map(|program| group(program, State::On, program, &[], &[])));
    }
    groups.retain(|group| State::all().contains(&group.state));
    groups
}

/// The report, and what must be known for its end.
struct Report {
    text: String,
    filter: Filter,
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Report {
    fn add(&mut self, text: &str) {
        self.text += text;
    }

    fn heading(&mut self, title: &str) {
        self.add(&format!("\n{title}\n{}\n", "-".repeat(title.len())));
    }

    fn add_group(&mut self, title: &str, tally: &Tally, seconds: u64) {
        let skipped = match tally.skipped {
            0 => String::new(),
            count => format!(", {count} skipped"),
        };
        let failed = tally.failed.len();
        let line = format!(
            "{title}: {} passed, {failed} failed{skipped} in {seconds} s\n",
            tally.passed
        );
        eprint!("{line}");
        self.add(&line);
        for (title, lines) in &tally.failed {
            self.add(&format!("  not ok: {title}\n"));
            for line in lines {
                let line = self.filter.apply(line);
                self.add(&format!("    {line}\n"));
            }
        }
        self.passed += tally.passed;
        self.failed += failed;
        self.skipped += tally.skipped;
    }
}

fn check(options: &Options, folder: &Path, report: &mut Report) -> Result<()> {
    report.heading("Tests");
    for group in groups(options) {
        eprintln!("{} ...", group.title);
        group.state.enter()?;
        let start = Instant::now();
        let end = child::run(&folder.join(group.program), &group.arguments)?;
        report.add_group(&group.title, &Tally::of(&end), start.elapsed().as_secs());
    }
    if !options.c_tests {
        report.add("tests in C: left out, as they need a kernel tree (KDIR=)\n");
    }
    report.add("order of loading: left out, as it would unload modules\n");
    Ok(())
}

fn measure(options: &Options, folder: &Path, processor: usize) -> Result<End> {
    let number = processor.to_string();
    let mut arguments = vec!["--json", "--host-instructions", "--processor", &number];
    arguments.extend(if options.quick {
        &[
            "--rows",
            "mmio_user_write,mmio_event_match4",
            "--iterations",
            "100",
            "--repetitions",
            "3",
        ][..]
    } else {
        &["--repetitions", "25"]
    });
    child::run(&folder.join("mmio-bench"), &arguments)
}

fn bench(options: &Options, folder: &Path, processor: usize, report: &mut Report) -> Result<()> {
    report.heading("Benchmark");
    report.add(&format!("On processor {processor}.\n"));
    let end = measure(options, folder, processor)?;
    let table = if end.status.success() {
        figures::table(&end.output).map_err(|error| format!("{error:#}"))
    } else {
        Err(end.describe())
    };
    match table {
        Ok(table) => {
            report.passed += 1;
            report.add(&table);
        }
        Err(why) => {
            report.failed += 1;
            report.add(&format!("not ok: mmio-bench: {why}\n"));
            for line in &end.errors {
                let line = report.filter.apply(line);
                report.add(&format!("    {line}\n"));
            }
        }
    }
    Ok(())
}

const TITLE: &str = "\
kvm_mmio_ext on real hardware
=============================
Results are welcome, good ones too. Send this file to the project: open an issue where you got
the source from, say what you found, and attach it. It has no names, addresses, paths or serial
numbers of your machine; read it before you send it.
";

fn warn_of_vms(report: &mut Report) {
    report.add(&match other_vms() {
        None => "other VMs: KVM's statistics cannot be read\n".to_owned(),
        Some(0) => "other VMs: none\n".to_owned(),
        Some(count) => format!(
            "other VMs: {count}. WARNING: they count in the extension's statistics, so tests may \
             fail that would not, and they disturb the benchmark\n"
        ),
    });
}

/// The first processor takes interrupts, and processors of another kind come last.
fn choose_processor(options: &Options) -> Result<usize> {
    let count = host::cpus()?;
    let processor = options.processor.unwrap_or((count - 1).min(2));
    ensure!(processor < count, "there is no processor {processor} here");
    Ok(processor)
}

fn run(options: &Options, folder: &Path) -> Result<Report> {
    let processor = choose_processor(options)?;
    let mut report = Report {
        text: TITLE.into(),
        filter: Filter::here(),
        passed: 0,
        failed: 0,
        skipped: 0,
    };
    report.add(&format!("\nrevision of the tests: {}\n", options.revision));
    if options.quick {
        report.add("only a few tests and rows were wanted\n");
    }
    warn_of_vms(&mut report);
    let text = machine::describe(&report.filter, processor)?;
    report.add(&text);

    let _restore = Restore::later();
    if options.does(Part::Check) {
        check(options, folder, &mut report)?;
    }
    if options.does(Part::Bench) {
        bench(options, folder, processor, &mut report)?;
    }
    report.heading("Sum");
    let taint = fs::read_to_string("/proc/sys/kernel/tainted").context("taint")?;
    report.add(&format!("taint at the end: {}\n", taint.trim()));
    let skipped = match report.skipped {
        0 => String::new(),
        count => format!(", {count} skipped"),
    };
    let sum = format!(
        "{} passed, {} failed{skipped}\n",
        report.passed, report.failed
    );
    report.add(&sum);
    Ok(report)
}

/// The extension's switches.
fn switches() -> (Option<bool>, Option<bool>) {
    (host::extension_enabled(), host::fast_path())
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    if let Some(missing) = Looks::here().missing() {
        eprintln!("mmio-here: {missing}");
        return Ok(ExitCode::from(NOT_READY));
    }
    let program = std::env::current_exe().context("where this program is")?;
    let folder = program.parent().map(PathBuf::from).context("its folder")?;
    stop::remember()?;
    let before = switches();
    let report = run(&options, &folder);
    ensure!(
        switches() == before,
        "the switches of kvm_mmio_ext could not be put back: enabled and fast were {before:?}"
    );
    match report {
        Ok(report) => {
            print!("{}", report.text);
            Ok(ExitCode::from(u8::from(report.failed > 0)))
        }
        Err(error) => match error.downcast_ref() {
            Some(Stopped(signal)) => {
                eprintln!("mmio-here: {error}; the extension's switches are as they were");
                Ok(ExitCode::from(128 + *signal as u8))
            }
            None => Err(error),
        },
    }
}
