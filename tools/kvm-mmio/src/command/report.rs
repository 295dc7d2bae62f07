// SPDX-License-Identifier: GPL-2.0
//! `kvm-mmio report`: the pages of a recording.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::advice::Advice;
use crate::cli::{Layout, NameFiles, Report, Span};
use crate::csv;
use crate::failure::{Failure, warn};
use crate::json_lines;
use crate::missing::Missing;
use crate::output;
use crate::reading::Reading;
use crate::recording::frame::Damage;
use crate::recording::{Player, Start};
use crate::region::Names;
use crate::summary::Summary;
use crate::view::Filter;
use crate::words;

pub fn run(out: &mut dyn Write, args: &Report, json: bool) -> Result<()> {
    let symbols = args.layout.symbols()?;
    let list = &args.list;
    let view = args.layout.view(list);
    let mut total = Total::default();
    let mut played = play(&args.file, &args.names, &args.span, &view.filter, |step| {
        total.add(&step);
    })?;
    played.names.symbols = symbols;
    let mut summary = Summary::new(&total.grown, total.elapsed, &played.names, &view, list.top);
    summary.missing = played.missing;
    show(out, "report", &summary, &args.layout, json)?;
    out.flush()?;
    played.end()
}

/// Shows a result in the form that is wanted.
pub fn show(
    out: &mut dyn Write,
    command: &'static str,
    summary: &Summary,
    layout: &Layout,
    json: bool,
) -> Result<()> {
    if json {
        json_lines::header(out, command)?;
        json_lines::summary_json(out, summary)?;
        let mut advice = summary.advice.iter();
        return advice.try_for_each(|advice| json_lines::line(out, advice));
    }
    if layout.csv {
        // What one has to know has no place in it.
        output::notes(summary).iter().for_each(warn);
        return csv::summary(out, summary);
    }
    output::summary_text(out, summary)?;
    for advice in &summary.advice {
        let accesses = words::plural(advice.accesses, "access", "accesses");
        let Advice {
            topic,
            device,
            text,
            ..
        } = advice;
        writeln!(
            out,
            "advice: {device}, {accesses}: {text} (kvm-mmio.rst, Advice: {topic})"
        )?;
    }
    Ok(())
}

/// All that a recording says, in sum.
#[derive(Default)]
pub struct Total {
    pub grown: Reading,
    pub elapsed: Duration,
}

impl Total {
    pub fn add(&mut self, step: &Step) {
        self.grown.add(&step.grown);
        self.elapsed += step.elapsed;
    }
}

/// What has happened between two samples.
pub struct Step {
    pub grown: Reading,
    pub elapsed: Duration,
}

/// A recording that was played to its end, or to its damage.
pub struct Played {
    pub names: Names,
    pub start: Start,
    /// In any of it.
    pub missing: Missing,
    damage: Option<Failure>,
}

impl Played {
    /// Fails if there was damage. To be called when what precedes it has been shown.
    pub fn end(self) -> Result<()> {
        match self.damage {
            Some(damage) => Err(damage.into()),
            None => Ok(()),
        }
    }
}

/// A recording, or standard input if it is called `-`.
fn open(path: &Path) -> io::Result<Box<dyn Read>> {
    Ok(match path.to_str() {
        Some("-") => Box::new(io::stdin()),
        _ => Box::new(File::open(path)?),
    })
}

/// Goes over a recording, of which these VMs are shown. Names of pages from files go before those that it has.
pub fn play(
    path: &Path,
    names: &NameFiles,
    span: &Span,
    filter: &Filter,
    mut each: impl FnMut(Step),
) -> Result<Played> {
    // What can be wrong is found before a long recording is read.
    let given = names.given()?;
    let name = path.display().to_string();
    let file = open(path)
        .with_context(|| format!("cannot open {name}; `kvm-mmio record` makes a recording"))?;
    let damaged = |damage: Damage| Failure::Damaged(format!("{name}: {damage}"));
    let mut player = Player::new(BufReader::new(file)).map_err(damaged)?;
    let mut begin = None;
    let mut before: Option<Reading> = None;
    let mut missing = Missing::default();
    let damage = loop {
        let now = match player.step() {
            Ok(Some(now)) => now,
            Ok(None) => break None,
            Err(damage) => break Some(damaged(damage)),
        };
        let begin = *begin.get_or_insert(now.clock.boottime);
        let time =
            |reading: &Reading| Duration::from_nanos(reading.clock.boottime.saturating_sub(begin));
        if let Some(before) = before
            .as_ref()
            .filter(|before| span.has(time(before), time(now)))
        {
            let grown = now.since(before);
            missing.add(&Missing::of(&grown, filter));
            each(Step {
                grown,
                elapsed: now.elapsed_since(before),
            });
        }
        before = Some(now.clone());
    };
    Ok(Played {
        names: player.names(given),
        start: player.start,
        missing,
        damage,
    })
}
