// SPDX-License-Identifier: GPL-2.0
//! Memslots that come and go in the window while a program runs.

use anyhow::{Context, Result};

use crate::guest::{Machine, PAGE, Region, SMM_SPACE, SlotKind};

/// The pages of the window, by GPA, on which each of the memslots can be.
pub const SLOT_PAGES: [[u64; 3]; SLOTS] = [[1, 6, 7], [9, 12, 13], [2, 6, 12]];
const SLOTS: usize = 3;

/// The one that is there in SMM only.
const SMM_SLOT: usize = 2;

/// Where a memslot is, and what it is.
pub type Place = Option<(u64, SlotKind)>;

/// What the host does when the program asks for it.
#[derive(Clone, Debug)]
pub enum HostOp {
    /// A memslot is to be there; None: it goes.
    Slot(usize, Place),
    /// KVM_SMI, with this handler.
    Smi(Vec<u8>),
}

/// The memslots, and their memory.
pub struct Slots {
    memory: [Region; SLOTS],
    places: [Place; SLOTS],
}

/// What is in them.
#[derive(Clone, Debug, PartialEq)]
pub struct Contents {
    memory: Vec<Vec<u8>>,
    /// KVM_GET_DIRTY_LOG of those that have one.
    dirty: Vec<Vec<u64>>,
}

impl Contents {
    /// What is different in the other.
    pub fn difference(&self, other: &Self) -> String {
        if self.dirty != other.dirty {
            return format!("dirty logs: {:x?} became {:x?}", self.dirty, other.dirty);
        }
        let at = |(a, b): (&Vec<u8>, &Vec<u8>)| a.iter().zip(b).position(|(a, b)| a != b);
        let first = self.memory.iter().zip(&other.memory).map(at);
        format!("memslots at offsets {:x?}", first.collect::<Vec<_>>())
    }
}

impl Slots {
    pub fn new() -> Result<Self> {
        let region = || Region::new(PAGE).context("memory for the guest");
        Ok(Self {
            memory: [region()?, region()?, region()?],
            places: [None; SLOTS],
        })
    }

    /// The number that KVM knows the memslot by.
    fn number(slot: usize) -> u32 {
        let space = if slot == SMM_SLOT { SMM_SPACE } else { 0 };
        space | (slot as u32 + 1)
    }

    /// Creates, moves, changes or deletes a memslot.
    pub fn change(&mut self, machine: &Machine, slot: usize, place: Place) -> Result<()> {
        let old = self.places[slot];
        let number = Self::number(slot);
        // KVM does not let KVM_MEM_READONLY change, nor page and flags at once.
        let stays = |(page, kind): (u64, SlotKind)| {
            place.is_some_and(|(there, now)| {
                kind == now || (page == there && ![kind, now].contains(&SlotKind::ReadOnly))
            })
        };
        if old.is_some_and(|old| !stays(old)) {
            machine.delete_slot(number)?;
        }
        if let Some((page, kind)) = place {
            machine.set_slot(number, machine.gpa(page), &self.memory[slot], kind)?;
        }
        self.places[slot] = place;
        Ok(())
    }

    /// Deletes all memslots, and gives their memory its first contents. With `forget` there is
    /// one to delete in any case, with which KVM forgets all SPTEs.
    pub fn reset(&mut self, machine: &Machine, forget: bool) -> Result<()> {
        if forget {
            let place = Some((SLOT_PAGES[0][0], SlotKind::Ram));
            self.change(machine, 0, place)?;
        }
        for slot in 0..self.places.len() {
            if self.places[slot].is_some() {
                self.change(machine, slot, None)?;
            }
            self.memory[slot].write(0, &pattern(PAGE, slot as u64 + 1));
        }
        Ok(())
    }

    pub fn contents(&self, machine: &Machine) -> Result<Contents> {
        let logging = |(slot, place): (usize, &Place)| match place {
            Some((_, SlotKind::LogDirty)) => Some(Self::number(slot)),
            _ => None,
        };
        let dirty = self.places.iter().enumerate().filter_map(logging);
        Ok(Contents {
            memory: self
                .memory
                .iter()
                .map(|region| region.read(0, PAGE as usize))
                .collect(),
            dirty: dirty
                .map(|number| machine.vm().get_dirty_log(number, PAGE as usize))
                .collect::<Result<_, _>>()
                .context("KVM_GET_DIRTY_LOG")?,
        })
    }
}

/// Contents in which each byte is unlike its neighbours.
pub fn pattern(len: u64, seed: u64) -> Vec<u8> {
    (0..len)
        .map(|n| (n * 7 + (n >> 8) + seed * 0x35) as u8)
        .collect()
}
