// SPDX-License-Identifier: GPL-2.0
//! Metrics for Prometheus.
//!
//! The sets of labels are bounded: by the number of VMs and of pages that the caller allows, and by
//! the kernel's list of counters. What is left out is a metric of its own; what the source does not
//! know has no series.

mod latency;
mod text;

use std::cmp::Reverse;

use crate::counts::Counts;
use crate::reading::{Clock, ENABLED, FAST, HEAT, Reading, Vm};
use crate::region::Names;
use crate::row::{Row, rows};
use crate::view::View;
use latency::latency;
use text::{Text, Type};

pub use text::Format;

/// How many series there may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub vms: usize,
    pub pages: usize,
}

/// All metrics of a reading; of None, that there is none.
pub fn render(reading: Option<&Reading>, names: &Names, limits: Limits, format: Format) -> String {
    let mut text = Text::new(format);
    text.single(
        Type::Gauge,
        "kvm_mmio_up",
        "Whether there was something to read: kvm_mmio_ext, or KVM's tracepoints.",
        u8::from(reading.is_some()),
    );
    if let Some(reading) = reading {
        settings(&mut text, &reading.clock);
        lost(&mut text, &reading.clock);
        let (busiest, hidden) = busiest(reading, limits.vms);
        let help = "VMs that have done MMIO.";
        text.single(Type::Gauge, "kvm_mmio_vms", help, reading.vms.len());
        let help = "VMs that are left out of all metrics, as they have ended or done less.";
        text.single(Type::Gauge, "kvm_mmio_vms_truncated", help, hidden);
        vms(&mut text, &busiest, names);
        pages(&mut text, &busiest, names, limits.pages);
    }
    text.end()
}

/// How the extension is set. Tracepoints do not tell; they always count by page.
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
        if flag == HEAT || !clock.is_traced() {
            text.single(Type::Gauge, name, help, u8::from(clock.flags & flag != 0));
        }
    }
}

/// What is in no other metric. Either source loses in its own way.
fn lost(text: &mut Text, clock: &Clock) {
    let (name, help) = match clock.is_traced() {
        true => (
            "kvm_mmio_events_lost",
            "Events of KVM's tracepoints that had no room: there were more accesses.",
        ),
        false => (
            "kvm_mmio_vms_lost",
            "VMs that have ended and were not kept for those who read.",
        ),
    };
    text.single(Type::Counter, name, help, clock.lost);
}

