// SPDX-License-Identifier: GPL-2.0
//! How many accesses there were, by what became of them.

use std::ops::{AddAssign, Sub};

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub count: u64,
    pub reads: u64,
    pub writes: u64,
    pub kernel: u64,
    pub userspace: u64,
    pub fast: u64,
    pub wildcard: u64,
    /// Time spent, in cycles of the TSC.
    pub cycles: u64,
}

impl Counts {
    fn zip(self, other: Self, op: fn(u64, u64) -> u64) -> Self {
        Self {
            count: op(self.count, other.count),
            reads: op(self.reads, other.reads),
            writes: op(self.writes, other.writes),
            kernel: op(self.kernel, other.kernel),
            userspace: op(self.userspace, other.userspace),
            fast: op(self.fast, other.fast),
            wildcard: op(self.wildcard, other.wildcard),
            cycles: op(self.cycles, other.cycles),
        }
    }

    /// Of each count the greater.
    pub fn max(self, other: Self) -> Self {
        self.zip(other, u64::max)
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        *self = self.zip(other, u64::saturating_add);
    }
}

impl Sub for Counts {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        self.zip(earlier, u64::saturating_sub)
    }
}
