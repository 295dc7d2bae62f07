// SPDX-License-Identifier: GPL-2.0
//! `kvm-mmio record`: readings at intervals, into a file.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::child::{self, Running};
use crate::cli::Record;
use crate::device::{Device, Heat, System, warn_of_setting};
use crate::output;
use crate::reading::Reading;
use crate::recording::{Recorder, Start};
use crate::signal::{Stop, next_after};

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
}

impl Progress {
    fn text(&self, duration: Option<Duration>) -> String {
        let of = duration.map_or_else(String::new, |all| format!(" of {} s", all.as_secs_f64()));
        format!(
            "{:.1} s{of}, {}, {:.1} KiB, {}",
            self.seconds,
            output::plural(self.samples, "sample", "samples"),
            self.bytes as f64 / 1024.0,
            output::plural(self.accesses, "access", "accesses"),
        )
    }
}

fn record(out: &mut dyn Write, system: &System, args: &Record, json: bool) -> Result<()> {
    let regions = args.names.given()?;
    let stop = Stop::on_signals()?;
    let device = system.open()?;
    let first = device.read()?;
    let heat = Heat::on(system)?;
    warn_of_setting(&first);
    let path = &args.output;
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let start = Start {
        program: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: system.kernel(),
        wall_clock: SystemTime::UNIX_EPOCH
            .elapsed()
            .map_or(0, |time| time.as_secs()),
        interval_ms: args.interval.as_millis() as u64,
        counters: first.counters.clone(),
        regions,
    };
    let mut session = Session {
        recorder: Recorder::new(BufWriter::new(file), start)?,
        last: Reading::default(),
        progress: Progress {
            file: path.display().to_string(),
            ..Progress::default()
        },
        started: Instant::now(),
    };
    session.sample(&device)?;
    let mut command = match args.command.as_slice() {
        [] => None,
        command => Some(Running::start(command)?),
    };
    session.run(&device, args, &stop, command.as_mut())?;
    let status = command
        .as_mut()
        .map(|command| command.wait(&stop))
        .transpose()?;
    session.sample(&device)?;
    drop(heat);
    session.finish(out, args, json)?;
    status.map_or(Ok(()), child::result)
}

struct Session<W: Write> {
    recorder: Recorder<W>,
    last: Reading,
    progress: Progress,
    started: Instant,
}

impl<W: Write> Session<W> {
    fn sample(&mut self, device: &Device) -> Result<()> {
        let reading = device.read()?;
        self.recorder
            .add(&reading)
            .context("cannot write the recording")?;
        if self.progress.samples != 0 {
            let grown = reading.since(&self.last);
            let vcpus = grown.vms.values().flat_map(|vm| vm.vcpus.values());
            let pages = vcpus.flat_map(|vcpu| vcpu.pages.values());
            self.progress.accesses += pages.map(|page| page.counts.count).sum::<u64>();
        }
        self.last = reading;
        self.progress.samples += 1;
        self.progress.bytes = self.recorder.bytes;
        self.progress.seconds = self.started.elapsed().as_secs_f64();
        Ok(())
    }

    /// Samples until a signal comes, the time is over or the command has ended.
    fn run(
        &mut self,
        device: &Device,
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
            self.sample(device)?;
            status.show(&self.progress.text(args.duration));
        }
    }

    fn finish(mut self, out: &mut dyn Write, args: &Record, json: bool) -> Result<()> {
        self.progress.bytes = self
            .recorder
            .finish()
            .context("cannot write the recording")?;
        if json {
            output::header(out, "record")?;
            return output::line(out, &self.progress);
        }
        let _ = writeln!(
            io::stderr(),
            "{}: {}",
            args.output.display(),
            self.progress.text(None)
        );
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
