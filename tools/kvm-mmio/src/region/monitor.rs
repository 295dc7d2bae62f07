// SPDX-License-Identifier: GPL-2.0
//! The address space of a VM as its QEMU has it now.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Result;

use super::mtree;
use super::range::{Given, Owner, Region};
use crate::qmp;
use crate::reading::Reading;

/// The monitor of a process, and what it has said.
#[derive(Clone, Debug)]
pub struct Monitor {
    process: u32,
    socket: PathBuf,
    regions: Vec<Region>,
    /// The pages that the VMs of the process had accessed by then.
    pages: BTreeSet<u64>,
}

impl Monitor {
    pub fn open(process: u32, socket: PathBuf) -> Result<Self> {
        let mut monitor = Self {
            process,
            socket,
            regions: Vec::new(),
            pages: BTreeSet::new(),
        };
        monitor.read()?;
        Ok(monitor)
    }

    fn read(&mut self) -> Result<()> {
        self.regions = mtree::parse(&qmp::mtree(&self.socket)?)?;
        Ok(())
    }

    /// Asks once more if there is a page that was not accessed before: the guest may have moved
    /// its devices.
    pub fn follow(&mut self, reading: &Reading) {
        let own = reading.vms.values().filter(|vm| vm.tgid == self.process);
        let vcpus = own.flat_map(|vm| vm.vcpus.values());
        let pages: BTreeSet<u64> = vcpus.flat_map(|vcpu| vcpu.pages.keys().copied()).collect();
        if pages.is_subset(&self.pages) {
            return;
        }
        self.pages.extend(pages);
        // The VM may have ended; then its last map is the best that there is.
        let _ = self.read();
    }

    pub fn given(&self) -> impl Iterator<Item = Given> {
        let owner = Owner::Process(self.process);
        let regions = self.regions.iter().cloned();
        regions.map(move |region| Given { owner, region })
    }
}
