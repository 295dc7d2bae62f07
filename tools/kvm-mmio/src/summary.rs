// SPDX-License-Identifier: GPL-2.0
//! What is shown of some time: rows or groups of them, and what is to be said of all.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;

use crate::advice::{Advice, advice};
use crate::counts::Counts;
use crate::group::{Group, groups};
use crate::missing::Missing;
use crate::reading::{Clock, Reading, Vcpu, Vm};
use crate::region::Names;
use crate::row::{Row, maps, rows, unmatched};
use crate::site::Times;
use crate::view::{By, Sort, View};

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
    /// The sums of VMs, the busiest, if pages of several are left out.
    pub vm_sums: Vec<Group>,
    /// VMs that are not among these, and their accesses.
    pub vms_hidden: (usize, u64),
    /// Accesses of all, shown or not.
    pub accesses: u64,
    /// How long they took, if that is known.
    pub times: Times,
    /// The options with names of which it is not known whose they are.
    pub names_unused: BTreeSet<&'static str>,
    /// Pages of several devices that have one count.
    pub shared: u64,
    /// What names had to match, if none did.
    pub unmatched: Option<String>,
    /// Instructions are wanted, and there are accesses of which they are not known.
    pub no_sites: bool,
    pub missing: Missing,
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

/// Most VMs whose sums precede pages, so that some of these are on the first screen, too.
const VM_SUMS: usize = 10;

impl Summary {
    /// Of what has grown in some time, with at most `top` rows.
    pub fn new(grown: &Reading, elapsed: Duration, names: &Names, view: &View, top: usize) -> Self {
        let mut rows = rows(grown, names, view);
        let unmatched = unmatched(&rows, grown, view);
        let accesses = rows.iter().map(|row| row.counts.count).sum();
        let mut times = Times::default();
        rows.iter().for_each(|row| times += &row.times());
        let advice = advice(&rows, grown.clock.is_traced());
        let no_sites = view.by == By::Rip && rows.iter().any(|row| row.sites.is_empty());
        let shared = match grown.clock.is_exact() {
            true => 0,
            false => rows.iter().filter(|row| !row.shared.is_empty()).count() as u64,
        };
        let mut vm_sums = match view.by {
            By::Page if rows.len() > top => sums_of_vms(&rows, view.sort),
            _ => Vec::new(),
        };
        let vms_left = vm_sums.split_off(VM_SUMS.min(vm_sums.len()));
        let mut groups = groups(&rows, view.by, view.sort);
        // Counters are of vCPUs, not of pages.
        if view.filter.has_whole_vms() {
            let of_vms = groups.iter_mut().filter(|_| view.by == By::Vm);
            for group in vm_sums.iter_mut().chain(of_vms) {
                let vm = grown.vms.get(&group.vm);
                group.irqs_off = vm.and_then(|vm| grown.counter(vm, "fast_irqsoff"));
            }
        }
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
            vm_sums,
            vms_hidden: counts_of(vms_left, |vm| vm.counts),
            accesses,
            times,
            names_unused: maps(grown, names, &view.filter).unused,
            unmatched,
            shared,
            no_sites,
            missing: Missing::of(grown, &view.filter),
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
}

/// If there are several.
fn sums_of_vms(rows: &[Row], sort: Sort) -> Vec<Group> {
    let sort = match sort {
        Sort::Page => Sort::Accesses,
        sort => sort,
    };
    let mut sums = groups(rows, By::Vm, sort);
    if sums.len() == 1 {
        sums.clear();
    }
    sums
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::sample;

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
        assert_eq!(summary.missing.heat_dropped, 3);
        assert_eq!(summary.vms[0].pages, 3);
        assert_eq!(summary.vms[0].counters["faults"], 10620);
    }
}
