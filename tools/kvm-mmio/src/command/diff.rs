// SPDX-License-Identifier: GPL-2.0
//! `kvm-mmio diff`: what has become of the pages of one recording in another.
//!
//! The recordings may be of different lengths, so rates are compared.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io::Write;

use anyhow::Result;
use serde::Serialize;

use super::pair::{Pair, Vm, pairs};
use super::report::{Played, Total, play};
use crate::cli::Diff;
use crate::json_lines;
use crate::missing::Missing;
use crate::output;
use crate::row::{Row, rows, unmatched};
use crate::view::{Filter, View};
use crate::words::plural;

pub fn run(out: &mut dyn Write, args: &Diff, json: bool) -> Result<()> {
    let filter = args.select.filter();
    let (before, first) = side(&args.before, args, &filter)?;
    let (after, second) = side(&args.after, args, &filter)?;
    let mut changes = changes(&before, &after);
    let hidden = changes.split_off(args.top.min(changes.len()));
    let seconds = (before.seconds, after.seconds);
    let unmatched = before.unmatched.as_deref().or(after.unmatched.as_deref());
    match json {
        true => lines(out, &changes, hidden.len(), seconds)?,
        false => table(out, &changes, hidden.len(), seconds, unmatched)?,
    }
    missing(out, "before", &first.missing, json)?;
    missing(out, "after", &second.missing, json)?;
    out.flush()?;
    first.end()?;
    second.end()
}

/// What one of two recordings does not contain.
fn missing(out: &mut dyn Write, side: &'static str, missing: &Missing, json: bool) -> Result<()> {
    #[derive(Serialize)]
    #[serde(tag = "kind", rename = "missing")]
    struct Of<'a> {
        side: &'static str,
        #[serde(flatten)]
        missing: &'a Missing,
    }
    if json {
        return json_lines::line(out, &Of { side, missing });
    }
    let mut notes = missing.notes().into_iter();
    notes.try_for_each(|note| Ok(writeln!(out, "{side}: {note}")?))
}

/// One of two recordings.
struct Side {
    seconds: f64,
    rows: Vec<Row>,
    /// What names had to match, if none did.
    unmatched: Option<String>,
}

fn side(path: &std::path::Path, args: &Diff, filter: &Filter) -> Result<(Side, Played)> {
    let mut total = Total::default();
    let played = play(path, &args.names, &args.span, filter, |step| {
        total.add(&step)
    })?;
    let view = View {
        filter: filter.clone(),
        ..View::default()
    };
    let rows = rows(&total.grown, &played.names, &view);
    let side = Side {
        seconds: total.elapsed.as_secs_f64(),
        unmatched: unmatched(&rows, &total.grown, &view),
        rows,
    };
    Ok((side, played))
}

impl Side {
    fn rate(&self, row: &Row) -> f64 {
        row.counts.count as f64 / self.seconds.max(1e-9)
    }
}

/// A page, in accesses per second.
#[derive(Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename = "change")]
struct Change {
    vm: String,
    vm_before: Option<u64>,
    vm_after: Option<u64>,
    pid_before: Option<u32>,
    pid_after: Option<u32>,
    /// Empty if nobody knows.
    process: String,
    gpa: String,
    name: String,
    before: f64,
    after: f64,
}

impl Change {
    /// Of a page without accesses.
    fn new(vm: &Pair, row: &Row) -> Self {
        let (before, after) = (vm.before.as_ref(), vm.after.as_ref());
        Self {
            vm: vm.name(),
            process: vm.process().to_owned(),
            vm_before: before.map(|vm| vm.number),
            vm_after: after.map(|vm| vm.number),
            pid_before: before.map(|vm| vm.pid),
            pid_after: after.map(|vm| vm.pid),
            gpa: format!("{:#x}", row.key.gpa),
            name: row.name.clone(),
            before: 0.0,
            after: 0.0,
        }
    }

    fn by(&self) -> f64 {
        self.after - self.before
    }
}

/// All pages of either, those that have changed most first.
fn changes(before: &Side, after: &Side) -> Vec<Change> {
    let pairs = pairs(&before.rows, &after.rows);
    let mut pages: BTreeMap<(usize, u64), Change> = BTreeMap::new();
    for row in &before.rows {
        let place = place(&pairs, |pair| pair.before.as_ref(), row);
        let new = || Change::new(&pairs[place], row);
        pages.entry((place, row.key.gpa)).or_insert_with(new).before += before.rate(row);
    }
    for row in &after.rows {
        let place = place(&pairs, |pair| pair.after.as_ref(), row);
        let new = || Change::new(&pairs[place], row);
        pages.entry((place, row.key.gpa)).or_insert_with(new).after += after.rate(row);
    }
    let mut changes: Vec<_> = pages.into_values().collect();
    // Rates are finite, and the bits of positive numbers are in the order of the numbers.
    changes.sort_by_key(|change| Reverse(change.by().abs().to_bits()));
    changes
}

/// Which of the VMs a row is of.
fn place(pairs: &[Pair], side: fn(&Pair) -> Option<&Vm>, row: &Row) -> usize {
    let vm = |pair: &Pair| side(pair).is_some_and(|vm| vm.number == row.key.vm);
    pairs
        .iter()
        .position(vm)
        .expect("all VMs of rows are in pairs")
}

