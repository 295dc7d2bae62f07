// SPDX-License-Identifier: GPL-2.0
//! ioeventfds come and go.

use anyhow::Result;

use crate::random::Random;
use crate::torture::limits::Limits;
use crate::torture::tally::count;
use crate::torture::world::World;

/// The actor that changes doorbell `id`.
pub fn churn(world: &World, id: usize, limits: Limits) -> Result<()> {
    let mut random = Random::new(limits.seed << 8 | 0xbe00 | id as u64);
    for _ in world.rounds(limits.changes) {
        world.bells[id].toggle(&world.machine)?;
        count(&world.tally.bell_changes, 1);
        world.wait_for_visits(random.below(24));
    }
    Ok(())
}
