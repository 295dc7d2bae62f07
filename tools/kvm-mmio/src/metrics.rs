// SPDX-License-Identifier: GPL-2.0
//! Metrics as text: in Prometheus' own format 0.0.4, which node_exporter's textfile collector wants,
//! or as OpenMetrics 1.0. They differ in types, in what a type is said of, and in the end.
//!
//! The sets of labels are bounded: by the number of VMs and of pages that the caller allows, and by
//! the kernel's list of counters. What is left out is a metric of its own.

use std::cmp::Reverse;
use std::fmt::Write;

use clap::ValueEnum;

use crate::reading::{Clock, ENABLED, FAST, HEAT, Reading, Vm};
use crate::region::Names;
use crate::row::{Row, rows};
use crate::view::View;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Prometheus' text format 0.0.4, which everything reads
    #[default]
    Prometheus,
    /// OpenMetrics 1.0, with units and the type info
    #[value(name = "openmetrics")]
    OpenMetrics,
}

impl Format {
    /// What HTTP calls it.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => {
                "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores"
            }
        }
    }
}

/// How many series there may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub vms: usize,
    pub pages: usize,
}

#[derive(Clone, Copy)]
enum Type {
    Gauge,
    Counter,
    Info,
}

impl Type {
    /// The older format has no info: there, it is a gauge that is always 1.
    fn name(self, format: Format) -> &'static str {
        match self {
            Self::Info if format == Format::OpenMetrics => "info",
            Self::Gauge | Self::Info => "gauge",
            Self::Counter => "counter",
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::Gauge => "",
            Self::Counter => "_total",
            Self::Info => "_info",
        }
    }
}

/// The text, family by family.
struct Text {
    format: Format,
    text: String,
    name: &'static str,
    suffix: &'static str,
}

impl Text {
    fn family(&mut self, kind: Type, name: &'static str, unit: &str, help: &str) {
        let (format, text) = (self.format, &mut self.text);
        // Of which the type is said: OpenMetrics has families, the older format samples.
        let suffix = match format {
            Format::Prometheus => kind.suffix(),
            Format::OpenMetrics => "",
        };
        let _ = writeln!(text, "# TYPE {name}{suffix} {}", kind.name(format));
        if format == Format::OpenMetrics && !unit.is_empty() {
            let _ = writeln!(text, "# UNIT {name} {unit}");
        }
        let _ = writeln!(text, "# HELP {name}{suffix} {}", escape(help));
        (self.name, self.suffix) = (name, kind.suffix());
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let _ = write!(self.text, "{}{}", self.name, self.suffix);
        for (place, (name, value)) in (0..).zip(labels) {
            let open = if place == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{open}{name}=\"{}\"", escape(value));
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{close} {value}");
    }

