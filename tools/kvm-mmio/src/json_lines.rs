// SPDX-License-Identifier: GPL-2.0
//! JSON Lines for programs.

use std::io::Write;

use anyhow::Result;
use serde::Serialize;

use crate::counts::Counts;
use crate::group::Group;
use crate::histogram::{Bin, bins};
use crate::missing::Missing;
use crate::reading::{Clock, KERNEL, Last, USERSPACE};
use crate::site::{Quantiles, Times};
use crate::stats_format::{Outcome, UNKNOWN_WIDTH};
use crate::summary::{Summary, VmSummary};

/// Version of the JSON Lines; grows when a field changes its meaning or goes away.
pub const SCHEMA: u32 = 2;

/// One line of JSON Lines. Each has a `kind`; the first one is the header.
#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Line<'a> {
    Header {
        schema: u32,
        program: &'static str,
        version: &'static str,
        command: &'static str,
    },
    Interval {
        seconds: f64,
        boottime_ns: u64,
        pages_per_vcpu: u32,
        source: &'static str,
        accesses: u64,
        pages_hidden: usize,
        accesses_hidden: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        latency_ns: Option<LatencyLine>,
        #[serde(flatten)]
        missing: Missing,
    },
    Vm(&'a VmSummary),
    Page(PageLine<'a>),
    Group(GroupLine<'a>),
}

/// A row of a table of VMs or devices.
#[derive(Serialize)]
pub struct GroupLine<'a> {
    #[serde(flatten)]
    group: &'a Group,
    #[serde(flatten)]
    counts: CountsLine,
}

/// Counts; null is what the source does not know.
#[derive(Serialize)]
struct CountsLine {
    count: u64,
    reads: u64,
    writes: u64,
    kernel: u64,
    userspace: u64,
    fast: Option<u64>,
    wildcard: u64,
    cycles: Option<u64>,
    seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_ns: Option<LatencyLine>,
}

/// How long accesses took, in nanoseconds.
#[derive(Serialize)]
pub struct LatencyLine {
    #[serde(flatten)]
    quantiles: Quantiles,
    histogram: Vec<Bin>,
}

impl LatencyLine {
    /// None if that is not known.
    fn new(times: &Times) -> Option<Self> {
        Some(Self {
            quantiles: times.quantiles()?,
            histogram: bins(times),
        })
    }
}

impl CountsLine {
    fn new(counts: &Counts, times: &Times, clock: &Clock) -> Self {
        let known = |value: u64| (!clock.is_traced()).then_some(value);
        Self {
            count: counts.count,
            reads: counts.reads,
            writes: counts.writes,
            kernel: counts.kernel,
            userspace: counts.userspace,
            fast: known(counts.fast),
            wildcard: counts.wildcard,
            cycles: known(counts.cycles),
            seconds: known(counts.cycles).map(|cycles| clock.seconds(cycles)),
            latency_ns: LatencyLine::new(times),
        }
    }
}

/// A row of the table.
#[derive(Serialize)]
pub struct PageLine<'a> {
    vm: u64,
    tgid: u32,
    process: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    vcpu: Option<u32>,
    gpa: String,
    name: &'a str,
    device: &'a str,
    /// Devices that share the page, and its counts.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    shared: &'a [String],
    #[serde(flatten)]
    counts: CountsLine,
    last: LastLine,
}

#[derive(Serialize)]
struct LastLine {
    size_bytes: u8,
    width_bits: Option<u8>,
    direction: crate::reading::Direction,
    outcome: &'static str,
}

const OUTCOMES: [(u8, &str); 7] = [
    (Outcome::FastKernel as u8, "fast_kernel"),
    (Outcome::FastUserspace as u8, "fast_userspace"),
    (Outcome::EmulatedKernel as u8, "emulated_kernel"),
    (Outcome::EmulatedUserspace as u8, "emulated_userspace"),
    (Outcome::Wildcard as u8, "wildcard"),
    // Of tracepoints, which do not tell what is fast.
    (KERNEL, "kernel"),
    (USERSPACE, "userspace"),
];

