// SPDX-License-Identifier: GPL-2.0
//! What a table shows: one row for each page, of a VM or of each of its vCPUs.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clap::ValueEnum;
use regex_lite::Regex;
use serde::Serialize;

use crate::advice::{Advice, advice};
use crate::group::{By, Group, groups};
use crate::reading::{Clock, Counts, Last, Page, Reading, Vcpu, Vm};
use crate::region::{Maps, Names};
use crate::site::{Site, Times};

/// Which pages are shown.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// VM ids; empty for all.
    pub vms: Vec<u64>,
    /// Processes of VMs; empty for all.
    pub pids: Vec<u32>,
    pub vcpus: Vec<u32>,
    /// Of the name of the page.
    pub name: Option<Regex>,
}

impl Filter {
    fn has_vm(&self, id: u64, vm: &Vm) -> bool {
        (self.vms.is_empty() || self.vms.contains(&id))
            && (self.pids.is_empty() || self.pids.contains(&vm.tgid))
    }

    fn has_vcpu(&self, id: u32) -> bool {
        self.vcpus.is_empty() || self.vcpus.contains(&id)
    }

    /// Takes away what is not to be shown, pages by name excepted.
    pub fn apply(&self, reading: &mut Reading) {
        reading.vms.retain(|id, vm| self.has_vm(*id, vm));
        for vm in reading.vms.values_mut() {
            vm.vcpus.retain(|id, _| self.has_vcpu(*id));
        }
    }
}

/// What the rows are ordered by. All but addresses begin with the most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    #[default]
    Accesses,
    Reads,
    Writes,
    Kernel,
    Userspace,
    Time,
    Page,
}

impl Sort {
    pub fn next(self) -> Self {
        let all = Self::value_variants();
        let place = all.iter().position(|sort| *sort == self).unwrap_or(0);
        all[(place + 1) % all.len()]
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Accesses => "accesses",
            Self::Reads => "reads",
            Self::Writes => "writes",
            Self::Kernel => "kernel",
            Self::Userspace => "userspace",
            Self::Time => "time",
            Self::Page => "page",
        }
    }

    pub fn key(self, counts: &Counts) -> u64 {
        match self {
            Self::Accesses => counts.count,
            Self::Reads => counts.reads,
            Self::Writes => counts.writes,
            Self::Kernel => counts.kernel,
            Self::Userspace => counts.userspace,
            Self::Time => counts.cycles,
            Self::Page => 0,
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct View {
    pub filter: Filter,
    pub sort: Sort,
    pub per_vcpu: bool,
    pub by: By,
}

/// A page of a VM, or of a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub vm: u64,
    pub gpa: u64,
    /// None: all of the VM.
    pub vcpu: Option<u32>,
}

#[derive(Clone, Debug)]
pub struct Row {
    pub key: Key,
    pub tgid: u32,
    /// What its process is called; empty if nobody knows.
    pub process: String,
    pub ended: bool,
    pub name: String,
    /// The range that the page is part of.
    pub device: String,
    /// Devices that share the page, and its counts; empty if there is one.
    pub shared: Vec<String>,
    pub counts: Counts,
    pub last: Last,
    /// By instruction, where these are known.
    pub sites: BTreeMap<Option<u64>, Site>,
    /// What instructions are called.
    pub symbols: BTreeMap<u64, String>,
}

impl Row {
    /// How long accesses took, if that is known.
    pub fn times(&self) -> Times {
        let mut sum = Times::default();
        self.sites.values().for_each(|site| sum += &site.times);
        sum
    }

    /// Whether the page, its device or one of those that share it is called so.
    fn has_name(&self, name: &Regex) -> bool {
        let mut names = [&self.name, &self.device].into_iter().chain(&self.shared);
        names.any(|text| name.is_match(text))
    }
}

/// The names of pages of all VMs that are shown.
fn maps<'a>(reading: &Reading, names: &'a Names, filter: &Filter) -> Maps<'a> {
    let shown = reading
        .vms
        .iter()
        .filter(|(id, vm)| filter.has_vm(**id, vm));
    names.maps(&shown.map(|(_, vm)| vm.tgid).collect::<BTreeSet<_>>())
}

