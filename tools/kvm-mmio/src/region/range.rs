// SPDX-License-Identifier: GPL-2.0
//! A range of guest-physical addresses with a name, and whose it is.

use serde::{Deserialize, Serialize};

/// Bytes of a page, the unit in which the kernel counts.
pub const PAGE: u64 = 4096;

/// Who says that a range has a name. The first in this order is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A file of the user.
    User,
    /// QEMU's `info mtree`.
    Qemu,
    /// The conventions of PCs.
    Builtin,
}

/// A range of guest-physical addresses with a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Region {
    pub name: String,
    /// First byte.
    pub start: u64,
    /// Last byte.
    pub last: u64,
    pub source: Source,
}

impl Region {
    /// First byte of the first page that the range touches.
    pub(super) fn first_page(&self) -> u64 {
        self.start & !(PAGE - 1)
    }

    pub(super) fn has_page(&self, gpa: u64) -> bool {
        self.first_page() <= gpa && gpa <= self.last
    }

    /// Whether there is a page that both have.
    pub(super) fn shares_page(&self, other: &Self) -> bool {
        self.first_page() <= other.last && other.first_page() <= self.last
    }

    /// First and last byte in a page that it has.
    pub(super) fn part(&self, gpa: u64) -> (u64, u64) {
        (self.start.max(gpa), self.last.min(gpa | (PAGE - 1)))
    }

    /// What decides between two ranges that have the same page; the least wins. The closest fit
    /// in pages; of several parts of one page the largest.
    pub(super) fn rank(&self) -> (bool, u64, Source, u64) {
        let pages = (self.last - self.first_page()) / PAGE;
        let size = self.last - self.start;
        (self.source != Source::User, pages, self.source, !size)
    }
}

/// Which VMs a range is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Owner {
    /// Those of the process that has them all; of none if there are several processes.
    Only,
    /// All there are.
    All,
    /// Those of a process.
    Process(u32),
}

impl Owner {
    pub(super) fn has(self, process: u32, alone: bool) -> bool {
        match self {
            Self::Only => alone,
            Self::All => true,
            Self::Process(owner) => owner == process,
        }
    }
}

/// A range, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Given {
    pub owner: Owner,
    pub region: Region,
}
