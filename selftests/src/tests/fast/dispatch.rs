// SPDX-License-Identifier: GPL-2.0
//! Where a write goes, when several devices could take it.

use anyhow::Result;

use super::each_way;
use crate::expect_eq;
use crate::guest::{Bus, Machine, Match, Mode};
use crate::tap::Test;

pub const TESTS: &[Test] = &[Test {
    name: "fast_behind_coalesced",
    proves: "dispatch: what is remembered of a doorbell does not get in before another device",
    run: behind_coalesced,
}];

/// A coalesced zone that comes before a doorbell takes writes as long as its ring has room.
fn behind_coalesced() -> Result<()> {
    let rings = each_way(|_| {
        let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
        let (gva, gpa) = (machine.gva(1), machine.gpa(1));
        machine.coalesce(Bus::Mmio(gpa), 4)?;
        let bell = machine.doorbell(Bus::Mmio(gpa), Match::Len(4))?;

        let mut rings = Vec::new();
        for _ in 0..300 {
            expect_eq!(vcpu.write(gva, 4, 1)?, []);
            rings.push(bell.rings()?);
        }
        Ok(rings)
    })?;
    expect_eq!(rings.first(), Some(&0));
    expect_eq!(rings.last(), Some(&1));
    Ok(())
}