/// The rows of a reading in the order in which they are shown.
pub fn rows(reading: &Reading, names: &Names, view: &View) -> Vec<Row> {
    let maps = maps(reading, names, &view.filter);
    let mut rows: Vec<Row> = pages(reading, view)
        .into_iter()
        .map(|(key, Sum { vm, page, sites })| {
            let map = maps.of(vm.tgid);
            let symbol = |rip: u64| Some((rip, maps.symbol(vm.tgid, rip)?));
            Row {
                key,
                tgid: vm.tgid,
                process: names.process(vm.tgid).to_owned(),
                ended: vm.ended,
                name: map.page(key.gpa),
                device: map.device(key.gpa),
                shared: map.shared(key.gpa),
                counts: page.counts,
                last: page.last,
                symbols: sites.keys().flatten().copied().filter_map(symbol).collect(),
                sites,
            }
        })
        .filter(|row| {
            view.filter
                .name
                .as_ref()
                .is_none_or(|name| row.has_name(name))
        })
        .collect();
    // The keys are in order already, and the sort is stable.
    rows.sort_by_key(|row| Reverse(view.sort.key(&row.counts)));
    rows
}

/// What is known of a page of a VM, or of a vCPU.
struct Sum<'a> {
    vm: &'a Vm,
    page: Page,
    sites: BTreeMap<Option<u64>, Site>,
}

impl Sum<'_> {
    fn add(&mut self, vcpu: &Vcpu, gpa: u64, page: &Page) {
        self.page.counts += page.counts;
        if page.last.tsc >= self.page.last.tsc {
            self.page.last = page.last;
        }
        for ((_, rip), site) in vcpu.sites.range((gpa, None)..=(gpa, Some(u64::MAX))) {
            *self.sites.entry(*rip).or_default() += site;
        }
    }
}

/// The pages of a reading, with their VMs.
fn pages<'a>(reading: &'a Reading, view: &View) -> BTreeMap<Key, Sum<'a>> {
    let mut pages: BTreeMap<Key, Sum> = BTreeMap::new();
    let per_vcpu = view.per_vcpu || view.by == By::Vcpu;
    let shown = reading
        .vms
        .iter()
        .filter(|(id, vm)| view.filter.has_vm(**id, vm));
    for (&id, vm) in shown {
        for (&vcpu, state) in vm.vcpus.iter().filter(|(id, _)| view.filter.has_vcpu(**id)) {
            for (&gpa, page) in &state.pages {
                let key = Key {
                    vm: id,
                    gpa,
                    vcpu: per_vcpu.then_some(vcpu),
                };
                let sum = pages.entry(key).or_insert_with(|| Sum {
                    vm,
                    page: Page::default(),
                    sites: BTreeMap::new(),
                });
                sum.add(state, gpa, page);
            }
        }
    }
    pages
}

/// The time and the place of a summary.
#[derive(Clone, Debug)]
pub struct Summary {
    pub elapsed: Duration,
    pub clock: Clock,
    pub counters: Vec<String>,
    pub vms: Vec<VmSummary>,
    /// What rows are of.
    pub by: By,
    pub rows: Vec<Row>,
    /// In place of rows, unless these are of pages.
    pub groups: Vec<Group>,
    /// Rows or groups that are left out, and their accesses.
    pub hidden: (usize, u64),
    /// Accesses of all, shown or not.
    pub accesses: u64,
    /// There are names of pages of which it is not known whose they are.
    pub names_unused: bool,
    /// What names had to match, if none did.
    pub unmatched: Option<String>,
    /// Instructions are wanted, and there are accesses of which they are not known.
    pub no_sites: bool,
    pub advice: Vec<Advice>,
}