/// The VMs that have done the most, those that have ended last, and how many others there are.
fn busiest(reading: &Reading, limit: usize) -> (Reading, usize) {
    let counted = |vm: &Vm| {
        let counts = accesses(reading, vm).into_iter().map(|(_, _, count)| count);
        counts.fold(0, u64::saturating_add)
    };
    let mut vms: Vec<_> = reading.vms.iter().collect();
    // Of two alike the older one, so that a scrape shows what the one before has shown.
    vms.sort_by_key(|(id, vm)| (vm.ended, Reverse(counted(vm)), **id));
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
    let help = "Reads and writes by their bytes, unknown if these were not seen.";
    text.family(Type::Counter, "kvm_mmio_accesses", "", help);
    for (labels, vm) in &vms {
        for (direction, size, count) in accesses(reading, vm) {
            text.sample(
                &labels.with(&[("direction", direction), ("size", size)]),
                count,
            );
        }
    }
    let help = "Accesses of these that are counted for no page, as there were too many pages.";
    text.family(Type::Counter, "kvm_mmio_accesses_without_page", "", help);
    for (labels, vm) in &vms {
        text.sample(&labels.get(), vm.heat_dropped);
    }
    if reading.clock.is_traced() {
        return;
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

/// The accesses of a VM by direction and size, and how many these are.
fn accesses<'a>(reading: &'a Reading, vm: &Vm) -> Vec<(&'a str, &'a str, u64)> {
    if reading.clock.is_traced() {
        return traced_accesses(vm);
    }
    let counters = (0..).zip(&reading.counters);
    let told = counters.filter_map(|(place, name)| Some((access(name)?, vm.counter(place))));
    told.map(|((direction, size), count)| (direction, size, count))
        .collect()
}

/// Of all pages and of none. There is no counter of tracepoints for each size.
fn traced_accesses(vm: &Vm) -> Vec<(&'static str, &'static str, u64)> {
    let mut sum = Counts::default();
    let pages = vm.vcpus.values().flat_map(|vcpu| vcpu.pages.values());
    pages.for_each(|page| sum += page.counts);
    let seen = sum.reads.saturating_add(sum.writes);
    let unseen = sum
        .count
        .saturating_sub(seen)
        .saturating_add(vm.heat_dropped);
    [
        ("read", sum.reads),
        ("write", sum.writes),
        ("unknown", unseen),
    ]
    .map(|(direction, count)| (direction, "unknown", count))
    .to_vec()
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
    // Those of VMs that have ended must not push out others for ever.
    shown.sort_by_key(|row| row.ended);
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
    if !reading.clock.is_traced() {
        let help = "Time spent on accesses to the same pages.";
        text.family(Type::Counter, "kvm_mmio_page_seconds", "seconds", help);
        for (row, labels) in of_pages() {
            text.sample(&labels.with(&[]), reading.clock.seconds(row.counts.cycles));
        }
    }
    latency(
        text,
        of_pages().map(|(row, labels)| (labels.with(&[]), row.times())),
    );
    let help = "Pages that are left out, as they have fewer accesses.";
    text.single(Type::Gauge, "kvm_mmio_pages_truncated", help, hidden.len());
    let accesses: u64 = hidden.iter().map(|row| row.counts.count).sum();
    let help = "Accesses to the pages left out.";
    text.single(Type::Gauge, "kvm_mmio_accesses_truncated", help, accesses);
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
    use crate::reading::TRACED;

    const ALL: Limits = Limits {
        vms: 100,
        pages: 100,
    };

    #[test]
    fn nothing_to_read() {
        assert_eq!(
            render(None, &Names::default(), ALL, Format::OpenMetrics),
            "# TYPE kvm_mmio_up gauge\n\
             # HELP kvm_mmio_up Whether there was something to read: kvm_mmio_ext, or KVM's tracepoints.\n\
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

    /// As tracepoints tell it: no counters, and no VM of the module's.
    fn traced() -> Reading {
        let mut reading = sample::traced();
        reading.clock.flags |= TRACED;
        reading.clock.lost = 7;
        reading.counters.clear();
        reading
    }

    #[test]
    fn what_tracepoints_do_not_tell_is_left_out() {
        let text = render(Some(&traced()), &names(), ALL, Format::OpenMetrics);
        for line in [
            "kvm_mmio_heat_enabled 1",
            "kvm_mmio_events_lost_total 7",
            "kvm_mmio_accesses_total{vm=\"1\",pid=\"4711\",process=\"web\",direction=\"write\",size=\"unknown\"} 10500",
            "kvm_mmio_accesses_total{vm=\"1\",pid=\"4711\",process=\"web\",direction=\"unknown\",size=\"unknown\"} 3",
            "kvm_mmio_accesses_without_page_total{vm=\"1\",pid=\"4711\",process=\"web\"} 3",
            "kvm_mmio_page_accesses_total{vm=\"2\",pid=\"4712\",process=\"\",page=\"0xfed00000\",device=\"HPET\",completed=\"userspace\"} 42",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "no {line} in {text}"
            );
        }
        for name in [
            "kvm_mmio_enabled",
            "kvm_mmio_fast_path_enabled",
            "kvm_mmio_vms_lost",
            "kvm_mmio_events ",
            "kvm_mmio_page_seconds",
        ] {
            assert!(!text.contains(name), "{name} in {text}");
        }
        let text = render(Some(&sample::two_vms()), &names(), ALL, Format::Prometheus);
        assert!(text.contains("\nkvm_mmio_vms_lost_total 0\n"), "{text}");
        assert!(!text.contains("events_lost"), "{text}");
    }

    #[test]
    fn vms_that_have_ended_make_room() {
        let mut reading = traced();
        reading.vms.get_mut(&1).unwrap().ended = true;
        reading.vms.get_mut(&2).unwrap().ended = false;
        let limits = Limits { vms: 1, pages: 1 };
        let text = render(Some(&reading), &names(), limits, Format::Prometheus);
        assert!(text.contains("vm=\"2\"") && !text.contains("vm=\"1\""));
        let limits = Limits { vms: 2, ..limits };
        let text = render(Some(&reading), &names(), limits, Format::Prometheus);
        assert!(text.contains("device=\"HPET\"") && !text.contains("page=\"0xfe003000\""));
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
}
