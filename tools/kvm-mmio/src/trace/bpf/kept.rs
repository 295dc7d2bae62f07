// SPDX-License-Identifier: GPL-2.0
//! What VMs did that have ended, once the kernel has it no more.

use std::collections::{BTreeMap, VecDeque};

use crate::reading::{Reading, Vm};

/// Most pairs of an address and an instruction that are kept: as many as the kernel has room for.
/// Of all that are read at once, nothing is left out.
const SITES: usize = 65536;

/// By process, those that have ended last.
#[derive(Default)]
pub struct Kept {
    vms: Reading,
    /// In the order in which they have ended.
    order: VecDeque<u64>,
}

impl Kept {
    /// Adds VMs that have ended, and leaves out the first ones if there are too many.
    pub fn add(&mut self, vms: BTreeMap<u64, Vm>) {
        // A number of a process that was used again is that of the last one.
        self.order.retain(|process| !vms.contains_key(process));
        let older = self.order.len();
        self.order.extend(vms.keys());
        self.vms.add(&of(vms));
        let mut sites: usize = self.vms.vms.values().map(sites_of).sum();
        for _ in 0..older {
            if sites <= SITES {
                return;
            }
            let first = self.order.pop_front();
            let gone = first.and_then(|process| self.vms.vms.remove(&process));
            sites -= gone.as_ref().map_or(0, sites_of);
        }
    }

    /// These, and those that are kept.
    pub fn with(&self, vms: BTreeMap<u64, Vm>) -> BTreeMap<u64, Vm> {
        let mut all = self.vms.clone();
        all.add(&of(vms));
        all.vms
    }
}

fn of(vms: BTreeMap<u64, Vm>) -> Reading {
    Reading {
        vms,
        ..Reading::default()
    }
}

/// One that has none takes room all the same.
fn sites_of(vm: &Vm) -> usize {
    1 + vm
        .vcpus
        .values()
        .map(|vcpu| vcpu.sites.len())
        .sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counts::Counts;
    use crate::reading::{Page, Vcpu};
    use crate::site::Site;

    /// A VM that has accessed so many addresses of a page, each so often.
    fn vm(sites: u64, count: u64) -> Vm {
        let counts = |count| Counts {
            count,
            ..Counts::default()
        };
        let page = Page {
            counts: counts(sites * count),
            ..Page::default()
        };
        let site = |address| ((address, None), Site::from(counts(count)));
        let vcpu = Vcpu {
            pages: [(0, page)].into(),
            sites: (0..sites).map(site).collect(),
            ..Vcpu::default()
        };
        Vm {
            vcpus: [(0, vcpu)].into(),
            ..Vm::default()
        }
    }

    fn counts(vms: &BTreeMap<u64, Vm>) -> Vec<(u64, u64)> {
        let count = |vm: &Vm| vm.vcpus[&0].pages[&0].counts.count;
        vms.iter().map(|(id, vm)| (*id, count(vm))).collect()
    }

    #[test]
    fn what_was_counted_stays() {
        let mut kept = Kept::default();
        kept.add([(7, vm(2, 3)), (8, vm(1, 1))].into());
        assert_eq!(counts(&kept.with([].into())), [(7, 6), (8, 1)]);
        // Another one of the same number.
        let all = kept.with([(7, vm(2, 1)), (9, vm(1, 5))].into());
        assert_eq!(counts(&all), [(7, 8), (8, 1), (9, 5)]);
        kept.add([(7, vm(2, 1))].into());
        assert_eq!(counts(&kept.with([].into())), [(7, 8), (8, 1)]);
    }

    #[test]
    fn the_first_make_room() {
        let many = SITES as u64 / 2 - 1;
        let mut kept = Kept::default();
        let processes = |kept: &Kept| kept.with([].into()).into_keys().collect::<Vec<_>>();
        kept.add([(7, vm(many, 1))].into());
        kept.add([(8, vm(many, 1))].into());
        assert_eq!(processes(&kept), [7, 8]);
        // It has ended again, and last.
        kept.add([(7, vm(1, 1))].into());
        kept.add([(9, vm(1, 1))].into());
        assert_eq!(processes(&kept), [7, 9]);
        // All of one reading are shown once.
        kept.add([(1, vm(many, 1)), (2, vm(many, 1)), (3, vm(many, 1))].into());
        assert_eq!(processes(&kept), [1, 2, 3]);
        kept.add([(4, vm(1, 1))].into());
        assert_eq!(processes(&kept), [3, 4]);
    }
}
