// SPDX-License-Identifier: GPL-2.0
//! OpenMetrics text 1.0, as Prometheus reads it.
//!
//! The sets of labels are bounded: by the number of VMs and of pages that the caller allows, and by
//! the kernel's list of counters. What is left out is a metric of its own.

use std::fmt::Write;

use crate::reading::{Clock, ENABLED, FAST, HEAT, Reading, Vm};
use crate::region::Regions;
use crate::summary::{Row, View, rows};

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
    fn name(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
            Self::Info => "info",
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
    text: String,
    name: &'static str,
    suffix: &'static str,
}

impl Text {
    fn family(&mut self, kind: Type, name: &'static str, unit: &str, help: &str) {
        let text = &mut self.text;
        let _ = writeln!(text, "# TYPE {name} {}", kind.name());
        if !unit.is_empty() {
            let _ = writeln!(text, "# UNIT {name} {unit}");
        }
        let _ = writeln!(text, "# HELP {name} {}", escape(help));
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
pub fn render(reading: Option<&Reading>, regions: &Regions, limits: Limits) -> String {
    let mut text = Text {
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
        vms(&mut text, reading, limits.vms);
        pages(&mut text, reading, regions, limits);
    }
    text.text.push_str("# EOF\n");
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

/// A family for each kind of the kernel's counters: the rest of a counter's name is a label.
fn vms(text: &mut Text, reading: &Reading, limit: usize) {
    text.single(
        "kvm_mmio_vms",
        "VMs that have done MMIO.",
        reading.vms.len(),
    );
    let hidden = reading.vms.len().saturating_sub(limit);
    text.single(
        "kvm_mmio_vms_truncated",
        "VMs that are left out of all metrics.",
        hidden,
    );
    let vms: Vec<(String, &Vm)> = reading
        .vms
        .iter()
        .take(limit)
        .map(|(id, vm)| (id.to_string(), vm))
        .collect();
    text.family(
        Type::Info,
        "kvm_mmio_vm",
        "",
        "A VM, and its process in the initial namespace.",
    );
    for (id, vm) in &vms {
        text.sample(&[("vm", id), ("pid", &vm.tgid.to_string())], 1);
    }
    text.family(
        Type::Gauge,
        "kvm_mmio_vcpus",
        "",
        "vCPUs that have done MMIO.",
    );
    for (id, vm) in &vms {
        text.sample(&[("vm", id)], vm.vcpus.len());
    }
    let help = "Reads and writes by their bytes, unknown if the emulator was not watched.";
    text.family(Type::Counter, "kvm_mmio_accesses", "", help);
    for (id, vm) in &vms {
        for (place, name) in (0..).zip(&reading.counters) {
            if let Some((direction, size)) = access(name) {
                let labels = [
                    ("vm", id.as_str()),
                    ("direction", direction),
                    ("size", size),
                ];
                text.sample(&labels, vm.counter(place));
            }
        }
    }
    let help = "What the extension did, by the names of the kernel's counters.";
    text.family(Type::Counter, "kvm_mmio_events", "", help);
    for (id, vm) in &vms {
        for (place, name) in (0..).zip(&reading.counters) {
            if access(name).is_none() {
                text.sample(&[("vm", id), ("event", name)], vm.counter(place));
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

fn pages(text: &mut Text, reading: &Reading, regions: &Regions, limits: Limits) {
    let mut reading = reading.clone();
    while reading.vms.len() > limits.vms {
        reading.vms.pop_last();
    }
    let mut shown = rows(&reading, regions, &View::default());
    let hidden = shown.split_off(limits.pages.min(shown.len()));
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
            let [vm, page, device] = labels.get();
            text.sample(&[vm, page, device, ("completed", name)], count);
        }
    }
    let help = "Accesses to the same pages, by direction where it is known.";
    text.family(Type::Counter, "kvm_mmio_page_operations", "", help);
    for (row, labels) in of_pages() {
        for (name, count) in [("read", row.counts.reads), ("write", row.counts.writes)] {
            let [vm, page, device] = labels.get();
            text.sample(&[vm, page, device, ("direction", name)], count);
        }
    }
    let help = "Time spent on accesses to the same pages.";
    text.family(Type::Counter, "kvm_mmio_page_seconds", "seconds", help);
    for (row, labels) in of_pages() {
        text.sample(&labels.get(), reading.clock.seconds(row.counts.cycles));
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
    vm: String,
    page: String,
    device: String,
}

impl Labels {
    fn of(row: &Row) -> Self {
        Self {
            vm: row.key.vm.to_string(),
            page: format!("{:#x}", row.key.gpa),
            device: row.device.clone(),
        }
    }

    fn get(&self) -> [(&'static str, &str); 3] {
        [
            ("vm", &self.vm),
            ("page", &self.page),
            ("device", &self.device),
        ]
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
            render(None, &Regions::default(), ALL),
            "# TYPE kvm_mmio_up gauge\n\
             # HELP kvm_mmio_up Whether the statistics of kvm_mmio_ext could be read.\n\
             kvm_mmio_up 0\n\
             # EOF\n"
        );
    }

    #[test]
    fn figures_are_those_of_the_kernel() {
        let text = render(Some(&sample::two_vms()), &Regions::default(), ALL);
        for line in [
            "kvm_mmio_up 1",
            "kvm_mmio_vm_info{vm=\"1\",pid=\"4711\"} 1",
            "kvm_mmio_accesses_total{vm=\"1\",direction=\"write\",size=\"4\"} 10500",
            "kvm_mmio_accesses_total{vm=\"1\",direction=\"unknown\",size=\"unknown\"} 0",
            "kvm_mmio_events_total{vm=\"1\",event=\"faults\"} 10620",
            "kvm_mmio_page_accesses_total{vm=\"2\",page=\"0xfed00000\",device=\"HPET\",completed=\"userspace\"} 42",
            "kvm_mmio_pages_truncated 0",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line}");
        }
    }

    #[test]
    fn what_is_left_out_is_said() {
        let limits = Limits { vms: 1, pages: 1 };
        let text = render(Some(&sample::two_vms()), &Regions::default(), limits);
        assert!(text.contains("\nkvm_mmio_vms_truncated 1\n"));
        assert!(text.contains("\nkvm_mmio_pages_truncated 2\n"));
        assert!(text.contains("\nkvm_mmio_accesses_truncated 620\n"));
        assert!(!text.contains("vm=\"2\""));
        assert!(!text.contains("local APIC"));
    }

    #[test]
    fn labels_are_escaped() {
        assert_eq!(escape("a\\b\"c\nd"), "a\\\\b\\\"c\\nd");
    }
}