#[derive(Clone, Debug, Serialize)]
pub struct VmSummary {
    pub vm: u64,
    pub tgid: u32,
    /// Empty if nobody knows.
    pub process: String,
    pub ended: bool,
    pub vcpus: usize,
    pub pages: usize,
    /// Accesses that are counted for pages.
    pub accesses: u64,
    pub heat_dropped: u64,
    /// By name, as the kernel has them.
    pub counters: BTreeMap<String, u64>,
}

impl Summary {
    /// Of what has grown in some time, with at most `top` rows.
    pub fn new(grown: &Reading, elapsed: Duration, names: &Names, view: &View, top: usize) -> Self {
        let mut rows = rows(grown, names, view);
        let name = view.filter.name.as_ref().filter(|_| rows.is_empty());
        let accesses = rows.iter().map(|row| row.counts.count).sum();
        let advice = advice(&rows, grown.clock.is_traced());
        let no_sites = view.by == By::Rip && rows.iter().any(|row| row.sites.is_empty());
        let mut groups = groups(&rows, view.by, view.sort);
        if view.by != By::Page {
            rows.clear();
        }
        let left_out = [
            counts_of(rows.split_off(top.min(rows.len())), |row| row.counts),
            counts_of(groups.split_off(top.min(groups.len())), |group| {
                group.counts
            }),
        ];
        let [pages_hidden, groups_hidden] = left_out;
        let shown = grown
            .vms
            .iter()
            .filter(|(id, vm)| view.filter.has_vm(**id, vm));
        Self {
            elapsed,
            clock: grown.clock,
            counters: grown.counters.clone(),
            vms: shown
                .map(|(id, vm)| vm_summary(*id, vm, &grown.counters, names))
                .collect(),
            by: view.by,
            rows,
            groups,
            hidden: (
                pages_hidden.0 + groups_hidden.0,
                pages_hidden.1 + groups_hidden.1,
            ),
            accesses,
            names_unused: maps(grown, names, &view.filter).unused,
            unmatched: name
                .filter(|_| !pages(grown, view).is_empty())
                .map(|name| name.as_str().to_owned()),
            no_sites,
            advice,
        }
    }

    /// Whether groups are shown in place of pages.
    pub fn grouped(&self) -> bool {
        self.by != By::Page
    }

    /// Whether it is known how long accesses took.
    pub fn has_times(&self) -> bool {
        let of_groups = self.groups.iter().map(|group| group.times.quantiles());
        let of_rows = self.rows.iter().map(|row| row.times().quantiles());
        of_groups.chain(of_rows).any(|times| times.is_some())
    }

    pub fn dropped(&self) -> u64 {
        self.vms.iter().map(|vm| vm.heat_dropped).sum()
    }
}

/// How many there are, and their accesses.
fn counts_of<T>(list: Vec<T>, counts: impl Fn(&T) -> Counts) -> (usize, u64) {
    let accesses = list.iter().map(|item| counts(item).count).sum();
    (list.len(), accesses)
}

fn vm_summary(id: u64, vm: &Vm, counters: &[String], names: &Names) -> VmSummary {
    let pages = |vcpu: &Vcpu| {
        vcpu.pages
            .values()
            .map(|page| page.counts.count)
            .sum::<u64>()
    };
    let mut gpas: Vec<_> = vm
        .vcpus
        .values()
        .flat_map(|vcpu| vcpu.pages.keys())
        .collect();
    gpas.sort_unstable();
    gpas.dedup();
    VmSummary {
        vm: id,
        tgid: vm.tgid,
        process: names.process(vm.tgid).to_owned(),
        ended: vm.ended,
        vcpus: vm.vcpus.len(),
        pages: gpas.len(),
        accesses: vm.vcpus.values().map(pages).sum(),
        heat_dropped: vm.heat_dropped,
        counters: (0..)
            .zip(counters)
            .map(|(i, name)| (name.clone(), vm.counter(i)))
            .collect(),
    }
}

/// What a process is called where there are several: two may have the same name.
pub fn process_label(process: &str, tgid: u32) -> String {
    match process {
        "" => format!("PID {tgid}"),
        name => format!("{name} [{tgid}]"),
    }
}

