// SPDX-License-Identifier: GPL-2.0
//! What frames of a recording hold, and what has changed from one sample to the next.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::frame::Fault;
use crate::reading::{Clock, Page, Reading};
use crate::region::{Given, Region};
use crate::site::{Place, SOMEWHERE, Site};

/// How a recording came to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Version of the program that has written it.
    pub program: String,
    /// Release of the kernel.
    pub kernel: String,
    /// Seconds since 1970.
    pub wall_clock: u64,
    /// Milliseconds between two samples.
    pub interval_ms: u64,
    /// Names of the counters of vCPUs.
    pub counters: Vec<String>,
    /// Names that the user has given to pages, in version 2 of the format.
    pub regions: Vec<Region>,
    /// What the machine is called, of a frame of its own; empty if it has no name, and up to
    /// version 5 of the format.
    #[serde(skip)]
    pub host: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Sample {
    clock: Clock,
    vms: Vec<VmState>,
    vcpus: Vec<VcpuState>,
    pages: Vec<PageState>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct VmState {
    vm: u64,
    tgid: u32,
    ended: bool,
    heat_dropped: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct VcpuState {
    vm: u64,
    vcpu: u32,
    counters: Vec<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct PageState {
    vm: u64,
    vcpu: u32,
    gpa: u64,
    page: Page,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct SiteState {
    vm: u64,
    vcpu: u32,
    place: Place,
    site: Site,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Frame {
    Start(Start),
    Sample(Sample),
    End,
    /// Names that pages have from here on.
    Given(Vec<Given>),
    /// Names of processes that are new.
    Processes(BTreeMap<u32, String>),
    /// What of instructions has changed with the sample that follows.
    Sites(Vec<SiteState>),
    /// What the machine is called.
    Host(String),
}

/// The instructions that have changed.
pub fn sites_between(before: &Reading, now: &Reading) -> Vec<SiteState> {
    let mut sites = Vec::new();
    for (&vm, state) in &now.vms {
        for (&vcpu, state) in &state.vcpus {
            let before = before.vms.get(&vm).and_then(|vm| vm.vcpus.get(&vcpu));
            for (&place, site) in &state.sites {
                if before.and_then(|vcpu| vcpu.sites.get(&place)) != Some(site) {
                    let site = site.clone();
                    sites.push(SiteState {
                        vm,
                        vcpu,
                        place,
                        site,
                    });
                }
            }
        }
    }
    sites
}

/// Brings a state to what the sample that follows begins with: that has the VMs. Up to version 4 of
/// the format the addresses of places were those of pages.
pub fn apply_sites(sites: Vec<SiteState>, version: u8, state: &mut Reading) {
    for SiteState {
        vm,
        vcpu,
        mut place,
        site,
    } in sites
    {
        if version < 5 {
            place.0 |= SOMEWHERE;
        }
        let vcpus = &mut state.vms.entry(vm).or_default().vcpus;
        vcpus.entry(vcpu).or_default().sites.insert(place, site);
    }
}

impl Sample {
    pub fn between(before: &Reading, now: &Reading) -> Self {
        let mut sample = Self {
            clock: now.clock,
            ..Self::default()
        };
        for (&vm, state) in &now.vms {
            sample.vms.push(VmState {
                vm,
                tgid: state.tgid,
                ended: state.ended,
                heat_dropped: state.heat_dropped,
            });
            let vm_before = before.vms.get(&vm);
            for (&vcpu, state) in &state.vcpus {
                let vcpu_before = vm_before.and_then(|state| state.vcpus.get(&vcpu));
                if vcpu_before.is_none_or(|before| before.counters != state.counters) {
                    let counters = state.counters.clone();
                    sample.vcpus.push(VcpuState { vm, vcpu, counters });
                }
                for (&gpa, &page) in &state.pages {
                    if vcpu_before.and_then(|before| before.pages.get(&gpa)) != Some(&page) {
                        sample.pages.push(PageState {
                            vm,
                            vcpu,
                            gpa,
                            page,
                        });
                    }
                }
            }
        }
        sample
    }

    /// Brings a state to that of this sample.
    pub fn apply(self, state: &mut Reading) -> Result<(), Fault> {
        let missing = || Fault::Content("a vCPU or a page without its VM".to_owned());
        state.clock = self.clock;
        state
            .vms
            .retain(|id, _| self.vms.iter().any(|vm| vm.vm == *id));
        for VmState {
            vm,
            tgid,
            ended,
            heat_dropped,
        } in self.vms
        {
            let state = state.vms.entry(vm).or_default();
            (state.tgid, state.ended, state.heat_dropped) = (tgid, ended, heat_dropped);
        }
        for VcpuState { vm, vcpu, counters } in self.vcpus {
            let vm = state.vms.get_mut(&vm).ok_or_else(missing)?;
            vm.vcpus.entry(vcpu).or_default().counters = counters;
        }
        for PageState {
            vm,
            vcpu,
            gpa,
            page,
        } in self.pages
        {
            let vm = state.vms.get_mut(&vm).ok_or_else(missing)?;
            let vcpu = vm.vcpus.get_mut(&vcpu).ok_or_else(missing)?;
            vcpu.pages.insert(gpa, page);
        }
        Ok(())
    }
}
