// SPDX-License-Identifier: GPL-2.0
//! Tables for people.

use std::collections::BTreeSet;
use std::io::Write;

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};

use crate::counts::Counts;
use crate::group::Group;
use crate::histogram::{bars, bins};
use crate::json_lines::known_width;
use crate::reading::Last;
use crate::site::Times;
use crate::summary::Summary;
use crate::view::By;
use crate::words::{plural, short};

/// What the columns of tables mean, for the man page.
pub const COLUMNS: &[(&str, &str)] = &[
    (
        "VM",
        "number of the VM, as the module gives it; not used again",
    ),
    ("PID", "its process, in the initial namespace"),
    (
        "process",
        "what that is called: QEMU's -name, Firecracker's --id, else the program and its \
         unit; - if nobody knows; (ended) if the VM has",
    ),
    ("vCPU", "with --per-vcpu: number of the vCPU"),
    ("page", "guest physical address"),
    (
        "name",
        "the narrowest range known, and where in it; all devices that share the page, as their \
         accesses are counted together; the address if nobody knows what is there",
    ),
    ("accesses, total", "all of them: kernel + userspace"),
    ("acc/s", "in top: accesses in the last interval, per second"),
    ("%", "share of the accesses to all pages that were selected"),
    (
        "reads, writes",
        "of these; what signals a zero-length ioeventfd is neither, as it is skipped unseen",
    ),
    (
        "kernel",
        "completed by a device in the kernel, such as a doorbell",
    ),
    ("userspace, user/s", "left to the VMM, by an exit"),
    ("fast", "done without KVM's instruction emulator"),
    (
        "irqs off",
        "of VMs: accesses that were answered before interrupts were on again, by the module's counter",
    ),
    (
        "ns each",
        "time of one access in the host kernel, on average; without the VM entry and what \
         userspace does",
    ),
    (
        "min, p50, p99, max ns",
        "in place of that with --latency: the least, that of half, that of 99 %, and the greatest time \
         from the VM exit to the next entry, what userspace does included",
    ),
    (
        "instruction, symbol",
        "with --by rip: where the guest was, and what that is called in --symbols",
    ),
    (
        "last",
        "direction, bytes and highest bit of the value of the last one",
    ),
];

/// Characters that the name of a process has room for.
const PROCESS: usize = 24;

const ENDED: &str = " (ended)";

/// A file of names that may be of either of two VMs names none. By the options of such files.
pub fn names_unused(options: &BTreeSet<&str>) -> Option<String> {
    let owned: Vec<_> = options
        .iter()
        .map(|option| format!("{option} PID=FILE"))
        .collect();
    (!owned.is_empty()).then(|| {
        format!(
            "names not used, as there are VMs of several processes: say whose they are, {}, or \
             all=FILE",
            owned.join(", ")
        )
    })
}

/// What the module counts, others count by address.
const ONE_COUNT: &str = "one count for all of them: count, or record, with --source tracepoints to \
    tell them apart";

/// The module tells instructions apart if it is asked to.
const NO_SITES: &str = "instructions were not told apart: record with --instructions";

/// A table without lines, numbers to the right.
pub fn table(titles: &[&str], left: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(titles);
    for (index, column) in table.column_iter_mut().enumerate() {
        if !left.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        // No blanks at the ends of lines, two between columns.
        column.set_padding((u16::from(index != 0), u16::from(index + 1 != titles.len())));
    }
    table
}

/// Accesses by the fast path, where that is known.
fn fast(summary: &Summary, counts: &Counts) -> String {
    match summary.clock.is_traced() {
        true => "-".to_owned(),
        false => counts.fast.to_string(),
    }
}

/// The time of one access on average, in nanoseconds, where that is known.
pub fn time_each(summary: &Summary, counts: &Counts) -> String {
    if summary.clock.is_traced() {
        return "-".to_owned();
    }
    format!(
        "{:.0}",
        summary.clock.seconds(counts.cycles) / counts.count.max(1) as f64 * 1e9
    )
}

