// SPDX-License-Identifier: GPL-2.0
//! Memslots come, go, move, change their backing, and are logged.

use anyhow::{Context, Result, ensure};

use crate::guest::{PAGE, SlotKind};
use crate::random::Random;
use crate::torture::limits::Limits;
use crate::torture::slot::{MAGIC, Page, Slot};
use crate::torture::tally::count;
use crate::torture::truth::Truth;
use crate::torture::world::World;

/// The slot as it is now.
struct Placed {
    side: usize,
    region: usize,
    kind: SlotKind,
    magic: u32,
    /// What the region held when its dirty log began.
    logged: Vec<u8>,
}

impl Placed {
    fn page(&self) -> Page {
        match self.kind {
            SlotKind::ReadOnly => Page::ReadOnly(self.magic),
            _ => Page::Ram(self.magic),
        }
    }
}

/// Changes a slot.
struct Churn<'a> {
    world: &'a World,
    slot: &'a Slot,
    random: Random,
    /// What each region held when the slot lost it: nobody may write it any more.
    left: [Option<Vec<u8>>; 2],
}

/// The actor that changes slot `id`.
pub fn churn(world: &World, id: usize, limits: Limits) -> Result<()> {
    let mut churn = Churn {
        world,
        slot: &world.slots[id],
        random: Random::new(limits.seed << 8 | 0x50 | id as u64),
        left: [None, None],
    };
    let mut placed = None;
    for round in world.rounds(limits.changes) {
        placed = match placed {
            None => Some(churn.create(round)?),
            Some(placed) => churn.change(placed)?,
        };
        count(&world.tally.slot_changes, 1);
        world.wait_for_visits(churn.random.below(12));
    }
    Ok(())
}

impl Churn<'_> {
    fn contents(&self, region: usize) -> Vec<u8> {
        self.slot.regions[region].read(0, PAGE as usize)
    }

    fn create(&mut self, round: u64) -> Result<Placed> {
        let kinds = [SlotKind::Ram, SlotKind::LogDirty, SlotKind::ReadOnly];
        let region = self.random.below(2) as usize;
        if let Some(left) = self.left[region].take() {
            ensure!(
                self.contents(region) == left,
                "a page was written after the ioctl that took it away had returned"
            );
        }
        let magic = MAGIC | (round as u32 & 0x7f_ffff) << 1 | self.slot.id as u32;
        self.slot.regions[region].write_u64(0, magic.into());
        let placed = Placed {
            side: self.random.below(2) as usize,
            region,
            kind: self.random.pick(&kinds),
            magic,
            logged: self.contents(region),
        };
        let truth = &self.slot.pages[placed.side];
        truth.begin();
        self.set(&placed)?;
        truth.end(placed.page());
        Ok(placed)
    }

    fn set(&self, placed: &Placed) -> Result<()> {
        let gpa = self.slot.gpa(&self.world.machine, placed.side);
        let region = &self.slot.regions[placed.region];
        self.world
            .machine
            .set_slot(self.slot.number(), gpa, region, placed.kind)
    }

    fn change(&mut self, mut placed: Placed) -> Result<Option<Placed>> {
        if placed.kind == SlotKind::LogDirty && self.random.percent(30) {
            self.check_log(&placed)?;
        }
        match self.random.below(3) {
            0 => return self.delete(placed).map(|()| None),
            1 => self.move_over(&mut placed)?,
            _ => self.toggle_log(&mut placed)?,
        }
        Ok(Some(placed))
    }

    fn delete(&mut self, placed: Placed) -> Result<()> {
        let truth = &self.slot.pages[placed.side];
        truth.begin();
        self.world.machine.delete_slot(self.slot.number())?;
        self.left[placed.region] = Some(self.contents(placed.region));
        truth.end(Page::Hole);
        Ok(())
    }

    fn move_over(&mut self, placed: &mut Placed) -> Result<()> {
        let (from, to) = (placed.side, 1 - placed.side);
        placed.side = to;
        self.slot.pages.iter().for_each(Truth::begin);
        self.set(placed)?;
        self.slot.pages[from].end(Page::Hole);
        self.slot.pages[to].end(placed.page());
        Ok(())
    }

    /// The page stays what it is all the time.
    fn toggle_log(&mut self, placed: &mut Placed) -> Result<()> {
        placed.kind = match placed.kind {
            SlotKind::Ram => SlotKind::LogDirty,
            SlotKind::LogDirty => SlotKind::Ram,
            SlotKind::ReadOnly => return Ok(()),
        };
        self.set(placed)?;
        placed.logged = self.contents(placed.region);
        Ok(())
    }

    /// A page that was written since the log began is in it.
    fn check_log(&self, placed: &Placed) -> Result<()> {
        let written = self.contents(placed.region) != placed.logged;
        // KVM writes first and logs then: let it come to that.
        self.world.wait_for_each_vcpu();
        let log = self
            .world
            .machine
            .vm()
            .get_dirty_log(self.slot.number(), PAGE as usize)
            .context("KVM_GET_DIRTY_LOG")?;
        if written && !self.world.is_over() {
            ensure!(
                log[0] & 1 != 0,
                "a page was written and is not in the dirty log"
            );
            count(&self.world.tally.dirty_logs, 1);
        }
        Ok(())
    }
}
