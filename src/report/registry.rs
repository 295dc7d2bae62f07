// SPDX-License-Identifier: GPL-2.0

//! All vCPUs that the extension has state for, by VM, so that what they have counted can be added
//! up and shown.
//!
//! One mutex protects it all. It is taken last, and where one may sleep.

use crate::{
    kvm::{global_mutex, VcpuId},
    pure::heat::{self, Heat, Record},
    report::stats::{Snapshot, Stats}, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

/// VMs that are kept for the readers after they have ended.
pub(crate) const VMS_KEPT: usize = 64;

/// The records of one vCPU.
pub(crate) type VcpuRecords = VBox<[Record; heat::PAGES]>;

/// The heat of one vCPU.
pub(crate) type VcpuHeat = Heat<VcpuRecords>;

/// What there is to see of a vCPU.
pub(crate) struct VcpuEntry {
    /// Its number.
    pub(crate) id: u32,
    /// Its counters.
    pub(crate) stats: Arc<Stats>,
    /// What it has recorded, if ever it did.
    pub(crate) heat: Option<Arc<VcpuHeat>>,
    gone: bool,
}

/// A VM of which at least one vCPU has state.
pub(crate) struct Vm {
    /// Its number, which KVM has given to no other.
    pub(crate) id: u64,
    /// Its process.
    pub(crate) tgid: u32,
    /// Its vCPUs, those that are gone included.
    pub(crate) vcpus: KVec<VcpuEntry>,
}

impl Vm {
    /// Whether the VM is gone. All its vCPUs go at once, when it is destroyed.
    pub(crate) fn has_ended(&self) -> bool {
        self.vcpus.iter().all(|vcpu| vcpu.gone)
    }
}

/// All VMs.
pub(crate) struct Registry {
    vms: KVec<Vm>,
    /// What vCPUs have counted that are gone.
    gone: Snapshot,
    /// Readers that want ended VMs to be kept.
    readers: usize,
    /// Ended VMs that were dropped although there were readers.
    lost: u64,
}

global_mutex! {
    /// To be initialized before any function of this file is called.
    pub(crate) static REGISTRY: Registry = Registry {
        vms: KVec::new(),
        gone: Snapshot::ZERO,
        readers: 0,
        lost: 0,
    };
}

/// Adds a vCPU of the VM with a number, and tells how it is named. Sleeps.
pub(crate) fn add(vm: u64, tgid: u32, vcpu: u32, stats: Arc<Stats>) -> Result<VcpuId> {
    let entry = VcpuEntry {
        id: vcpu,
        stats,
        heat: None,
        gone: false,
    };
    let mut registry = REGISTRY.lock();
    let vm = registry.vm(vm, tgid)?;
    vm.vcpus.push(entry, GFP_KERNEL_ACCOUNT)?;
    Ok(VcpuId {
        vm: vm.id,
        tgid,
        vcpu,
    })
}

/// Shows the heat of a vCPU from now on. Sleeps.
pub(crate) fn add_heat(stats: &Arc<Stats>, heat: Arc<VcpuHeat>) {
    let mut registry = REGISTRY.lock();
    if let Some(entry) = registry.entry(stats) {
        entry.heat = Some(heat);
    }
}

/// Marks a vCPU as gone, keeping what it has counted. Sleeps.
pub(crate) fn remove(stats: &Arc<Stats>) {
    let mut registry = REGISTRY.lock();
    let registry = &mut *registry;

    if let Some(entry) = registry.entry(stats) {
        entry.gone = true;
        stats.add_to(&mut registry.gone);
    }
    registry.forget_ended_vms();
}

impl Registry {
    fn vm(&mut self, id: u64, tgid: u32) -> Result<&mut Vm> {
        let found = self.vms.iter().position(|vm| vm.id == id);
        let index = match found {
            Some(index) => index,
            None => {
                let vm = Vm {
                    id,
                    tgid,
                    vcpus: KVec::with_capacity(1, GFP_KERNEL_ACCOUNT)?,
                };
                self.vms.push(vm, GFP_KERNEL_ACCOUNT)?;
                self.vms.len() - 1
            }
        };
        Ok(&mut self.vms[index])
    }

    fn entry(&mut self, stats: &Arc<Stats>) -> Option<&mut VcpuEntry> {
        self.vms
            .iter_mut()
            .flat_map(|vm| vm.vcpus.iter_mut())
            .find(|entry| Arc::ptr_eq(&entry.stats, stats))
    }

    /// Drops the VMs that have ended, but for the last ones if there are readers.
    fn forget_ended_vms(&mut self) {
        let ended = self.vms.iter().filter(|vm| vm.has_ended()).count();
        let kept = if self.readers > 0 { VMS_KEPT } else { 0 };
        let mut surplus = ended.saturating_sub(kept);
        if self.readers > 0 {
            self.lost += surplus as u64;
        }
        // The order is that in which the VMs came.
        self.vms.retain(|vm| {
            let drop = surplus > 0 && vm.has_ended();
            surplus -= usize::from(drop);
            !drop
        });
    }
}

/// The sum over all vCPUs, those that are gone included. Sleeps.
pub(crate) fn total() -> Snapshot {
    let registry = REGISTRY.lock();
    let mut total = registry.gone;

    registry
        .vms
        .iter()
        .flat_map(|vm| vm.vcpus.iter())
        .filter(|vcpu| !vcpu.gone)
        .for_each(|vcpu| vcpu.stats.add_to(&mut total));
    total
}

/// Calls a function for each VM, with none coming or going meanwhile. Sleeps.
pub(crate) fn for_each_vm<E>(mut f: impl FnMut(&Vm) -> Result<(), E>) -> Result<(), E> {
    REGISTRY.lock().vms.iter().try_for_each(&mut f)
}

/// How many ended VMs were dropped that readers may have wanted. Sleeps.
pub(crate) fn vms_lost() -> u64 {
    REGISTRY.lock().lost
}

/// As long as it exists, VMs that end are kept.
pub(crate) struct Reader(());

impl Reader {
    /// Sleeps.
    pub(crate) fn new() -> Self {
        REGISTRY.lock().readers += 1;
        Self(())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut registry = REGISTRY.lock();
        registry.readers -= 1;
        registry.forget_ended_vms();
    }
}
