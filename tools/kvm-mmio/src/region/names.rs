// SPDX-License-Identifier: GPL-2.0
//! What VMs are called, and whose ranges are whose: the addresses of one VM say nothing of another.

use std::collections::{BTreeMap, BTreeSet};

use super::map::Map;
use super::monitor::Monitor;
use super::range::{Given, Owner, Source};
use crate::device::System;
use crate::failure::warn;
use crate::reading::Reading;
use crate::symbols::Symbols;

/// What processes are called, and their pages.
#[derive(Clone, Debug, Default)]
pub struct Names {
    given: Vec<Given>,
    /// By PID.
    pub processes: BTreeMap<u32, String>,
    /// Of guests, and whose they are.
    pub symbols: Vec<(Owner, Symbols)>,
    pub monitors: Vec<Monitor>,
}

impl Names {
    pub fn new(given: Vec<Given>, processes: BTreeMap<u32, String>) -> Self {
        Self {
            given,
            processes,
            ..Self::default()
        }
    }

    /// Asks the running kernel for the names of processes that are not known yet, and monitors for
    /// what has changed. Of those that have ended, somebody else may have the number.
    pub fn learn(&mut self, system: &System, reading: &Reading) {
        for vm in reading.vms.values().filter(|vm| !vm.ended) {
            if !self.processes.contains_key(&vm.tgid) {
                let name = system.process_name(vm.tgid);
                self.processes.extend(name.map(|name| (vm.tgid, name)));
            }
        }
        let monitors = self.monitors.iter_mut();
        monitors.for_each(|monitor| monitor.follow(reading));
    }

    /// The same; what was not to be complained of before is said on standard error.
    pub fn learn_aloud(&mut self, system: &System, reading: &Reading) {
        let before = self.complaints();
        self.learn(system, reading);
        let new = self.complaints().into_iter();
        new.filter(|complaint| !before.contains(complaint))
            .for_each(warn);
    }

    /// Of monitors that do not answer now.
    pub fn complaints(&self) -> Vec<String> {
        let complaints = self.monitors.iter().filter_map(Monitor::complaint);
        complaints.collect()
    }

    /// All ranges that are known now.
    pub fn given(&self) -> Vec<Given> {
        let asked = self.monitors.iter().flat_map(Monitor::given);
        self.given.iter().cloned().chain(asked).collect()
    }

    /// What a process is called; empty if nobody knows.
    pub fn process(&self, process: u32) -> &str {
        self.processes.get(&process).map_or("", String::as_str)
    }

    /// The names of pages for VMs of these processes.
    pub fn maps(&self, processes: &BTreeSet<u32>) -> Maps<'_> {
        let alone = processes.len() == 1;
        let given = self.given();
        let map = |process| {
            let own = given.iter().filter(|given| given.owner.has(process, alone));
            Map::from(own.map(|given| given.region.clone()).collect::<Vec<_>>())
        };
        Maps {
            maps: processes
                .iter()
                .map(|&process| (process, map(process)))
                .collect(),
            unused: if alone {
                BTreeSet::new()
            } else {
                self.of_nobody()
            },
            symbols: &self.symbols,
            alone,
        }
    }

    /// The options that files without an owner were given to.
    fn of_nobody(&self) -> BTreeSet<&'static str> {
        let symbols = self.symbols.iter().map(|(owner, _)| (*owner, "--symbols"));
        let given = self.given.iter().map(|given| {
            let option = match given.region.source {
                Source::User => "--regions",
                Source::Qemu | Source::Builtin => "--mtree",
            };
            (given.owner, option)
        });
        let all = given.chain(symbols);
        all.filter(|(owner, _)| *owner == Owner::Only)
            .map(|(_, option)| option)
            .collect()
    }
}

/// The names of pages, by process.
pub struct Maps<'a> {
    maps: BTreeMap<u32, Map>,
    /// The options with names that nobody has, as it is not known whose they are.
    pub unused: BTreeSet<&'static str>,
    symbols: &'a [(Owner, Symbols)],
    /// There is one process.
    alone: bool,
}

impl Maps<'_> {
    /// What an instruction of a process' guest is called.
    pub fn symbol(&self, process: u32, rip: u64) -> Option<String> {
        let mut own = self
            .symbols
            .iter()
            .filter(|(owner, _)| owner.has(process, self.alone));
        own.find_map(|(_, symbols)| symbols.name(rip))
    }

    pub fn of(&self, process: u32) -> &Map {
        &self.maps[&process]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::range::Region;

    fn given(owner: Owner, name: &str) -> Given {
        let region = Region {
            name: name.to_owned(),
            start: 0xd000_0000,
            last: 0xd000_0fff,
            source: Source::User,
        };
        Given { owner, region }
    }

    fn device(given: &[Given], processes: &[u32], of: u32) -> (String, usize) {
        let names = Names::new(given.to_vec(), BTreeMap::new());
        let maps = names.maps(&processes.iter().copied().collect());
        (maps.of(of).device(0xd000_0000), maps.unused.len())
    }

    #[test]
    fn a_range_is_of_its_owner() {
        let only = [given(Owner::Only, "a")];
        assert_eq!(device(&only, &[7], 7), ("a".to_owned(), 0));
        assert_eq!(device(&only, &[7, 8], 7), ("0xd0000000".to_owned(), 1));
        let all = [given(Owner::All, "a")];
        assert_eq!(device(&all, &[7, 8], 8), ("a".to_owned(), 0));
        let own = [given(Owner::Process(7), "a"), given(Owner::Process(8), "b")];
        assert_eq!(device(&own, &[7, 8], 7), ("a".to_owned(), 0));
        assert_eq!(device(&own, &[7, 8], 8), ("b".to_owned(), 0));
        assert_eq!(device(&own, &[9], 9), ("0xd0000000".to_owned(), 0));
    }
}
