// SPDX-License-Identifier: GPL-2.0
//! `kvm-mmio top`: the pages that are accessed now.

mod app;
mod heading;
mod level;
mod screen;
mod table;
mod terminal;
#[cfg(test)]
mod tests;

use std::io::{self, IsTerminal, Write};
use std::time::Instant;

use anyhow::Result;
use ratatui::crossterm::event::{self, Event, KeyEventKind};

use crate::cli::Top;
use crate::device::{System, warn_of_setting};
use crate::json_lines;
use crate::output;
use crate::region::Names;
use crate::signal::{Stop, next_after};
use crate::source::{Source, Wanted};
use crate::summary::Summary;
use app::{Action, App};
use terminal::{STEP, Screen, has_gone, leave_with};

pub use screen::KEYS;

pub fn run(out: &mut dyn Write, system: &System, args: &Top, json: bool) -> Result<()> {
    let mut names = args.names.names()?;
    names.symbols = args.symbols.read()?;
    let stop = Stop::on_signals()?;
    let wanted = Wanted {
        sites: args.telling.instructions,
        ..Wanted::default()
    };
    let source = Source::open(system, args.counting.source, wanted)?;
    let terminal = io::stdout().is_terminal() && io::stdin().is_terminal();
    if terminal && !args.text && !json {
        leave_with(stop.clone());
        let ended = interactive(&source, system, args, names, &stop);
        return ended.or_else(|error| match error.downcast_ref() {
            Some(io) if has_gone(io) => Ok(()),
            _ => Err(error),
        });
    }
    lines(out, (&source, system), args, names, &stop, json)
}

/// A table at each interval.
fn lines(
    out: &mut dyn Write,
    (source, system): (&Source, &System),
    args: &Top,
    mut names: Names,
    stop: &Stop,
    json: bool,
) -> Result<()> {
    if json {
        json_lines::header(out, "top")?;
    }
    let mut before = source.read()?;
    warn_of_setting(&before);
    let mut next = Instant::now();
    for _ in 0..args.count.unwrap_or(u64::MAX) {
        next = next_after(next, args.interval);
        if !stop.sleep_until(next, || Ok(false))? {
            break;
        }
        let now = source.read()?;
        names.learn_aloud(system, &now);
        let (grown, elapsed) = (now.since(&before), now.elapsed_since(&before));
        let summary = Summary::new(&grown, elapsed, &names, &args.list.view(), args.list.top);
        if json {
            json_lines::summary_json(out, &summary)?;
        } else {
            output::summary_text(out, &summary)?;
            writeln!(out)?;
        }
        out.flush()?;
        before = now;
    }
    Ok(())
}

fn interactive(
    source: &Source,
    system: &System,
    args: &Top,
    names: Names,
    stop: &Stop,
) -> Result<()> {
    let color = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let mut app = App::new(names, args.list.view(), args.interval, color);
    app.update(source.read()?, system);
    let mut screen = Screen::open()?;
    let mut next = Instant::now() + app.interval;
    let mut updates = 0;
    let mut changed = true;
    loop {
        if std::mem::take(&mut changed) {
            screen.0.draw(|frame| screen::draw(frame, &mut app))?;
        }
        let rest = next.saturating_duration_since(Instant::now());
        if event::poll(rest.min(STEP)).or_else(ignore_interruption)? {
            // Another size of the terminal is an event as well.
            changed = true;
            match event::read()? {
                Event::Key(key) if key.kind == KeyEventKind::Press => match app.key(key) {
                    Action::Quit => return Ok(()),
                    Action::Restart => next = Instant::now() + app.interval,
                    Action::None => {}
                },
                _ => {}
            }
        }
        if stop.requested() {
            return Ok(());
        }
        if Instant::now() >= next {
            app.update(source.read()?, system);
            changed = true;
            next = Instant::now() + app.interval;
            updates += 1;
            if args.count.is_some_and(|count| updates >= count) {
                return Ok(());
            }
        }
    }
}

/// A signal that came while waiting for a key.
fn ignore_interruption(error: io::Error) -> io::Result<bool> {
    match error.kind() {
        io::ErrorKind::Interrupted => Ok(false),
        _ => Err(error),
    }
}
