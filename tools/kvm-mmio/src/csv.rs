// SPDX-License-Identifier: GPL-2.0
//! Tables as comma-separated values (RFC 4180), for spreadsheets.

use std::io::Write;

use anyhow::Result;

use crate::counts::Counts;
use crate::reading::Clock;
use crate::site::{Quantiles, Times};
use crate::summary::Summary;
use crate::view::By;

/// A summary: its groups if there are any, else its pages.
pub fn summary(out: &mut dyn Write, summary: &Summary) -> Result<()> {
    let clock = &summary.clock;
    let vm = ["vm", "pid", "process", "ended"];
    if summary.grouped() {
        let parts = summary.by.titles().iter().map(|title| title.to_lowercase());
        let parts: Vec<_> = parts.collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let of_vms: &[&str] = match summary.by {
            By::Vm => &["irqs_off"],
            _ => &[],
        };
        line(
            out,
            &[&vm, &parts[..], &["pages"], &COUNTS, of_vms].concat(),
        )?;
        for group in &summary.groups {
            let mut cells = of_vm(group.vm, group.tgid, &group.process, group.ended);
            cells.extend(group.part.cells());
            cells.push(group.pages.to_string());
            cells.extend(counts(&group.counts, &group.times, clock));
            if !of_vms.is_empty() {
                let known = group.irqs_off.map(|count| count.to_string());
                cells.push(known.unwrap_or_default());
            }
            line(out, &cells)?;
        }
        return Ok(());
    }
    line(
        out,
        &[&vm, &["vcpu", "page", "name", "device"][..], &COUNTS].concat(),
    )?;
    for row in &summary.rows {
        let vcpu = row.key.vcpu.map(|vcpu| vcpu.to_string());
        let page = format!("{:#x}", row.key.gpa);
        let mut cells = of_vm(row.key.vm, row.tgid, &row.process, row.ended);
        cells.extend([
            vcpu.unwrap_or_default(),
            page,
            row.name.clone(),
            row.device.clone(),
        ]);
        cells.extend(counts(&row.counts, &row.times(), clock));
        line(out, &cells)?;
    }
    Ok(())
}

const COUNTS: [&str; 12] = [
    "accesses",
    "reads",
    "writes",
    "kernel",
    "userspace",
    "fast",
    "wildcard",
    "seconds",
    "min_ns",
    "p50_ns",
    "p99_ns",
    "max_ns",
];

fn of_vm(vm: u64, tgid: u32, process: &str, ended: bool) -> Vec<String> {
    vec![
        vm.to_string(),
        tgid.to_string(),
        process.to_owned(),
        u8::from(ended).to_string(),
    ]
}

/// Empty is what the source does not know.
fn counts(counts: &Counts, times: &Times, clock: &Clock) -> [String; 12] {
    let times = times.quantiles();
    let time = |part: fn(&Quantiles) -> u64| {
        times
            .as_ref()
            .map(part)
            .map_or_else(String::new, |time| time.to_string())
    };
    let known = |text: String| {
        if clock.is_traced() {
            String::new()
        } else {
            text
        }
    };
    [
        counts.count.to_string(),
        counts.reads.to_string(),
        counts.writes.to_string(),
        counts.kernel.to_string(),
        counts.userspace.to_string(),
        known(counts.fast.to_string()),
        counts.wildcard.to_string(),
        known(clock.seconds(counts.cycles).to_string()),
        time(|times| times.min),
        time(|times| times.p50),
        time(|times| times.p99),
        time(|times| times.max),
    ]
}

fn line<S: AsRef<str>>(out: &mut dyn Write, cells: &[S]) -> Result<()> {
    let cells: Vec<_> = cells.iter().map(|cell| quoted(cell.as_ref())).collect();
    Ok(write!(out, "{}\r\n", cells.join(","))?)
}

fn quoted(cell: &str) -> String {
    match cell.contains([',', '"', '\r', '\n']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::device::sample;
    use crate::region::Names;
    use crate::view::View;

    fn text(by: By) -> String {
        let view = View {
            by,
            ..View::default()
        };
        let names = Names::new(Vec::new(), [(4711, "a \"b\", c".to_owned())].into());
        let all = Summary::new(&sample::two_vms(), Duration::ZERO, &names, &view, 2);
        let mut text = Vec::new();
        summary(&mut text, &all).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn pages() {
        let wanted = "vm,pid,process,ended,vcpu,page,name,device,\
            accesses,reads,writes,kernel,userspace,fast,wildcard,seconds,min_ns,p50_ns,p99_ns,max_ns\r\n\
            1,4711,\"a \"\"b\"\", c\",0,,0xfe003000,0xfe003000,0xfe003000,\
            10000,0,10000,10000,0,10000,0,0.0075,,,,\r\n\
            1,4711,\"a \"\"b\"\", c\",0,,0xfee00000,local APIC,local APIC,\
            600,100,500,600,0,600,0,0.00045,,,,\r\n";
        assert_eq!(text(By::Page), wanted);
    }

    #[test]
    fn groups() {
        let wanted = "vm,pid,process,ended,pages,\
            accesses,reads,writes,kernel,userspace,fast,wildcard,seconds,min_ns,p50_ns,p99_ns,max_ns,\
            irqs_off\r\n\
            1,4711,\"a \"\"b\"\", c\",0,3,10620,120,10500,10600,20,10620,0,0.007965,,,,,5300\r\n\
            2,4712,,1,1,42,40,2,0,42,42,0,0.0000315,,,,,0\r\n";
        assert_eq!(text(By::Vm), wanted);
    }
}
