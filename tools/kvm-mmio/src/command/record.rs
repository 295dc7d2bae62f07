// SPDX-License-Identifier: GPL-2.0
//! `kvm-mmio record`: readings at intervals, into a file.

use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::child::{self, Running};
use crate::cli::Record;
use crate::device::{System, warn_of_setting};
use crate::failure::Failure;
use crate::json_lines;
use crate::missing::Missing;
use crate::reading::Reading;
use crate::recording::{Recorder, Start};
use crate::region::Names;
use crate::signal::{Stop, next_after};
use crate::source::{Source, Wanted};
use crate::view::Filter;
use crate::words;

pub fn run(out: &mut dyn Write, system: &System, args: &Record, json: bool) -> Result<()> {
    if args.command.is_empty() {
        return record(out, system, args, json);
    }
    child::with_own_status(record(out, system, args, json))
}

/// How far it is.
#[derive(Default, Serialize)]
#[serde(tag = "kind", rename = "recording")]
struct Progress {
    file: String,
    seconds: f64,
    samples: u64,
    bytes: u64,
    accesses: u64,
    #[serde(flatten)]
    missing: Missing,
}

impl Progress {
    fn text(&self, duration: Option<Duration>) -> String {
        let of = duration.map_or_else(String::new, |all| format!(" of {} s", all.as_secs_f64()));
        format!(
            "{:.1} s{of}, {}, {:.1} KiB, {}",
            self.seconds,
            words::plural(self.samples, "sample", "samples"),
            self.bytes as f64 / 1024.0,
            words::plural(self.accesses, "access", "accesses"),
        )
    }
}

/// Standard output if it is called `-`. What is there already is overwritten only if it is no
/// file, such as a pipe, or if that is wanted.
fn create(path: &Path, force: bool) -> Result<Box<dyn Write>> {
    if is_stdout(path) {
        return Ok(Box::new(io::stdout()));
    }
    let file = match File::create_new(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let is_file = fs::metadata(path).is_ok_and(|node| node.is_file());
            if is_file && !force {
                bail!(
                    "{} exists: --force overwrites it, --output names another",
                    path.display()
                );
            }
            File::create(path)
        }
        created => created,
    };
    Ok(Box::new(file.with_context(|| {
        format!("cannot write {}", path.display())
    })?))
}

/// The files of a ring that go on with a recording: how the number `n` before this one is called.
fn numbered(path: &Path, n: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    name.into()
}

/// Makes place for the next file of a ring; the oldest goes.
fn rotate(path: &Path, keep: u32) -> io::Result<()> {
    let older = |n| match n {
        0 => path.to_owned(),
        n => numbered(path, n),
    };
    for n in (0..keep).rev() {
        match fs::rename(older(n), older(n + 1)) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            done => done?,
        }
    }
    Ok(())
}

/// Refuses what a ring cannot be made of, or would overwrite.
fn check_ring(args: &Record) -> Result<()> {
    if args.rotate.is_none() {
        return Ok(());
    }
    if is_stdout(&args.output) || args.output.metadata().is_ok_and(|node| !node.is_file()) {
        return Err(Failure::Usage("--rotate needs a file".to_owned()).into());
    }
    let first = numbered(&args.output, 1);
    if first.exists() && !args.force {
        bail!(
            "{} exists: --force overwrites it, --output names another",
            first.display()
        );
    }
    Ok(())
}

/// A recording that begins now.
fn begin(
    system: &System,
    args: &Record,
    counters: &[String],
    force: bool,
) -> Result<Recorder<Output>> {
    let file = create(&args.output, force)?;
    let start = Start {
        program: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: system.kernel(),
        wall_clock: SystemTime::UNIX_EPOCH
            .elapsed()
            .map_or(0, |time| time.as_secs()),
        interval_ms: args.interval.as_millis() as u64,
        counters: counters.to_vec(),
        regions: Vec::new(),
        host: system.host(),
    };
    Ok(Recorder::new(BufWriter::new(file), start)?)
}

type Output = BufWriter<Box<dyn Write>>;

