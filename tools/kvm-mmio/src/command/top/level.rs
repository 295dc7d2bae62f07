// SPDX-License-Identifier: GPL-2.0
//! How deep `top` has gone: from all VMs to the pages of one, to who accesses one of these.

use std::collections::HashMap;

use crate::counts::Counts;
use crate::group::{Group, Part, groups};
use crate::reading::{Last, Reading};
use crate::region::Names;
use crate::row::{Key, Row, rows};
use crate::view::{By, Sort, View};

/// What the lines are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Vms,
    /// Pages of one VM, or of all.
    Pages(Option<u64>),
    /// The vCPUs and the instructions that access one page.
    Page(Key),
}

/// What a line is of, by which it is known again after the next interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Id {
    Vm(u64),
    Page(Key),
    Vcpu(u32),
    /// None: those beyond the number that is counted apart.
    Instruction(Option<u64>),
}

/// What is in a line, since the start and in the last interval.
#[derive(Clone, Debug)]
pub struct Line {
    pub id: Id,
    pub vm: u64,
    pub tgid: u32,
    pub process: String,
    pub ended: bool,
    pub pages: usize,
    /// Of the page, or of the instruction.
    pub name: String,
    pub last: Last,
    pub total: Counts,
    pub now: Counts,
}

impl Line {
    fn of_page(row: Row) -> Self {
        Self {
            id: Id::Page(row.key),
            vm: row.key.vm,
            tgid: row.tgid,
            process: row.process,
            ended: row.ended,
            pages: 1,
            name: row.name,
            last: row.last,
            total: row.counts,
            now: Counts::default(),
        }
    }

    /// None: nothing has such a line.
    fn of_group(group: Group) -> Option<Self> {
        let (id, name) = match group.part {
            Part::All {} => (Id::Vm(group.vm), String::new()),
            Part::Vcpu { vcpu } => (Id::Vcpu(vcpu), String::new()),
            Part::Site { rip, symbol, .. } => (Id::Instruction(rip), symbol.unwrap_or_default()),
            Part::Device { .. } => return None,
        };
        Some(Self {
            id,
            vm: group.vm,
            tgid: group.tgid,
            process: group.process,
            ended: group.ended,
            pages: group.pages,
            name,
            last: Last::UNKNOWN,
            total: group.counts,
            now: Counts::default(),
        })
    }

    /// Instructions have what vCPUs have, once more.
    pub fn is_once_more(&self) -> bool {
        matches!(self.id, Id::Instruction(_))
    }
}

/// Accesses in the last interval, each counted once.
pub fn accesses(lines: &[Line]) -> u64 {
    let counted = lines.iter().filter(|line| !line.is_once_more());
    counted.map(|line| line.now.count).sum()
}

impl Level {
    /// That of which all lines are, if they are of one.
    pub fn vm(self) -> Option<u64> {
        match self {
            Self::Vms => None,
            Self::Pages(vm) => vm,
            Self::Page(page) => Some(page.vm),
        }
    }

    /// What one sees of a line.
    pub fn below(line: &Line) -> Option<Self> {
        match line.id {
            Id::Vm(vm) => Some(Self::Pages(Some(vm))),
            Id::Page(key) => Some(Self::Page(key)),
            Id::Vcpu(_) | Id::Instruction(_) => None,
        }
    }

    /// All that was accessed since the start, the busiest now first.
    pub fn lines(self, [total, now]: [&Reading; 2], names: &Names, view: &View) -> Vec<Line> {
        let now = self.parts(now, names, view).into_iter().enumerate();
        let busy: HashMap<Id, (usize, Counts)> = now
            .map(|(place, line)| (line.id, (place, line.total)))
            .collect();
        let idle = (usize::MAX, Counts::default());
        let mut lines = self.parts(total, names, view);
        for line in &mut lines {
            line.now = busy.get(&line.id).unwrap_or(&idle).1;
        }
        if view.sort != Sort::Page {
            let place = |line: &Line| busy.get(&line.id).unwrap_or(&idle).0;
            lines.sort_by_key(|line| (line.is_once_more(), place(line)));
        }
        lines
    }

    /// What a reading has of it, the most first.
    fn parts(self, reading: &Reading, names: &Names, view: &View) -> Vec<Line> {
        let grouped = |rows: &[Row], by| {
            let groups = groups(rows, by, view.sort).into_iter();
            groups.filter_map(Line::of_group).collect()
        };
        let rows_by = |by| {
            let view = View { by, ..view.clone() };
            rows(reading, names, &view)
        };
        match self {
            Self::Vms => grouped(&rows_by(By::Vm), By::Vm),
            Self::Pages(vm) => {
                let is_here = |row: &Row| vm.is_none_or(|vm| vm == row.key.vm);
                let rows = rows_by(By::Page).into_iter().filter(is_here);
                rows.map(Line::of_page).collect()
            }
            Self::Page(page) => {
                let mut rows = rows_by(By::Vcpu);
                rows.retain(|row| is_of(row.key, page));
                let vcpus: Vec<Line> = grouped(&rows, By::Vcpu);
                [vcpus, grouped(&rows, By::Rip)].concat()
            }
        }
    }
}

/// Whether a vCPU's share is of this page.
fn is_of(share: Key, page: Key) -> bool {
    let vcpu = page.vcpu.or(share.vcpu);
    Key { vcpu, ..page } == share
}
