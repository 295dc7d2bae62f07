// SPDX-License-Identifier: GPL-2.0

//! What heat tells of a page.

use super::{
    access_kind::Kind,
    stats_format::{Direction, Outcome}, //
};
use crate::addr::Gfn;

/// What a vCPU has done to a page, or one of its instructions.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// The page.
    pub gfn: Gfn,
    /// The instruction, if they were told apart.
    pub rip: Option<u64>,
    /// Accesses of each kind.
    pub counts: [u64; Kind::COUNT],
    /// Time spent, in cycles of the TSC.
    pub cycles: u64,
    /// The TSC at the end of the last access.
    pub last_tsc: u64,
    /// Of the last access: bytes, 0 if unknown.
    pub last_size: u8,
    /// Of the last access: significant bits of the value, or [`UNKNOWN_WIDTH`].
    pub last_width: u8,
    /// Of the last access.
    pub last_direction: Direction,
    /// Of the last access.
    pub last_outcome: Outcome,
}

impl Page {
    /// Accesses.
    pub fn count(&self) -> u64 {
        self.sum(|_| true)
    }

    /// Accesses in one direction.
    pub fn with_direction(&self, direction: Direction) -> u64 {
        self.sum(|kind| kind.direction() == direction)
    }

    /// Accesses with one of some outcomes.
    pub fn with_outcome(&self, outcomes: &[Outcome]) -> u64 {
        self.sum(|kind| outcomes.contains(&kind.outcome()))
    }

    /// Accesses that were completed in the kernel.
    pub fn kernel(&self) -> u64 {
        use Outcome::*;
        self.with_outcome(&[FastKernel, EmulatedKernel, Wildcard])
    }

    /// Accesses that exited to userspace.
    pub fn userspace(&self) -> u64 {
        use Outcome::*;
        self.with_outcome(&[FastUserspace, EmulatedUserspace])
    }

    /// Accesses by the fast path.
    pub fn fast(&self) -> u64 {
        use Outcome::*;
        self.with_outcome(&[FastKernel, FastUserspace])
    }

    fn sum(&self, select: impl Fn(Kind) -> bool) -> u64 {
        (0..)
            .zip(self.counts)
            .filter(|&(kind, _)| select(Kind(kind)))
            .fold(0, |sum, (_, count)| sum.wrapping_add(count))
    }
}
