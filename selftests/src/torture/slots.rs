// SPDX-License-Identifier: GPL-2.0
//! Memslots that come, go, move, change their backing, and are logged.

use anyhow::{Context, Result, ensure};

use super::Limits;
use super::truth::Truth;
use super::world::{World, count};
use crate::diff::random::Random;
use crate::guest::{Machine, PAGE, Region, SlotKind};

/// What a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    Hole,
    /// RAM that holds this number at its start.
    Ram(u32),
    /// As above; writes are MMIO.
    ReadOnly(u32),
}

/// A slot, at one of two pages or nowhere, with one of two regions.
pub struct Slot {
    id: u64,
    pages: [Truth<Page>; 2],
    regions: [Region; 2],
}

/// Where each vCPU writes in a region. It writes increasing numbers, and nobody else does.
pub const fn own_word(vcpu: u64) -> u64 {
    64 * (1 + vcpu)
}

/// The numbers at the start of regions; MMIO reads return none like that, see `visit`.
const MAGIC: u32 = 0xa5 << 24;

pub const fn is_magic(value: u32) -> bool {
    value >> 24 == MAGIC >> 24
}

impl Slot {
    pub fn new(id: u64) -> Result<Self> {
        Ok(Self {
            id,
            pages: [Truth::new(Page::Hole), Truth::new(Page::Hole)],
            regions: [Region::new(PAGE)?, Region::new(PAGE)?],
        })
    }

    /// The slot that page `page` of the MMIO window belongs to, and what that page is.
    pub fn of_page(slots: &[Self], page: u64) -> (&Self, &Truth<Page>) {
        let slot = &slots[page as usize / 2];
        (slot, &slot.pages[page as usize % 2])
    }

    /// Whether the word of a vCPU holds `value` in one of the regions.
    pub fn holds(&self, vcpu: u64, value: u32) -> bool {
        let word = |region: &Region| region.read_u64(own_word(vcpu)) as u32;
        self.regions.iter().any(|region| word(region) == value)
    }

    /// KVM's number of the slot; 0 is that of the guest's own memory.
    fn number(&self) -> u32 {
        1 + self.id as u32
    }

    fn gpa(&self, machine: &Machine, side: usize) -> u64 {
        machine.gpa(2 * self.id + side as u64)
    }
}

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
