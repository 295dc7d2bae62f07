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

#[cfg(test)]
mod tests {
    use ratatui::crossterm::event::KeyCode;

    use super::super::screen::tests::{app, app_of, screen_of, type_in};
    use crate::command::top::app::{Action, App};
    use crate::device::sample;
    use crate::region::Owner;
    use crate::symbols::Symbols;

    /// The words of each line of the table, and of the one that says where that is.
    fn told(app: &mut App) -> Vec<String> {
        let screen = screen_of(app, 160, 16);
        let words = |line: &String| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let table = screen[5..15].iter().filter(|line| !line.is_empty());
        [&screen[1]].into_iter().chain(table).map(words).collect()
    }

    #[test]
    fn from_vms_to_pages_to_vcpus_and_back() {
        let mut app = app();
        type_in(&mut app, "\t");
        let vms = told(&mut app);
        assert_eq!(
            vms[1..],
            [
                "VM PID process pages total acc/s % reads/s writes/s kernel/s user/s",
                "1 4711 - 3 10620 5310 99.6 60 5250 5300 10",
                "2 4712 - (ended) 1 42 21 0.4 20 1 0 21",
            ]
        );
        type_in(&mut app, "j\n");
        let pages = told(&mut app);
        // The accesses of no page are the other's.
        assert_eq!(pages[0], "VM 2");
        assert_eq!(pages.len(), 3, "{pages:?}");
        assert!(pages[2].starts_with("2 4712 - (ended) 0xfed00000 HPET 42 21 100.0"));
        type_in(&mut app, "\u{1b}k\n\n");
        let page = told(&mut app);
        assert!(
            page[0].starts_with("VM 1, page 0xfe003000; instructions are not known"),
            "{page:?}"
        );
        assert_eq!(
            page[1..],
            [
                "vCPU instruction symbol total acc/s % reads/s writes/s kernel/s user/s",
                "0 9000 4500 90.0 0 4500 4500 0",
                "1 1000 500 10.0 0 500 500 0",
            ]
        );
        // Nothing is below a vCPU.
        assert_eq!(type_in(&mut app, "\n"), Action::None);
        assert_eq!(told(&mut app), page);
        assert_eq!(type_in(&mut app, "\u{1b}\u{1b}"), Action::None);
        assert_eq!(told(&mut app), vms);
        assert_eq!(type_in(&mut app, "\u{1b}"), Action::Quit);
    }

    #[test]
    fn instructions_of_a_page() {
        let mut app = app_of(&sample::traced());
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "ffffffff81000000 T ring_bell\n").unwrap();
        app.names.symbols = vec![(Owner::All, Symbols::read(file.path()).unwrap())];
        type_in(&mut app, "\n");
        let page = told(&mut app);
        assert_eq!(
            page[2..],
            [
                "0 9000 4500 90.0 0 4500 4500 0",
                "1 1000 500 10.0 0 500 500 0",
                "0xffffffff81000010 ring_bell+0x10 9990 4995 99.9 0 0 4995 0",
                "others 10 5 0.1 0 0 5 0",
            ]
        );
        assert!(!page[0].contains("instructions are not known"), "{page:?}");
    }

    #[test]
    fn a_hundred_vms() {
        let mut app = app_of(&sample::many_vms(100));
        type_in(&mut app, "\t");
        let screen = screen_of(&mut app, 120, 30);
        assert!(screen[0].contains("90 VMs, 200 pages, 27775 accesses/s"));
        // A cell for each.
        assert_eq!(screen[2].chars().count(), 100);
        let rows = &screen[6..29];
        assert!(
            rows[0].starts_with(" 100     5100 - (ended) "),
            "{screen:?}"
        );
        assert!(rows[22].starts_with("  78     5078 - "), "{screen:?}");
        app.key(KeyCode::End.into());
        let screen = screen_of(&mut app, 120, 30);
        assert!(screen[28].starts_with("   1     5001 - "), "{screen:?}");
        type_in(&mut app, "kkkkkkkkk\n");
        assert_eq!(told(&mut app)[0], "VM 10");
        // What was chosen is in sight again.
        type_in(&mut app, "\u{1b}");
        let screen = screen_of(&mut app, 120, 30);
        assert!(
            screen[6..29]
                .iter()
                .any(|row| row.starts_with("  10     5010 - (ended)"))
        );
    }

    #[test]
    fn a_page_of_one_vcpu() {
        let mut app = app();
        type_in(&mut app, "xj\n");
        let page = told(&mut app);
        assert!(
            page[0].starts_with("VM 1, page 0xfe003000 of vCPU 1"),
            "{page:?}"
        );
        assert_eq!(page.len(), 3, "{page:?}");
    }

    #[test]
    fn what_was_chosen_stays_so_when_the_order_changes() {
        let mut app = app();
        // By accesses the APIC's page is second; by reads it is first.
        type_in(&mut app, "jo\n");
        assert!(told(&mut app)[0].starts_with("VM 1, page 0xfee00000 local APIC"));
        // Until another is chosen it is the first, whichever that is.
        type_in(&mut app, "\u{1b}");
        app.key(KeyCode::Home.into());
        type_in(&mut app, "o\n");
        assert!(told(&mut app)[0].starts_with("VM 1, page 0xfe003000"));
    }
}