    fn single(&mut self, name: &'static str, help: &str, value: impl std::fmt::Display) {
        self.family(Type::Gauge, name, "", help);
        self.sample(&[], value);
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// All metrics of a reading; of None, that there is none.
pub fn render(reading: Option<&Reading>, names: &Names, limits: Limits, format: Format) -> String {
    let mut text = Text {
        format,
        text: String::new(),
        name: "",
        suffix: "",
    };
    let up = u8::from(reading.is_some());
    text.single(
        "kvm_mmio_up",
        "Whether the statistics of kvm_mmio_ext could be read.",
        up,
    );
    if let Some(reading) = reading {
        settings(&mut text, &reading.clock);
        let (busiest, hidden) = busiest(reading, limits.vms);
        text.single(
            "kvm_mmio_vms",
            "VMs that have done MMIO.",
            reading.vms.len(),
        );
        let help = "VMs that are left out of all metrics, as they have done less.";
        text.single("kvm_mmio_vms_truncated", help, hidden);
        vms(&mut text, &busiest, names);
        pages(&mut text, &busiest, names, limits.pages);
    }
    if format == Format::OpenMetrics {
        text.text.push_str("# EOF\n");
    }
    text.text
}

fn settings(text: &mut Text, clock: &Clock) {
    for (name, flag, help) in [
        (
            "kvm_mmio_enabled",
            ENABLED,
            "Whether the extension is switched on.",
        ),
        (
            "kvm_mmio_fast_path_enabled",
            FAST,
            "Whether the fast path is switched on.",
        ),
        (
            "kvm_mmio_heat_enabled",
            HEAT,
            "Whether accesses are counted by page.",
        ),
    ] {
        text.single(name, help, u8::from(clock.flags & flag != 0));
    }
}

/// The VMs that have done the most, and how many others there are.
fn busiest(reading: &Reading, limit: usize) -> (Reading, usize) {
    let counted = |vm: &Vm| -> u64 {
        let accesses = (0..)
            .zip(&reading.counters)
            .filter(|(_, name)| access(name).is_some());
        accesses
            .map(|(place, _)| vm.counter(place))
            .fold(0, u64::saturating_add)
    };
    let mut vms: Vec<_> = reading.vms.iter().collect();
    // Of two alike the older one, so that a scrape shows what the one before has shown.
    vms.sort_by_key(|(id, vm)| (Reverse(counted(vm)), **id));
    let hidden = vms.split_off(limit.min(vms.len()));
    let mut busiest = reading.clone();
    busiest.vms = vms.into_iter().map(|(id, vm)| (*id, vm.clone())).collect();
    (busiest, hidden.len())
}

/// What tells a VM from others.
struct VmLabels {
    vm: String,
    pid: String,
    process: String,
}

impl VmLabels {
    fn new(id: u64, tgid: u32, process: &str) -> Self {
        Self {
            vm: id.to_string(),
            pid: tgid.to_string(),
            process: process.to_owned(),
        }
    }

    fn get(&self) -> [(&'static str, &str); 3] {
        [
            ("vm", &self.vm),
            ("pid", &self.pid),
            ("process", &self.process),
        ]
    }

    fn with<'a>(&'a self, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        [&self.get(), more].concat()
    }
}

/// A family for each kind of the kernel's counters: the rest of a counter's name is a label.
fn vms(text: &mut Text, reading: &Reading, names: &Names) {
    let labels = |id, vm: &Vm| VmLabels::new(id, vm.tgid, names.process(vm.tgid));
    let vms: Vec<_> = reading
        .vms
        .iter()
        .map(|(id, vm)| (labels(*id, vm), vm))
        .collect();
    let help = "A VM, its process in the initial namespace, and what that is called.";
    text.family(Type::Info, "kvm_mmio_vm", "", help);
    for (labels, _) in &vms {
        text.sample(&labels.get(), 1);
    }
    let help = "Whether a VM has ended.";
    text.family(Type::Gauge, "kvm_mmio_vm_ended", "", help);
    for (labels, vm) in &vms {
        text.sample(&labels.get(), u8::from(vm.ended));
    }
    let help = "vCPUs that have done MMIO.";
    text.family(Type::Gauge, "kvm_mmio_vcpus", "", help);
    for (labels, vm) in &vms {
        text.sample(&labels.get(), vm.vcpus.len());
    }
    let help = "Reads and writes by their bytes, unknown if the emulator was not watched.";
    text.family(Type::Counter, "kvm_mmio_accesses", "", help);
    for (labels, vm) in &vms {
        for (place, name) in (0..).zip(&reading.counters) {
            if let Some((direction, size)) = access(name) {
                let labels = labels.with(&[("direction", direction), ("size", size)]);
                text.sample(&labels, vm.counter(place));
            }
        }
    }
    let help = "What the extension did, by the names of the kernel's counters.";
    text.family(Type::Counter, "kvm_mmio_events", "", help);
    for (labels, vm) in &vms {
        for (place, name) in (0..).zip(&reading.counters) {
            if access(name).is_none() {
                text.sample(&labels.with(&[("event", name)]), vm.counter(place));
            }
        }
    }
}

/// The direction and the size of the accesses that a counter of the kernel counts.
fn access(counter: &str) -> Option<(&str, &str)> {
    if counter == "emulated_unseen" {
        return Some(("unknown", "unknown"));
    }
    let (direction, size) = counter.split_once('_')?;
    matches!(direction, "read" | "write").then_some((direction, size))
}

fn pages(text: &mut Text, reading: &Reading, names: &Names, limit: usize) {
    let mut shown = rows(reading, names, &View::default());
    let hidden = shown.split_off(limit.min(shown.len()));
    let labels: Vec<_> = shown.iter().map(Labels::of).collect();
    let of_pages = || shown.iter().zip(&labels);

    let help = "Accesses to the pages with the most of them, by where they were completed.";
    text.family(Type::Counter, "kvm_mmio_page_accesses", "", help);
    for (row, labels) in of_pages() {
        let counts = [
            ("kernel", row.counts.kernel),
            ("userspace", row.counts.userspace),
        ];
        for (name, count) in counts {
            text.sample(&labels.with(&[("completed", name)]), count);
        }
    }
    let help = "Accesses to the same pages, by direction where it is known.";
    text.family(Type::Counter, "kvm_mmio_page_operations", "", help);
    for (row, labels) in of_pages() {
        for (name, count) in [("read", row.counts.reads), ("write", row.counts.writes)] {
            text.sample(&labels.with(&[("direction", name)]), count);
        }
    }
    let help = "Time spent on accesses to the same pages.";
    text.family(Type::Counter, "kvm_mmio_page_seconds", "seconds", help);
    for (row, labels) in of_pages() {
        text.sample(&labels.with(&[]), reading.clock.seconds(row.counts.cycles));
    }
    let help = "Pages that are left out, as they have fewer accesses.";
    text.single("kvm_mmio_pages_truncated", help, hidden.len());
    let accesses: u64 = hidden.iter().map(|row| row.counts.count).sum();
    text.single(
        "kvm_mmio_accesses_truncated",
        "Accesses to the pages left out.",
        accesses,
    );
}

/// What tells a page from others.
struct Labels {
    vm: VmLabels,
    page: String,
    device: String,
}

impl Labels {
    fn of(row: &Row) -> Self {
        Self {
            vm: VmLabels::new(row.key.vm, row.tgid, &row.process),
            page: format!("{:#x}", row.key.gpa),
            device: row.device.clone(),
        }
    }

    fn with<'a>(&'a self, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let page = [("page", self.page.as_str()), ("device", &self.device)];
        self.vm.with(&[&page, more].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::sample;

    const ALL: Limits = Limits {
        vms: 100,
        pages: 100,
    };

    #[test]
    fn nothing_to_read() {
        assert_eq!(
            render(None, &Names::default(), ALL, Format::OpenMetrics),
            "# TYPE kvm_mmio_up gauge\n\
             # HELP kvm_mmio_up Whether the statistics of kvm_mmio_ext could be read.\n\
             kvm_mmio_up 0\n\
             # EOF\n"
        );
    }

    fn names() -> Names {
        Names::new(Vec::new(), [(4711, "web".to_owned())].into())
    }

    #[test]
    fn figures_are_those_of_the_kernel() {
        for format in [Format::Prometheus, Format::OpenMetrics] {
            let text = render(Some(&sample::two_vms()), &names(), ALL, format);
            for line in [
                "kvm_mmio_up 1",
                "kvm_mmio_vm_info{vm=\"1\",pid=\"4711\",process=\"web\"} 1",
                "kvm_mmio_vm_ended{vm=\"2\",pid=\"4712\",process=\"\"} 1",
                "kvm_mmio_accesses_total{vm=\"1\",pid=\"4711\",process=\"web\",direction=\"write\",size=\"4\"} 10500",
                "kvm_mmio_accesses_total{vm=\"1\",pid=\"4711\",process=\"web\",direction=\"unknown\",size=\"unknown\"} 0",
                "kvm_mmio_events_total{vm=\"1\",pid=\"4711\",process=\"web\",event=\"faults\"} 10620",
                "kvm_mmio_events_total{vm=\"1\",pid=\"4711\",process=\"web\",event=\"fast_irqsoff\"} 5300",
                "kvm_mmio_page_accesses_total{vm=\"2\",pid=\"4712\",process=\"\",page=\"0xfed00000\",device=\"HPET\",completed=\"userspace\"} 42",
                "kvm_mmio_pages_truncated 0",
            ] {
                assert!(
                    text.lines().any(|found| found == line),
                    "no {line} in {text}"
                );
            }
        }
    }

    #[test]
    fn what_a_kernel_does_not_count_is_left_out() {
        let mut reading = sample::two_vms();
        let newest = reading.counters.pop().unwrap();
        let text = render(Some(&reading), &names(), ALL, Format::Prometheus);
        assert!(text.contains("event=\"fast_userspace\""));
        assert!(!text.contains(&newest), "{newest}");
    }

    /// Every sample has a type that its format knows, said of the name that its format wants.
    #[test]
    fn types_are_those_of_the_format() {
        for (format, kinds) in [
            (Format::Prometheus, &[("gauge", ""), ("counter", "")][..]),
            (
                Format::OpenMetrics,
                &[("gauge", ""), ("counter", "_total"), ("info", "_info")],
            ),
        ] {
            let text = render(Some(&sample::two_vms()), &names(), ALL, format);
            let mut expected = String::new();
            for line in text.lines() {
                if let Some(family) = line.strip_prefix("# TYPE ") {
                    let (name, kind) = family.split_once(' ').unwrap();
                    let (_, suffix) = kinds.iter().find(|(known, _)| *known == kind).unwrap();
                    assert_eq!(
                        kind == "counter",
                        format!("{name}{suffix}").ends_with("_total")
                    );
                    expected = format!("{name}{suffix}");
                } else if !line.starts_with('#') {
                    assert_eq!(line.split(['{', ' ']).next(), Some(expected.as_str()));
                }
            }
            assert_eq!(text.contains("# UNIT"), format == Format::OpenMetrics);
            assert_eq!(text.ends_with("# EOF\n"), format == Format::OpenMetrics);
        }
    }

    #[test]
    fn what_is_left_out_is_said() {
        let limits = Limits { vms: 1, pages: 1 };
        let text = render(
            Some(&sample::two_vms()),
            &names(),
            limits,
            Format::Prometheus,
        );
        assert!(text.contains("\nkvm_mmio_vms_truncated 1\n"));
        assert!(text.contains("\nkvm_mmio_pages_truncated 2\n"));
        assert!(text.contains("\nkvm_mmio_accesses_truncated 620\n"));
        assert!(!text.contains("vm=\"2\""));
        assert!(!text.contains("local APIC"));
    }

    #[test]
    fn the_busiest_vms_stay() {
        let mut reading = sample::two_vms();
        let busy = reading.vms[&1].clone();
        reading.vms.insert(9, busy);
        let busiest = |limit| -> (Vec<u64>, usize) {
            let (busiest, hidden) = super::busiest(&reading, limit);
            (busiest.vms.into_keys().collect(), hidden)
        };
        assert_eq!(busiest(2), (vec![1, 9], 1));
        assert_eq!(busiest(1), (vec![1], 2));
        assert_eq!(busiest(0), (vec![], 3));
        assert_eq!(busiest(5), (vec![1, 2, 9], 0));
    }

    #[test]
    fn labels_are_escaped() {
        assert_eq!(escape("a\\b\"c\nd"), "a\\\\b\\\"c\\nd");
    }
}
