// SPDX-License-Identifier: GPL-2.0
//! The address space of a VM as its QEMU has it now.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::mtree;
use super::range::{Given, Owner, Region};
use crate::qmp;
use crate::reading::{Reading, Vm};

/// How old a map gets: two devices may have changed places without an access to any other page.
/// One costs QEMU some milliseconds.
const LIFE: Duration = Duration::from_secs(10);

/// The same for a monitor that did not answer, as each question to it may take its whole patience.
const LIFE_IF_MUTE: Duration = Duration::from_secs(60);

/// The monitor of a process, and what it has said.
#[derive(Clone, Debug)]
pub struct Monitor {
    process: u32,
    socket: PathBuf,
    regions: Vec<Region>,
    /// The pages that the VMs of the process had accessed by then.
    pages: BTreeSet<u64>,
    asked: Instant,
    /// Why it did not answer the last time.
    mute: Option<String>,
}

impl Monitor {
    pub fn open(process: u32, socket: PathBuf) -> Result<Self> {
        let mut monitor = Self {
            process,
            socket,
            regions: Vec::new(),
            pages: BTreeSet::new(),
            asked: Instant::now(),
            mute: None,
        };
        monitor.regions = monitor.read()?;
        Ok(monitor)
    }

    fn read(&self) -> Result<Vec<Region>> {
        mtree::parse(&qmp::mtree(&self.socket)?)
    }

    /// Asks once more if there is a page that was not accessed before, or if the map is old: the
    /// guest may have moved its devices. Of a VM that has ended, the last map is the best there is.
    pub fn follow(&mut self, reading: &Reading) {
        let vms = reading.vms.values();
        let own: Vec<&Vm> = vms.filter(|vm| vm.tgid == self.process).collect();
        let vcpus = own.iter().flat_map(|vm| vm.vcpus.values());
        let pages: BTreeSet<u64> = vcpus.flat_map(|vcpu| vcpu.pages.keys().copied()).collect();
        if own.iter().all(|vm| vm.ended) || !self.is_due(&pages, self.asked.elapsed()) {
            return;
        }
        self.pages.extend(pages);
        match self.read() {
            Ok(regions) => {
                self.take(regions);
                self.mute = None;
            }
            Err(error) => self.mute = Some(format!("{error:#}")),
        }
        self.asked = Instant::now();
    }

    fn is_due(&self, pages: &BTreeSet<u64>, age: Duration) -> bool {
        match self.mute {
            Some(_) => age >= LIFE_IF_MUTE,
            None => age >= LIFE || !pages.is_subset(&self.pages),
        }
    }

    /// Believes a new map. What was accessed and is gone stays known as long as nothing else is at
    /// its address.
    fn take(&mut self, mut regions: Vec<Region>) {
        let was_accessed = |region: &Region| {
            let pages = region.first_page()..=region.last;
            self.pages.range(pages).next().is_some()
        };
        let is_free = |old: &Region| !regions.iter().any(|new| old.shares_page(new));
        let gone = self
            .regions
            .iter()
            .filter(|old| was_accessed(old) && is_free(old));
        let gone: Vec<_> = gone.cloned().collect();
        regions.extend(gone);
        self.regions = regions;
    }

    /// What there is to be said of a monitor that does not answer.
    pub fn complaint(&self) -> Option<String> {
        let why = self.mute.as_ref()?;
        Some(format!("names may be out of date: {why}"))
    }

    pub fn given(&self) -> impl Iterator<Item = Given> {
        let owner = Owner::Process(self.process);
        let regions = self.regions.iter().cloned();
        regions.map(move |region| Given { owner, region })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::map::Map;
    use crate::region::range::Source;

    fn monitor(regions: Vec<Region>, pages: &[u64]) -> Monitor {
        Monitor {
            process: 7,
            socket: "none".into(),
            regions,
            pages: pages.iter().copied().collect(),
            asked: Instant::now(),
            mute: None,
        }
    }

    fn region(name: &str, start: u64) -> Region {
        Region {
            name: name.to_owned(),
            start,
            last: start + 0xfff,
            source: Source::Qemu,
        }
    }

    #[test]
    fn a_map_gets_old() {
        let mut monitor = monitor(Vec::new(), &[0x1000]);
        let second = Duration::from_secs(1);
        assert!(!monitor.is_due(&[0x1000].into(), second));
        assert!(monitor.is_due(&[0x1000, 0x2000].into(), second));
        assert!(monitor.is_due(&[0x1000].into(), LIFE));
        monitor.mute = Some("gone".to_owned());
        assert!(!monitor.is_due(&[0x2000].into(), LIFE));
        assert!(monitor.is_due(&[].into(), LIFE_IF_MUTE));
    }

    #[test]
    fn the_last_map_is_believed() {
        let old = vec![
            region("a", 0x1000),
            region("b", 0x2000),
            region("c", 0x3000),
        ];
        let mut monitor = monitor(old, &[0x1000, 0x2000]);
        let names = |monitor: &Monitor| {
            let map = Map::from(monitor.regions.clone());
            [0x1000, 0x2000, 0x3000].map(|gpa| map.page(gpa))
        };
        monitor.take(vec![region("b", 0x1000), region("a", 0x2000)]);
        assert_eq!(names(&monitor), ["b", "a", "0x3000"]);
        monitor.take(vec![region("d", 0x2000)]);
        assert_eq!(names(&monitor), ["b", "d", "0x3000"]);
    }
}