/// The columns of times: quantiles if there are any, else the mean.
fn time_titles(summary: &Summary) -> &'static [&'static str] {
    match summary.has_times() {
        true => &["min ns", "p50 ns", "p99 ns", "max ns"],
        false => &["ns each"],
    }
}

fn time_cells(summary: &Summary, counts: &Counts, times: &Times) -> Vec<String> {
    if !summary.has_times() {
        return vec![time_each(summary, counts)];
    }
    match times.quantiles() {
        Some(times) => [times.min, times.p50, times.p99, times.max]
            .map(|time| time.to_string())
            .to_vec(),
        None => vec!["-".to_owned(); 4],
    }
}

/// How the last access was, such as `write 4`.
pub fn last(last: &Last) -> String {
    match (last.size, known_width(last)) {
        (0, _) => "?".to_owned(),
        (size, None) => format!("{} {size}", last.direction),
        (size, Some(width)) => format!("{} {size} ({width} bit)", last.direction),
    }
}

/// A summary as a table.
pub fn summary_text(out: &mut dyn Write, summary: &Summary) -> Result<()> {
    if summary.rows.is_empty() && summary.groups.is_empty() {
        let what = match &summary.unmatched {
            None if summary.no_sites => "no instructions known".to_owned(),
            unmatched => nothing(unmatched.as_deref()),
        };
        writeln!(out, "{what} in {}", seconds(summary))?;
    } else {
        vm_sums(out, summary)?;
        let table = match summary.by {
            By::Page => page_table(summary),
            by => group_table(summary, &summary.groups, by),
        };
        writeln!(out, "{}", table.trim_fmt())?;
        let total = summary.accesses;
        writeln!(
            out,
            "{} in {}",
            plural(total, "access", "accesses"),
            seconds(summary)
        )?;
        histogram(out, &summary.times)?;
    }
    for note in notes(summary) {
        writeln!(out, "{note}")?;
    }
    Ok(())
}

/// Of all accesses that are shown or left out, if it is known how long they took.
fn histogram(out: &mut dyn Write, times: &Times) -> Result<()> {
    let bins = bins(times);
    if !bins.is_empty() {
        writeln!(
            out,
            "\nfrom VM exit to VM entry, exits with accesses to these:"
        )?;
        bars(out, &bins)?;
        writeln!(out)?;
    }
    Ok(())
}

/// Why there is no page to show; what names had to match, if none did.
pub fn nothing(unmatched: Option<&str>) -> String {
    match unmatched {
        Some(name) => format!("no page or device is called {name:?}"),
        None => "no accesses to pages without memory".to_owned(),
    }
}

/// In front of pages of which there are too many.
fn vm_sums(out: &mut dyn Write, summary: &Summary) -> Result<()> {
    if summary.vm_sums.is_empty() {
        return Ok(());
    }
    let table = group_table(summary, &summary.vm_sums, By::Vm);
    writeln!(out, "{}", table.trim_fmt())?;
    let (vms, accesses) = summary.vms_hidden;
    if vms != 0 {
        let vms = plural(vms as u64, "more VM", "more VMs");
        let accesses = plural(accesses, "access", "accesses");
        writeln!(out, "{vms} with {accesses} not shown (--by vm)")?;
    }
    Ok(writeln!(out)?)
}

fn seconds(summary: &Summary) -> String {
    format!("{:.3} s", summary.elapsed.as_secs_f64())
}