/// Accesses by device, the most first: (name, counts). Devices of several processes are apart.
pub fn by_device<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Vec<(String, Counts)> {
    let mut devices: BTreeMap<(u32, &str, &str), Counts> = BTreeMap::new();
    for row in rows {
        let key = (row.tgid, row.process.as_str(), row.device.as_str());
        *devices.entry(key).or_default() += row.counts;
    }
    let processes: BTreeSet<u32> = devices.keys().map(|(tgid, ..)| *tgid).collect();
    let label = |tgid, process, name: &str| match processes.len() {
        1 => name.to_owned(),
        _ => format!("{}: {name}", process_label(process, tgid)),
    };
    let mut devices: Vec<_> = devices
        .into_iter()
        .map(|((tgid, process, name), sum)| (label(tgid, process, name), sum))
        .collect();
    devices.sort_by_key(|(_, counts)| Reverse(counts.count));
    devices
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::sample;

    fn table(view: &View) -> Vec<(u64, Option<u32>, String, u64)> {
        rows(&sample::two_vms(), &Names::default(), view)
            .into_iter()
            .map(|row| (row.key.vm, row.key.vcpu, row.name, row.counts.count))
            .collect()
    }

    fn row(vm: u64, vcpu: Option<u32>, name: &str, count: u64) -> (u64, Option<u32>, String, u64) {
        (vm, vcpu, name.to_owned(), count)
    }

    #[test]
    fn vcpus_are_summed() {
        assert_eq!(
            table(&View::default()),
            [
                row(1, None, "0xfe003000", 10000),
                row(1, None, "local APIC", 600),
                row(2, None, "HPET", 42),
                row(1, None, "0xfebd0000", 20),
            ]
        );
    }

    #[test]
    fn or_not() {
        let view = View {
            by: By::Page,
            per_vcpu: true,
            sort: Sort::Userspace,
            filter: Filter {
                name: Some(Regex::new("^PCI").unwrap()),
                ..Filter::default()
            },
        };
        assert_eq!(
            table(&view),
            [
                row(1, Some(0), "0xfebd0000", 20),
                row(1, Some(0), "0xfe003000", 9000),
                row(1, Some(1), "0xfe003000", 1000),
            ]
        );
    }

    #[test]
    fn filters() {
        let filter = |vms: &[u64], pids: &[u32], vcpus: &[u32]| {
            table(&View {
                filter: Filter {
                    vms: vms.to_vec(),
                    pids: pids.to_vec(),
                    vcpus: vcpus.to_vec(),
                    name: None,
                },
                ..View::default()
            })
        };
        assert_eq!(filter(&[2], &[], &[]), [row(2, None, "HPET", 42)]);
        assert_eq!(filter(&[], &[4712], &[]), [row(2, None, "HPET", 42)]);
        assert_eq!(filter(&[1], &[4712], &[]), []);
        assert_eq!(filter(&[], &[], &[1]), [row(1, None, "0xfe003000", 1000)]);
    }

    #[test]
    fn what_is_left_out_is_counted() {
        let reading = sample::two_vms();
        let summary = Summary::new(
            &reading,
            Duration::ZERO,
            &Names::default(),
            &View::default(),
            1,
        );
        assert_eq!(summary.hidden, (3, 662));
        assert_eq!(summary.accesses, 10662);
        assert_eq!(summary.dropped(), 3);
        assert_eq!(summary.vms[0].pages, 3);
        assert_eq!(summary.vms[0].counters["faults"], 10620);
    }

    #[test]
    fn devices() {
        let rows = rows(&sample::two_vms(), &Names::default(), &View::default());
        let devices: Vec<_> = by_device(&rows)
            .into_iter()
            .map(|(name, counts)| (name, counts.count))
            .collect();
        let expected = [
            ("PID 4711: PCI hole", 10020),
            ("PID 4711: local APIC", 600),
            ("PID 4712: HPET", 42),
        ];
        assert_eq!(
            devices,
            expected.map(|(name, count)| (name.to_owned(), count))
        );
    }
}
