// SPDX-License-Identifier: GPL-2.0
//! Where a write goes, when several devices could take it.

use anyhow::Result;

use super::ways::each_way;
use crate::expect_eq;
use crate::guest::{Bus, Event, Machine, Match, Mode};

crate::test_table! {
    fast_behind_coalesced:
        "dispatch: what is remembered of a doorbell does not get in before another device"
        => behind_coalesced(),
}

/// A coalesced zone that comes before a doorbell takes writes as long as its ring has room, and
/// again when it has.
fn behind_coalesced() -> Result<()> {
    const WRITES: u64 = 300;
    let rings = each_way(|_| {
        let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
        vcpu.map_coalesced_ring()?;
        let (gva, gpa) = (machine.gva(1), machine.gpa(1));
        machine.coalesce(Bus::Mmio(gpa), 4)?;
        let bell = machine.doorbell(Bus::Mmio(gpa), Match::Len(4))?;

        let mut rings = Vec::new();
        for _ in 0..WRITES {
            expect_eq!(vcpu.write(gva, 4, 1)?, []);
            rings.push(bell.rings()?);
        }

        let mut coalesced = 0;
        while let Some(write) = vcpu.coalesced_write()? {
            expect_eq!(write, Event::write(gpa, 4, 1));
            coalesced += 1;
        }
        expect_eq!(coalesced + rings.iter().sum::<u64>(), WRITES);
        expect_eq!(vcpu.write(gva, 4, 1)?, []);
        expect_eq!(bell.rings()?, 0);
        expect_eq!(vcpu.coalesced_write()?, Some(Event::write(gpa, 4, 1)));
        Ok(rings)
    })?;
    expect_eq!(rings.first(), Some(&0));
    expect_eq!(rings.last(), Some(&1));
    Ok(())
}