fn page_table(summary: &Summary) -> Table {
    let per_vcpu = summary.rows.iter().any(|row| row.key.vcpu.is_some());
    let mut titles = vec![
        "VM", "PID", "process", "page", "name", "accesses", "%", "reads", "writes", "kernel",
    ];
    titles.extend(["userspace", "fast"]);
    titles.extend(time_titles(summary));
    titles.push("last");
    let mut left = vec![2, 4, titles.len() - 1];
    if per_vcpu {
        titles.insert(3, "vCPU");
        left = vec![2, 5, titles.len() - 1];
    }
    let mut table = table(&titles, &left);
    let total = summary.accesses.max(1);
    for row in &summary.rows {
        let counts = &row.counts;
        let mut cells = vec![
            row.key.vm.to_string(),
            row.tgid.to_string(),
            process(&row.process, row.ended),
            format!("{:#x}", row.key.gpa),
            row.name.clone(),
            counts.count.to_string(),
            format!("{:.1}", counts.count as f64 / total as f64 * 100.0),
            counts.reads.to_string(),
            counts.writes.to_string(),
            counts.kernel.to_string(),
            counts.userspace.to_string(),
            fast(summary, counts),
        ];
        cells.extend(time_cells(summary, counts, &row.times()));
        cells.push(last(&row.last));
        if per_vcpu {
            let vcpu = row
                .key
                .vcpu
                .map_or_else(String::new, |vcpu| vcpu.to_string());
            cells.insert(3, vcpu);
        }
        table.add_row(cells);
    }
    table
}

fn group_table(summary: &Summary, groups: &[Group], by: By) -> Table {
    let mut titles = vec!["VM", "PID", "process"];
    titles.extend(by.titles());
    let mut left: Vec<usize> = (2..titles.len()).collect();
    if by == By::Vcpu {
        left.pop();
    }
    titles.extend(["pages", "accesses", "%", "reads", "writes", "kernel"]);
    titles.extend(["userspace", "fast"]);
    if by == By::Vm {
        titles.push("irqs off");
    }
    titles.extend(time_titles(summary));
    let mut table = table(&titles, &left);
    let total = summary.accesses.max(1);
    for group in groups {
        let counts = &group.counts;
        let mut cells = vec![
            group.vm.to_string(),
            group.tgid.to_string(),
            process(&group.process, group.ended),
        ];
        let parts = group.part.cells().into_iter();
        cells.extend(parts.map(|cell| {
            if cell.is_empty() {
                "-".to_owned()
            } else {
                cell
            }
        }));
        cells.extend([
            group.pages.to_string(),
            counts.count.to_string(),
            format!("{:.1}", counts.count as f64 / total as f64 * 100.0),
            counts.reads.to_string(),
            counts.writes.to_string(),
            counts.kernel.to_string(),
            counts.userspace.to_string(),
            fast(summary, counts),
        ]);
        if by == By::Vm {
            let known = group.irqs_off.map(|count| count.to_string());
            cells.push(known.unwrap_or_else(|| "-".to_owned()));
        }
        cells.extend(time_cells(summary, counts, &group.times));
        table.add_row(cells);
    }
    table
}

/// What the process of a VM is called, and whether the VM is no more.
pub fn process(name: &str, ended: bool) -> String {
    let name = if name.is_empty() { "-" } else { name };
    let ended = if ended { ENDED } else { "" };
    format!("{}{ended}", short(name, PROCESS))
}

/// What it is called where there is less room: that the VM has ended is said in any case.
pub fn short_process(text: &str, most: usize) -> String {
    let room = most.saturating_sub(ENDED.len());
    match text.strip_suffix(ENDED) {
        Some(name) if room != 0 => format!("{}{ENDED}", short(name, room)),
        _ => short(text, most),
    }
}

/// What one has to know of the figures.
pub fn notes(summary: &Summary) -> Vec<String> {
    let mut notes = Vec::new();
    let (pages, accesses) = summary.hidden;
    if pages != 0 {
        let (one, many) = summary.by.rows();
        let what = if pages == 1 { one } else { many };
        let accesses = plural(accesses, "access", "accesses");
        notes.push(format!(
            "{pages} more {what} with {accesses} not shown (--top)"
        ));
    }
    if summary.no_sites {
        notes.push(NO_SITES.to_owned());
    }
    if summary.shared != 0 {
        let pages = plural(
            summary.shared,
            "page of several devices has",
            "pages of several devices have",
        );
        notes.push(format!("{pages} {ONE_COUNT}"));
    }
    notes.extend(names_unused(&summary.names_unused));
    notes.extend(summary.missing.notes());
    notes
}

