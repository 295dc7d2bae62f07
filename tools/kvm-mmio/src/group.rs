// SPDX-License-Identifier: GPL-2.0
//! Pages taken together: what a VM, or one of its devices, has in sum.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use clap::ValueEnum;
use serde::Serialize;

use crate::reading::Counts;
use crate::summary::{Row, Sort};

/// What has a row of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum By {
    #[default]
    Page,
    /// Each device of each VM
    Device,
    Vm,
}

/// Pages of a VM that are taken together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Group {
    pub vm: u64,
    pub tgid: u32,
    pub process: String,
    pub ended: bool,
    /// None: all of the VM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    pub pages: usize,
    #[serde(flatten)]
    pub counts: Counts,
}

impl Group {
    fn new(row: &Row, device: Option<String>) -> Self {
        Self {
            vm: row.key.vm,
            tgid: row.tgid,
            process: row.process.clone(),
            ended: row.ended,
            device,
            pages: 0,
            counts: Counts::default(),
        }
    }
}

/// The groups that rows make, the most first; none if rows are pages.
pub fn groups(rows: &[Row], by: By, sort: Sort) -> Vec<Group> {
    if by == By::Page {
        return Vec::new();
    }
    let mut groups: BTreeMap<(u64, Option<String>), (Group, BTreeSet<u64>)> = BTreeMap::new();
    for row in rows {
        let device = (by == By::Device).then(|| row.device.clone());
        let (group, pages) = groups
            .entry((row.key.vm, device.clone()))
            .or_insert_with(|| (Group::new(row, device), BTreeSet::new()));
        group.counts += row.counts;
        pages.insert(row.key.gpa);
        group.pages = pages.len();
    }
    let mut groups: Vec<Group> = groups.into_values().map(|(group, _)| group).collect();
    groups.sort_by_key(|group| Reverse(sort.key(&group.counts)));
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::sample;
    use crate::region::Names;
    use crate::summary::{View, rows};

    fn grouped(by: By, sort: Sort) -> Vec<(u64, Option<String>, usize, u64)> {
        let view = View {
            per_vcpu: true,
            ..View::default()
        };
        let rows = rows(&sample::two_vms(), &Names::default(), &view);
        let groups = groups(&rows, by, sort).into_iter();
        let parts = |group: Group| (group.vm, group.device, group.pages, group.counts.count);
        groups.map(parts).collect()
    }

    #[test]
    fn vms_and_devices() {
        let device = |name: &str| Some(name.to_owned());
        assert_eq!(grouped(By::Page, Sort::Accesses), []);
        assert_eq!(
            grouped(By::Vm, Sort::Accesses),
            [(1, None, 3, 10620), (2, None, 1, 42)]
        );
        assert_eq!(
            grouped(By::Device, Sort::Userspace),
            [
                (2, device("HPET"), 1, 42),
                (1, device("PCI hole"), 2, 10020),
                (1, device("local APIC"), 1, 600),
            ]
        );
    }
}