fn outcome(last: &Last) -> &'static str {
    let mut all = OUTCOMES.iter();
    all.find(|(number, _)| *number == last.outcome)
        .map_or("unknown", |(_, name)| name)
}

pub fn known_width(last: &Last) -> Option<u8> {
    (last.width != UNKNOWN_WIDTH && last.size != 0).then_some(last.width)
}

pub fn header(out: &mut dyn Write, command: &'static str) -> Result<()> {
    line(
        out,
        &Line::Header {
            schema: SCHEMA,
            program: env!("CARGO_PKG_NAME"),
            version: env!("CARGO_PKG_VERSION"),
            command,
        },
    )
}

pub fn line(out: &mut dyn Write, line: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string(line)?;
    Ok(writeln!(out, "{text}")?)
}

/// A summary as JSON Lines.
pub fn summary_json(out: &mut dyn Write, summary: &Summary) -> Result<()> {
    let clock = &summary.clock;
    line(
        out,
        &Line::Interval {
            seconds: summary.elapsed.as_secs_f64(),
            boottime_ns: clock.boottime,
            pages_per_vcpu: clock.pages_per_vcpu,
            source: if clock.is_traced() {
                "tracepoints"
            } else {
                "module"
            },
            accesses: summary.accesses,
            pages_hidden: summary.hidden.0,
            accesses_hidden: summary.hidden.1,
            latency_ns: LatencyLine::new(&summary.times),
            missing: summary.missing,
        },
    )?;
    for vm in &summary.vms {
        line(out, &Line::Vm(vm))?;
    }
    for group in &summary.groups {
        let counts = CountsLine::new(&group.counts, &group.times, clock);
        line(out, &Line::Group(GroupLine { group, counts }))?;
    }
    for row in &summary.rows {
        line(
            out,
            &Line::Page(PageLine {
                vm: row.key.vm,
                tgid: row.tgid,
                process: &row.process,
                vcpu: row.key.vcpu,
                gpa: format!("{:#x}", row.key.gpa),
                name: &row.name,
                device: &row.device,
                shared: &row.shared,
                counts: CountsLine::new(&row.counts, &row.times(), clock),
                last: LastLine {
                    size_bytes: row.last.size,
                    width_bits: known_width(&row.last),
                    direction: row.last.direction,
                    outcome: outcome(&row.last),
                },
            }),
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::device::sample;
    use crate::region::Names;
    use crate::view::{By, View};

    fn lines(view: &View) -> Vec<serde_json::Value> {
        let reading = sample::two_vms();
        let second = Duration::from_secs(1);
        let summary = Summary::new(&reading, second, &Names::default(), view, 100);
        let mut text = Vec::new();
        header(&mut text, "report").unwrap();
        summary_json(&mut text, &summary).unwrap();
        String::from_utf8(text)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn irqs_off_is_of_whole_vms() {
        let mut view = View {
            by: By::Vm,
            ..View::default()
        };
        let known = |view: &View| {
            let groups = lines(view).into_iter();
            let groups = groups.filter(|line| line["kind"] == "group");
            groups
                .map(|line| line.get("irqs_off").cloned())
                .collect::<Vec<_>>()
        };
        assert_eq!(known(&view), [Some(5300.into()), Some(0.into())]);
        view.filter.vcpus = vec![0];
        assert_eq!(known(&view), [None, None]);
    }

    #[test]
    fn json_lines() {
        let lines = lines(&View::default());
        let kinds: Vec<_> = lines
            .iter()
            .map(|line| line["kind"].as_str().unwrap())
            .collect();
        assert_eq!(
            kinds,
            [
                "header", "interval", "vm", "vm", "page", "page", "page", "page"
            ]
        );
        assert_eq!(lines[0]["schema"], SCHEMA);
        assert_eq!(lines[1]["accesses"], 10662);
        assert_eq!(lines[2]["counters"]["faults"], 10620);
        assert_eq!(lines[2]["counters"]["fast_irqsoff"], 5300);
        assert_eq!(lines[4]["gpa"], "0xfe003000");
        assert_eq!(lines[4]["last"]["outcome"], "fast_kernel");
    }
}