/// A time since 1970 as "2026-11-28 14:05 UTC".
pub fn utc(seconds: u64) -> String {
    let (mut days, minutes) = (seconds / 86_400, seconds / 60 % 1440);
    let leap = |year: u64| year % 4 == 0 && year % 100 != 0 || year % 400 == 0;
    let mut year = 1970;
    // A hostile file may say anything; nobody has recorded anything after this.
    while days >= 365 + u64::from(leap(year)) && year < 9999 {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while month < 11 && days >= months[month] {
        days -= months[month];
        month += 1;
    }
    let (hour, minute) = (minutes / 60, minutes % 60);
    format!(
        "{year}-{:02}-{:02} {hour:02}:{minute:02} UTC",
        month + 1,
        days + 1
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::device::sample;
    use crate::region::Names;
    use crate::view::View;

    fn summary(top: usize) -> Summary {
        let view = View::default();
        let second = Duration::from_secs(1);
        Summary::new(&sample::two_vms(), second, &Names::default(), &view, top)
    }

    #[test]
    fn dates() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_399, "2000-02-28 23:59 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_735_689_599, "2024-12-31 23:59 UTC"),
            (1_735_689_600, "2025-01-01 00:00 UTC"),
        ] {
            assert_eq!(utc(seconds), text);
        }
        utc(u64::MAX);
    }

    #[test]
    fn a_table() {
        let mut text = Vec::new();
        summary_text(&mut text, &summary(2)).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "\
VM   PID  process    pages  accesses     %  reads  writes  kernel  userspace   fast  irqs off  ns each
 1  4711  -              3     10620  99.6    120   10500   10600         20  10620      5300      750
 2  4712  - (ended)      1        42   0.4     40       2       0         42     42         0      750

VM   PID  process        page  name        accesses     %  reads  writes  kernel  userspace   fast  ns each  last
 1  4711  -        0xfe003000  0xfe003000     10000  93.8      0   10000   10000          0  10000      750  write 4 (1 bit)
 1  4711  -        0xfee00000  local APIC       600   5.6    100     500     600          0    600      750  write 4 (1 bit)
10662 accesses in 1.000 s
2 more pages with 62 accesses not shown (--top)
3 accesses of no page: the kernel counts 512 pages for each vCPU
"
        );
    }

    #[test]
    fn devices_and_vms() {
        let table = |by| {
            let view = View {
                by,
                ..View::default()
            };
            let reading = sample::two_vms();
            let summary = Summary::new(&reading, Duration::ZERO, &Names::default(), &view, 2);
            let mut text = Vec::new();
            summary_text(&mut text, &summary).unwrap();
            String::from_utf8(text).unwrap()
        };
        let devices = "\
VM   PID  process  device      pages  accesses     %  reads  writes  kernel  userspace   fast  ns each
 1  4711  -        0xfe003000      1     10000  93.8      0   10000   10000          0  10000      750
 1  4711  -        local APIC      1       600   5.6    100     500     600          0    600      750
10662 accesses in 0.000 s
2 more devices with 62 accesses not shown (--top)
";
        assert!(
            table(By::Device).starts_with(devices),
            "{}",
            table(By::Device)
        );
        let vms = "\
VM   PID  process    pages  accesses     %  reads  writes  kernel  userspace   fast  irqs off  ns each
 1  4711  -              3     10620  99.6    120   10500   10600         20  10620      5300      750
 2  4712  - (ended)      1        42   0.4     40       2       0         42     42         0      750
10662 accesses in 0.000 s
";
        assert!(table(By::Vm).starts_with(vms), "{}", table(By::Vm));
    }
}
