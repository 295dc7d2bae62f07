// SPDX-License-Identifier: GPL-2.0
//! What is to be shown, and how.

use clap::ValueEnum;
use regex_lite::Regex;

use crate::counts::Counts;
use crate::reading::{Reading, Vm};

/// Which pages are shown.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// VM ids; empty for all.
    pub vms: Vec<u64>,
    /// Processes of VMs; empty for all.
    pub pids: Vec<u32>,
    pub vcpus: Vec<u32>,
    /// Of the name of the page.
    pub name: Option<Regex>,
}

impl Filter {
    pub fn has_vm(&self, id: u64, vm: &Vm) -> bool {
        (self.vms.is_empty() || self.vms.contains(&id))
            && (self.pids.is_empty() || self.pids.contains(&vm.tgid))
    }

    pub fn has_vcpu(&self, id: u32) -> bool {
        self.vcpus.is_empty() || self.vcpus.contains(&id)
    }

    /// Whether all is shown of the VMs of which anything is.
    pub fn has_whole_vms(&self) -> bool {
        self.vcpus.is_empty() && self.name.is_none()
    }

    /// Takes away what is not to be shown, pages by name excepted.
    pub fn apply(&self, reading: &mut Reading) {
        reading.vms.retain(|id, vm| self.has_vm(*id, vm));
        for vm in reading.vms.values_mut() {
            vm.vcpus.retain(|id, _| self.has_vcpu(*id));
        }
    }
}

/// What the rows are ordered by. All but addresses begin with the most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    #[default]
    Accesses,
    Reads,
    Writes,
    Kernel,
    Userspace,
    Time,
    Page,
}

impl Sort {
    pub fn next(self) -> Self {
        let all = Self::value_variants();
        let place = all.iter().position(|sort| *sort == self).unwrap_or(0);
        all[(place + 1) % all.len()]
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Accesses => "accesses",
            Self::Reads => "reads",
            Self::Writes => "writes",
            Self::Kernel => "kernel",
            Self::Userspace => "userspace",
            Self::Time => "time",
            Self::Page => "page",
        }
    }

    pub fn key(self, counts: &Counts) -> u64 {
        match self {
            Self::Accesses => counts.count,
            Self::Reads => counts.reads,
            Self::Writes => counts.writes,
            Self::Kernel => counts.kernel,
            Self::Userspace => counts.userspace,
            Self::Time => counts.cycles,
            Self::Page => 0,
        }
    }
}

/// What has a row of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum By {
    #[default]
    Page,
    /// Each device of each VM
    Device,
    Vm,
    Vcpu,
    /// Each instruction that accesses a page, which only tracepoints tell
    Rip,
}

impl By {
    /// What rows are called, one and many.
    pub fn rows(self) -> (&'static str, &'static str) {
        match self {
            Self::Page => ("page", "pages"),
            Self::Device => ("device", "devices"),
            Self::Vm => ("VM", "VMs"),
            Self::Vcpu => ("vCPU", "vCPUs"),
            Self::Rip => ("instruction", "instructions"),
        }
    }

    /// The columns of [`Part::cells`](crate::group::Part::cells).
    pub fn titles(self) -> &'static [&'static str] {
        match self {
            Self::Page | Self::Vm => &[],
            Self::Device => &["device"],
            Self::Vcpu => &["vCPU"],
            Self::Rip => &["page", "name", "instruction", "symbol"],
        }
    }
}

/// All of this.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub filter: Filter,
    pub sort: Sort,
    pub per_vcpu: bool,
    pub by: By,
}
