// SPDX-License-Identifier: GPL-2.0
//! Which VM of one recording is which of another.
//!
//! VMs have other numbers and processes after they were started again. So they are the same, in
//! this order, if there is one in either recording; if number, process and its name are; or if
//! their processes are called the same, where several are so in the order of their numbers.

use std::collections::{BTreeMap, BTreeSet};

use crate::row::Row;

/// A VM as a recording has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Vm {
    pub number: u64,
    pub pid: u32,
    /// Empty if nobody knows.
    pub process: String,
}

impl Vm {
    pub fn of(row: &Row) -> Self {
        Self {
            number: row.key.vm,
            pid: row.tgid,
            process: row.process.clone(),
        }
    }
}

/// A VM before and after; one of them is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pair {
    pub before: Option<Vm>,
    pub after: Option<Vm>,
}

impl Pair {
    /// The one that was first.
    fn first(&self) -> Option<&Vm> {
        self.before.as_ref().or(self.after.as_ref())
    }

    /// What its process is called; empty if nobody knows.
    pub fn process(&self) -> &str {
        self.first().map_or("", |vm| &vm.process)
    }

    /// The same, or its number.
    pub fn name(&self) -> String {
        match (self.process(), self.first()) {
            ("", Some(vm)) => format!("VM {}", vm.number),
            (process, _) => process.to_owned(),
        }
    }
}

/// All VMs of two recordings.
pub fn pairs(before: &[Row], after: &[Row]) -> Vec<Pair> {
    let vms = |rows: &[Row]| rows.iter().map(Vm::of).collect::<BTreeSet<_>>();
    let (before, after) = (vms(before), vms(after));
    if let (1, 1) = (before.len(), after.len()) {
        return vec![Pair {
            before: before.first().cloned(),
            after: after.first().cloned(),
        }];
    }
    let mut pairs: Vec<Pair> = before.intersection(&after).map(unchanged).collect();
    let restarted = by_name(before.difference(&after));
    let mut started = by_name(after.difference(&before));
    for (name, vms) in restarted {
        let mut later = match name {
            "" => Vec::new(),
            name => started.remove(name).unwrap_or_default(),
        };
        let rest = later.split_off(vms.len().min(later.len()));
        started.entry(name).or_default().extend(rest);
        let mut later = later.into_iter();
        pairs.extend(vms.into_iter().map(|vm| Pair {
            before: Some(vm.clone()),
            after: later.next().cloned(),
        }));
    }
    pairs.extend(started.into_values().flatten().map(|vm| Pair {
        before: None,
        after: Some(vm.clone()),
    }));
    pairs
}

fn unchanged(vm: &Vm) -> Pair {
    Pair {
        before: Some(vm.clone()),
        after: Some(vm.clone()),
    }
}

/// Those that are called the same, in the order of their numbers.
fn by_name<'a>(vms: impl Iterator<Item = &'a Vm>) -> BTreeMap<&'a str, Vec<&'a Vm>> {
    let mut names: BTreeMap<&str, Vec<&Vm>> = BTreeMap::new();
    for vm in vms {
        names.entry(&vm.process).or_default().push(vm);
    }
    names
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::device::sample;
    use crate::region::Names;
    use crate::summary::Summary;
    use crate::view::View;

    /// A page of each of these VMs.
    fn rows(vms: &[(u64, u32, &str)]) -> Vec<Row> {
        let (reading, names, view) = (sample::two_vms(), Names::default(), View::default());
        let row = Summary::new(&reading, Duration::ZERO, &names, &view, 1)
            .rows
            .remove(0);
        let named = |&(vm, tgid, process): &(u64, u32, &str)| {
            let mut row = row.clone();
            (row.key.vm, row.tgid, row.process) = (vm, tgid, process.to_owned());
            row
        };
        vms.iter().map(named).collect()
    }

    fn told(before: &[(u64, u32, &str)], after: &[(u64, u32, &str)]) -> Vec<(u64, u64)> {
        let number = |vm: Option<Vm>| vm.map_or(0, |vm| vm.number);
        let pairs = pairs(&rows(before), &rows(after)).into_iter();
        pairs
            .map(|pair| (number(pair.before), number(pair.after)))
            .collect()
    }

    #[test]
    fn one_is_the_other() {
        assert_eq!(told(&[(1, 10, "a")], &[(7, 70, "b")]), [(1, 7)]);
        assert_eq!(told(&[(1, 10, "a")], &[]), [(1, 0)]);
    }

    #[test]
    fn names_tell_who_was_started_again() {
        let before = [(1, 10, "web"), (2, 11, "db")];
        assert_eq!(
            told(&before, &[(8, 18, "db"), (9, 19, "web")]),
            [(2, 8), (1, 9)]
        );
        // A number or a PID alone says nothing.
        let others = [(1, 10, "x"), (2, 9, "y")];
        assert_eq!(told(&before, &others), [(2, 0), (1, 0), (0, 1), (0, 2)]);
    }

    #[test]
    fn of_several_with_one_name_those_that_stayed_come_first() {
        let before = [(1, 10, "vm"), (2, 11, "vm"), (3, 12, "vm")];
        let after = [(2, 11, "vm"), (4, 13, "vm"), (5, 14, "vm"), (6, 15, "vm")];
        assert_eq!(told(&before, &after), [(2, 2), (1, 4), (3, 5), (0, 6)]);
    }

    #[test]
    fn without_a_name_only_what_has_stayed_is_known() {
        let before = [(1, 10, ""), (2, 11, "")];
        assert_eq!(
            told(&before, &[(1, 10, ""), (3, 12, "")]),
            [(1, 1), (2, 0), (0, 3)]
        );
    }
}