/// What changed from one recording to the other, or stayed: "4711", "4711 > 5012", "- > 5012".
fn both<T: ToString + PartialEq>(before: &Option<T>, after: &Option<T>) -> String {
    let text = |value: &Option<T>| value.as_ref().map_or("-".to_owned(), T::to_string);
    match before == after {
        true => text(before),
        false => format!("{} > {}", text(before), text(after)),
    }
}

fn table(
    out: &mut dyn Write,
    changes: &[Change],
    hidden: usize,
    seconds: (f64, f64),
    unmatched: Option<&str>,
) -> Result<()> {
    let titles = [
        "VM", "PID", "process", "page", "name", "before/s", "after/s", "change/s", "%",
    ];
    let mut table = output::table(&titles, &[2, 4]);
    for change in changes {
        let percent = match change.before {
            0.0 => "new".to_owned(),
            before => format!("{:+.1}", change.by() / before * 100.0),
        };
        table.add_row([
            both(&change.vm_before, &change.vm_after),
            both(&change.pid_before, &change.pid_after),
            output::process(&change.process, false),
            change.gpa.clone(),
            change.name.clone(),
            format!("{:.1}", change.before),
            format!("{:.1}", change.after),
            format!("{:+.1}", change.by()),
            percent,
        ]);
    }
    match changes.is_empty() {
        true => writeln!(out, "{} in either", output::nothing(unmatched))?,
        false => writeln!(out, "{}", table.trim_fmt())?,
    }
    writeln!(out, "before: {:.3} s, after: {:.3} s", seconds.0, seconds.1)?;
    if hidden != 0 {
        let pages = plural(hidden as u64, "more page", "more pages");
        writeln!(out, "{pages} with smaller changes not shown (--top)")?;
    }
    Ok(())
}

fn lines(
    out: &mut dyn Write,
    changes: &[Change],
    hidden: usize,
    seconds: (f64, f64),
) -> Result<()> {
    #[derive(Serialize)]
    #[serde(tag = "kind", rename = "diff")]
    struct Both {
        before_seconds: f64,
        after_seconds: f64,
        pages_hidden: usize,
    }
    json_lines::header(out, "diff")?;
    json_lines::line(
        out,
        &Both {
            before_seconds: seconds.0,
            after_seconds: seconds.1,
            pages_hidden: hidden,
        },
    )?;
    changes
        .iter()
        .try_for_each(|change| json_lines::line(out, change))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::sample;
    use crate::region::Names;

    fn rows_of(processes: &[(u32, &str)], vms: &[u64]) -> Vec<Row> {
        let names = processes
            .iter()
            .map(|(pid, name)| (*pid, (*name).to_owned()));
        let mut reading = sample::two_vms();
        reading.vms.retain(|id, _| vms.contains(id));
        let names = Names::new(Vec::new(), names.collect());
        rows(&reading, &names, &View::default())
    }

    fn side(seconds: f64, rows: Vec<Row>) -> Side {
        Side {
            seconds,
            rows,
            unmatched: None,
        }
    }

    fn found(before: Side, after: Side) -> Vec<(String, String, f64, f64)> {
        let parts = |change: Change| (change.vm, change.gpa, change.before, change.after);
        changes(&before, &after).into_iter().map(parts).collect()
    }

    #[test]
    fn rates_of_one_vm() {
        let rows = rows_of(&[], &[1]);
        let mut fewer = rows.clone();
        fewer.retain(|row| row.key.gpa != 0xfee0_0000);
        fewer.iter_mut().for_each(|row| row.key.vm = 7);
        let (before, after) = (side(10.0, rows), side(5.0, fewer));
        let vm = || "VM 1".to_owned();
        assert_eq!(
            found(before, after),
            [
                (vm(), "0xfe003000".to_owned(), 1000.0, 2000.0),
                (vm(), "0xfee00000".to_owned(), 60.0, 0.0),
                (vm(), "0xfebd0000".to_owned(), 2.0, 4.0),
            ]
        );
    }

    #[test]
    fn vms_are_known_by_name() {
        let before = rows_of(&[(4711, "web"), (4712, "db")], &[1, 2]);
        let mut after = before.clone();
        // Started again, in another order.
        for row in &mut after {
            row.key.vm = 9 - row.key.vm;
            row.tgid += 100;
        }
        let changes = changes(&side(1.0, before), &side(1.0, after));
        assert_eq!(changes.len(), 4);
        assert!(changes.iter().all(|change| change.before == change.after));
        let first = &changes[0];
        let (vms, pids) = (
            (first.vm_before, first.vm_after),
            (first.pid_before, first.pid_after),
        );
        assert_eq!((vms, pids), ((Some(2), Some(7)), (Some(4712), Some(4812))));
        assert_eq!(both(&first.pid_before, &first.pid_after), "4712 > 4812");
        assert_eq!(both(&None, &Some(1)), "- > 1");
        assert_eq!(both(&Some(1), &Some(1)), "1");
    }
}
