// SPDX-License-Identifier: GPL-2.0
//! `kvm-mmio diff`: what has become of the pages of one recording in another.
//!
//! The recordings may be of different lengths, so rates are compared. VMs have other numbers and
//! processes after they were started again: a VM is the same if it is called the same, or if there
//! is one in either recording.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io::Write;

use anyhow::Result;
use serde::Serialize;

use super::report::{Played, Total, play};
use crate::cli::Diff;
use crate::json_lines;
use crate::missing::Missing;
use crate::output::{self, plural};
use crate::row::{Row, rows};
use crate::view::{Filter, View};

pub fn run(out: &mut dyn Write, args: &Diff, json: bool) -> Result<()> {
    let filter = args.select.filter();
    let (before, first) = side(&args.before, args, &filter)?;
    let (after, second) = side(&args.after, args, &filter)?;
    let mut changes = changes(&before, &after);
    let hidden = changes.split_off(args.top.min(changes.len()));
    let seconds = (before.seconds, after.seconds);
    match json {
        true => lines(out, &changes, hidden.len(), seconds)?,
        false => table(out, &changes, hidden.len(), seconds)?,
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
    let seconds = total.elapsed.as_secs_f64();
    Ok((Side { seconds, rows }, played))
}

impl Side {
    /// Whether all pages are of one VM.
    fn single(&self) -> bool {
        let mut vms = self.rows.iter().map(|row| row.key.vm);
        let first = vms.next();
        vms.all(|vm| Some(vm) == first)
    }

    /// What the VM of a page is called here: by its process, if no other VM is called so.
    fn vm(&self, row: &Row) -> String {
        let others = self.rows.iter().filter(|other| other.key.vm != row.key.vm);
        let alike = others.filter(|other| other.process == row.process).count();
        match row.process.as_str() {
            "" => format!("VM {}", row.key.vm),
            name if alike != 0 => format!("{name}, VM {}", row.key.vm),
            name => name.to_owned(),
        }
    }

    fn rate(&self, row: &Row) -> f64 {
        row.counts.count as f64 / self.seconds.max(1e-9)
    }
}

/// A page, in accesses per second.
#[derive(Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename = "change")]
struct Change {
    vm: String,
    gpa: String,
    name: String,
    before: f64,
    after: f64,
}

impl Change {
    fn by(&self) -> f64 {
        self.after - self.before
    }
}

/// All pages of either, those that have changed most first.
fn changes(before: &Side, after: &Side) -> Vec<Change> {
    let one = before.single() && after.single();
    let mut pages: BTreeMap<(String, u64), Change> = BTreeMap::new();
    for (side, is_after) in [(before, false), (after, true)] {
        for row in &side.rows {
            let vm = side.vm(row);
            let same = if one { String::new() } else { vm.clone() };
            let new = || Change {
                vm,
                gpa: format!("{:#x}", row.key.gpa),
                name: row.name.clone(),
                before: 0.0,
                after: 0.0,
            };
            let change = pages.entry((same, row.key.gpa)).or_insert_with(new);
            match is_after {
                true => change.after += side.rate(row),
                false => change.before += side.rate(row),
            }
        }
    }
    let mut changes: Vec<_> = pages.into_values().collect();
    // Rates are finite, and the bits of positive numbers are in the order of the numbers.
    changes.sort_by_key(|change| Reverse(change.by().abs().to_bits()));
    changes
}

fn table(
    out: &mut dyn Write,
    changes: &[Change],
    hidden: usize,
    seconds: (f64, f64),
) -> Result<()> {
    let mut table = output::table(
        &["VM", "page", "name", "before/s", "after/s", "change/s", "%"],
        &[0, 2],
    );
    for change in changes {
        let percent = match change.before {
            0.0 => "new".to_owned(),
            before => format!("{:+.1}", change.by() / before * 100.0),
        };
        table.add_row([
            change.vm.clone(),
            change.gpa.clone(),
            change.name.clone(),
            format!("{:.1}", change.before),
            format!("{:.1}", change.after),
            format!("{:+.1}", change.by()),
            percent,
        ]);
    }
    match changes.is_empty() {
        true => writeln!(out, "no accesses to pages without memory in either")?,
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
        let before = Side {
            seconds: 10.0,
            rows,
        };
        let after = Side {
            seconds: 5.0,
            rows: fewer,
        };
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
        let side = |rows| Side { seconds: 1.0, rows };
        let all = found(side(before.clone()), side(after));
        assert_eq!(all.len(), 4);
        assert!(all.iter().all(|(_, _, before, after)| before == after));
        let mut alike = before.clone();
        alike
            .iter_mut()
            .for_each(|row| row.process = "vm".to_owned());
        assert_eq!(side(alike.clone()).vm(&alike[0]), "vm, VM 1");
    }
}
