// SPDX-License-Identifier: GPL-2.0
//! A kind of access that is measured, and the guest that it needs.

use anyhow::{Context, Result};
use iced_x86::IcedError;
use iced_x86::code_asm::CodeAssembler;

use super::insn::Insn;
use crate::guest::layout::port;
use crate::guest::{Bus, Doorbell, Machine, Match, Mode, PAGE, Region, SlotKind, operand};

/// How the access leaves the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Port I/O: needs no page tables and no emulator; the limit of what MMIO can reach.
    Pio,
    Mmio,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is an exit to userspace.
    User,
    /// An ioeventfd takes it; userspace does not see it. A datamatch is the value written.
    Event(Event),
    /// It goes to a ring in memory.
    Coalesced,
}

/// The ioeventfd that takes the access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// With a datamatch of the size of the access.
    DataMatch,
    /// For the size of the access, whatever is written.
    Length,
    /// Zero length.
    Any,
}

/// One line of the result.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// For `--rows` and for JSON: stays the same over versions.
    pub name: &'static str,
    /// The row by port I/O that does as much, if there is one; of a port row it is itself.
    pub port: Option<&'static str>,
    pub space: Space,
    pub kind: Kind,
    pub insn: Insn,
    pub mode: Mode,
    /// Pages that are accessed in turn.
    pub pages: u64,
    /// Memslots of the guest.
    pub slots: u32,
    /// ioeventfds at the address, each with its datamatch; the guest rings the one that was
    /// registered last.
    pub doorbells: u32,
    /// vCPUs that do this at the same time.
    pub vcpus: u64,
}

/// What a guest needs as long as it runs.
pub struct Fixture {
    _doorbells: Vec<Doorbell>,
    _memory: Region,
}

/// Where memslots go that are just there: above 4 GiB, so that they meet nothing else.
const SLOTS_GPA: u64 = 1 << 32;

impl Row {
    /// In words, for the table.
    pub fn describe(&self) -> String {
        let space = match self.space {
            Space::Pio => "port",
            Space::Mmio => "MMIO",
        };
        let kind = match self.kind {
            Kind::User => "exit to userspace",
            Kind::Event(Event::DataMatch) => "ioeventfd with datamatch",
            Kind::Event(Event::Length) => "ioeventfd of this length",
            Kind::Event(Event::Any) => "ioeventfd of zero length",
            Kind::Coalesced => "coalesced",
        };
        let mode = match self.mode {
            Mode::Long => "",
            Mode::La57 => ", 5-level paging",
            Mode::Pae => ", 32-bit with PAE",
            Mode::Legacy => ", 32-bit with 2-level paging",
            Mode::Flat => ", 32-bit without paging",
        };
        let many = |count: u64, what: &str| {
            if count > 1 {
                format!(", {count} {what}")
            } else {
                String::new()
            }
        };
        [
            format!("{space} {}, {kind}{mode}", self.insn),
            many(self.pages, "pages in turn"),
            many(self.slots.into(), "memslots"),
            many(self.doorbells.into(), "ioeventfds"),
            many(self.vcpus, "vCPUs"),
        ]
        .concat()
    }

    fn bus(&self, machine: &Machine, page: u64) -> Bus {
        match self.space {
            Space::Pio => Bus::Pio(port::BENCH),
            Space::Mmio => Bus::Mmio(machine.gpa(page)),
        }
    }

    /// Bytes written.
    fn len(&self) -> u32 {
        match self.insn {
            Insn::Store(size) => size,
            _ => 4,
        }
    }

    /// Registers what takes the accesses, and makes the memslots.
    pub fn prepare(&self, machine: &Machine) -> Result<Fixture> {
        let memory = Region::new(PAGE).context("memory for the guest")?;
        for slot in 1..self.slots {
            let gpa = SLOTS_GPA + u64::from(slot) * 2 * PAGE;
            machine.set_slot(slot, gpa, &memory, SlotKind::Ram)?;
        }
        let mut doorbells = Vec::new();
        for page in 0..self.pages {
            let bus = self.bus(machine, page);
            match self.kind {
                Kind::User => {}
                Kind::Coalesced => machine.coalesce(bus, self.len())?,
                Kind::Event(event) => {
                    for value in 1..=self.doorbells {
                        doorbells.push(machine.doorbell(bus, self.matches(event, value))?);
                    }
                }
            }
        }
        Ok(Fixture {
            _doorbells: doorbells,
            _memory: memory,
        })
    }

    fn matches(&self, event: Event, value: u32) -> Match {
        let len = self.len();
        match event {
            Event::DataMatch => Match::Data {
                len,
                value: value.into(),
            },
            Event::Length => Match::Len(len),
            Event::Any => Match::Any,
        }
    }

    /// The instructions of one turn of the loop: one access for each page. DI holds the first
    /// page, DX the port, RAX the value.
    pub fn accesses(&self, a: &mut CodeAssembler) -> Result<(), IcedError> {
        for page in 0..self.pages {
            match self.space {
                Space::Pio => self.insn.emit_port(a)?,
                Space::Mmio => {
                    let at = operand(self.mode, (page * PAGE) as i32);
                    self.insn.emit_mmio(a, at, self.value())?;
                }
            }
        }
        Ok(())
    }

    /// The value that RAX holds in the loop.
    pub fn value(&self) -> u32 {
        self.doorbells
    }
}