fn is_stdout(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn record(out: &mut dyn Write, system: &System, args: &Record, json: bool) -> Result<()> {
    if is_stdout(&args.output) && (json || io::stdout().is_terminal()) {
        let message = "a recording on standard output is for a program that reads it";
        return Err(Failure::Usage(message.to_owned()).into());
    }
    let names = args.names.names()?;
    let stop = Stop::on_signals()?;
    let wanted = Wanted {
        sites: args.telling.instructions,
        times: args.latency.latency,
    };
    let source = Source::open(system, args.counting.source, wanted)?;
    let first = source.read()?;
    check_ring(args)?;
    let recorder = begin(system, args, &first.counters, args.force)?;
    warn_of_setting(&first);
    let mut session = Session {
        system,
        args,
        recorder,
        begun: Instant::now(),
        bytes: 0,
        names,
        last: Reading::default(),
        progress: Progress {
            file: args.output.display().to_string(),
            ..Progress::default()
        },
        started: Instant::now(),
    };
    session.sample(&source)?;
    let mut command = match args.command.as_slice() {
        [] => None,
        command => Some(Running::start(command)?),
    };
    session.run(&source, args, &stop, command.as_mut())?;
    let status = command
        .as_mut()
        .map(|command| command.wait(&stop))
        .transpose()?;
    session.sample(&source)?;
    session.finish(out, args, json)?;
    status.map_or(Ok(()), child::result)
}

struct Session<'a> {
    system: &'a System,
    args: &'a Record,
    recorder: Recorder<Output>,
    /// When the file was.
    begun: Instant,
    /// Of the files before.
    bytes: u64,
    names: Names,
    last: Reading,
    progress: Progress,
    started: Instant,
}

impl Session<'_> {
    fn sample(&mut self, source: &Source) -> Result<()> {
        let reading = source.read()?;
        self.names.learn_aloud(self.system, &reading);
        self.write(&reading)?;
        if self.progress.samples != 0 {
            let grown = reading.since(&self.last);
            let vcpus = grown.vms.values().flat_map(|vm| vm.vcpus.values());
            let pages = vcpus.flat_map(|vcpu| vcpu.pages.values());
            self.progress
                .missing
                .add(&Missing::of(&grown, &Filter::default()));
            self.progress.accesses += pages.map(|page| page.counts.count).sum::<u64>();
        }
        self.last = reading;
        self.progress.samples += 1;
        self.progress.bytes = self.bytes + self.recorder.bytes;
        self.progress.seconds = self.started.elapsed().as_secs_f64();
        if self
            .args
            .rotate
            .is_some_and(|time| self.begun.elapsed() >= time)
        {
            self.rotate()?;
        }
        Ok(())
    }

    fn write(&mut self, reading: &Reading) -> Result<()> {
        self.recorder
            .name(&self.names.processes)
            .and_then(|()| self.recorder.give(self.names.given()))
            .and_then(|()| self.recorder.add(reading))
            .context("cannot write the recording")
    }

    /// Goes on in a new file, which begins with what the last one has ended with.
    fn rotate(&mut self) -> Result<()> {
        // What is where a file is created must not be the one that is written.
        rotate(&self.args.output, self.args.keep).context("cannot rename the recording")?;
        let next = begin(self.system, self.args, &self.last.counters, true)?;
        let done = std::mem::replace(&mut self.recorder, next);
        self.bytes += done.finish().context("cannot write the recording")?;
        self.begun = Instant::now();
        let last = self.last.clone();
        self.write(&last)
    }

    /// Samples until a signal comes, the time is over or the command has ended.
    fn run(
        &mut self,
        source: &Source,
        args: &Record,
        stop: &Stop,
        mut command: Option<&mut Running>,
    ) -> Result<()> {
        let end = args.duration.map(|duration| self.started + duration);
        let mut status = StatusLine::new();
        let mut next = self.started;
        loop {
            next = next_after(next, args.interval);
            let done = || {
                Ok(match &mut command {
                    Some(command) => command.poll()?.is_some(),
                    None => false,
                })
            };
            let until = end.map_or(next, |end| end.min(next));
            if !stop.sleep_until(until, done)? || end.is_some_and(|end| Instant::now() >= end) {
                status.clear();
                return Ok(());
            }
            self.sample(source)?;
            status.show(&self.progress.text(args.duration));
        }
    }

    fn finish(mut self, out: &mut dyn Write, args: &Record, json: bool) -> Result<()> {
        self.progress.bytes = self.bytes
            + self
                .recorder
                .finish()
                .context("cannot write the recording")?;
        if json {
            json_lines::header(out, "record")?;
            return json_lines::line(out, &self.progress);
        }
        let notes = self.progress.missing.notes();
        for line in [vec![self.progress.text(None)], notes].concat() {
            let _ = writeln!(io::stderr(), "{}: {line}", args.output.display());
        }
        Ok(())
    }
}

/// One line on a terminal, rewritten; nothing elsewhere. A terminal that has gone must not take
/// the recording with it.
struct StatusLine {
    terminal: bool,
}

impl StatusLine {
    fn new() -> Self {
        Self {
            terminal: io::stderr().is_terminal(),
        }
    }

    fn show(&mut self, text: &str) {
        if self.terminal {
            let _ = write!(io::stderr(), "\r\x1b[Krecording: {text}");
        }
    }

    fn clear(&mut self) {
        if self.terminal {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
