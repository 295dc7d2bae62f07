// SPDX-License-Identifier: GPL-2.0
//! What is taken together: all that a VM has, one of its devices, vCPUs or instructions.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Serialize, Serializer};

use crate::counts::Counts;
use crate::region::PAGE;
use crate::row::Row;
use crate::site::{Site, Times};
use crate::view::{By, Sort};

/// What of a VM it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(untagged)]
pub enum Part {
    All {},
    Device {
        device: String,
    },
    Vcpu {
        vcpu: u32,
    },
    Site {
        #[serde(serialize_with = "hexadecimal")]
        gpa: u64,
        name: String,
        /// None: one of too many.
        #[serde(serialize_with = "hexadecimal_if_any")]
        rip: Option<u64>,
        symbol: Option<String>,
    },
}

fn hexadecimal<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{number:#x}"))
}

fn hexadecimal_if_any<S: Serializer>(
    number: &Option<u64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match number {
        Some(number) => hexadecimal(number, serializer),
        None => serializer.serialize_none(),
    }
}

impl Part {
    /// As the columns of a table; empty is what is not known.
    pub fn cells(&self) -> Vec<String> {
        match self {
            Self::All {} => Vec::new(),
            Self::Device { device } => vec![device.clone()],
            Self::Vcpu { vcpu } => vec![vcpu.to_string()],
            Self::Site {
                gpa,
                name,
                rip,
                symbol,
            } => vec![
                format!("{gpa:#x}"),
                name.clone(),
                rip.map_or_else(|| "others".to_owned(), |rip| format!("{rip:#x}")),
                symbol.clone().unwrap_or_default(),
            ],
        }
    }
}

/// Pages of a VM, or parts of their counts, that are taken together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Group {
    pub vm: u64,
    pub tgid: u32,
    pub process: String,
    pub ended: bool,
    #[serde(flatten)]
    pub part: Part,
    pub pages: usize,
    #[serde(skip)]
    pub counts: Counts,
    #[serde(skip)]
    pub times: Times,
    /// Of a whole VM, how many were answered before interrupts were on again, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub irqs_off: Option<u64>,
}

impl Group {
    fn new(row: &Row, part: Part) -> Self {
        Self {
            vm: row.key.vm,
            tgid: row.tgid,
            process: row.process.clone(),
            ended: row.ended,
            part,
            pages: 0,
            counts: Counts::default(),
            times: Times::default(),
            irqs_off: None,
        }
    }
}

/// The parts that a row has a share in, and these.
fn parts(row: &Row, by: By) -> Vec<(Part, Site)> {
    let all = |part| {
        let (counts, times) = (row.counts, row.times());
        vec![(part, Site { counts, times })]
    };
    let site = |(&rip, site): (&Option<u64>, &Site)| {
        let part = Part::Site {
            gpa: row.key.gpa,
            name: row.name.clone(),
            rip,
            symbol: rip.and_then(|rip| row.symbols.get(&rip).cloned()),
        };
        (part, site.clone())
    };
    let vcpu = row.key.vcpu.unwrap_or_default();
    let device = row.device.clone();
    match by {
        By::Page => Vec::new(),
        By::Device => all(Part::Device { device }),
        By::Vm => all(Part::All {}),
        By::Vcpu => all(Part::Vcpu { vcpu }),
        By::Rip => row.sites.iter().map(site).collect(),
    }
}

/// The groups that rows make, the most first; none if rows are pages.
pub fn groups(rows: &[Row], by: By, sort: Sort) -> Vec<Group> {
    let mut groups: BTreeMap<(u64, Part), (Group, BTreeSet<u64>)> = BTreeMap::new();
    for row in rows {
        for (part, share) in parts(row, by) {
            let (group, pages) = groups
                .entry((row.key.vm, part.clone()))
                .or_insert_with(|| (Group::new(row, part), BTreeSet::new()));
            group.counts += share.counts;
            group.times += &share.times;
            pages.insert(row.key.gpa & !(PAGE - 1));
            group.pages = pages.len();
        }
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
    use crate::row::rows;
    use crate::view::View;

    fn grouped(by: By, sort: Sort) -> Vec<(u64, Vec<String>, usize, u64)> {
        let view = View {
            per_vcpu: true,
            ..View::default()
        };
        let rows = rows(&sample::traced(), &Names::default(), &view);
        let groups = groups(&rows, by, sort).into_iter();
        let parts = |group: Group| {
            let cells = group.part.cells();
            (group.vm, cells, group.pages, group.counts.count)
        };
        groups.map(parts).collect()
    }

    fn row(vm: u64, cells: &[&str], pages: usize, count: u64) -> (u64, Vec<String>, usize, u64) {
        let cells = cells.iter().map(|&cell| cell.to_owned()).collect();
        (vm, cells, pages, count)
    }

    #[test]
    fn of_pages() {
        assert_eq!(grouped(By::Page, Sort::Accesses), []);
        assert_eq!(
            grouped(By::Vm, Sort::Accesses),
            [row(1, &[], 3, 10620), row(2, &[], 1, 42)]
        );
        assert_eq!(
            grouped(By::Device, Sort::Userspace),
            [
                row(2, &["HPET"], 1, 42),
                row(1, &["0xfebd0000"], 1, 20),
                row(1, &["0xfe003000"], 1, 10000),
                row(1, &["local APIC"], 1, 600),
            ]
        );
        assert_eq!(
            grouped(By::Vcpu, Sort::Accesses),
            [
                row(1, &["0"], 3, 9620),
                row(1, &["1"], 1, 1000),
                row(2, &["0"], 1, 42),
            ]
        );
    }

    #[test]
    fn of_instructions() {
        assert_eq!(
            grouped(By::Rip, Sort::Accesses),
            [
                row(
                    1,
                    &["0xfe003000", "0xfe003000", "0xffffffff81000010", ""],
                    1,
                    9990
                ),
                row(1, &["0xfe003000", "0xfe003000", "others", ""], 1, 10),
            ]
        );
    }
}
