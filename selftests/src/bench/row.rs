// SPDX-License-Identifier: GPL-2.0
//! The kinds of access that are measured.

use anyhow::Result;
use iced_x86::IcedError;
use iced_x86::code_asm::{self as asm, CodeAssembler};

use crate::guest::layout::port;
use crate::guest::{Bus, Doorbell, Machine, Match, PAGE};

/// How the access leaves the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Port I/O: needs no page tables and no emulator; the limit of what MMIO can reach.
    Pio,
    Mmio,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    UserWrite,
    UserRead,
    /// An ioeventfd takes it; userspace does not see it.
    Event(Match),
}

/// One line of the result.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// For `--rows` and for JSON: stays the same over versions.
    pub name: &'static str,
    pub space: Space,
    pub kind: Kind,
    /// Pages that are accessed in turn.
    pub pages: u64,
}

/// What a guest writes; no doorbell but the one with this datamatch is there.
const VALUE: u32 = 1;

const MATCH: Match = Match::Data {
    len: 4,
    value: VALUE as u64,
};

const fn row(name: &'static str, space: Space, kind: Kind) -> Row {
    Row {
        name,
        space,
        kind,
        pages: 1,
    }
}

pub const ROWS: &[Row] = &[
    row("pio_user_write", Space::Pio, Kind::UserWrite),
    row("pio_user_read", Space::Pio, Kind::UserRead),
    row("pio_event_match4", Space::Pio, Kind::Event(MATCH)),
    row("pio_event_len4", Space::Pio, Kind::Event(Match::Len(4))),
    row("pio_event_len0", Space::Pio, Kind::Event(Match::Any)),
    row("mmio_user_write", Space::Mmio, Kind::UserWrite),
    row("mmio_user_read", Space::Mmio, Kind::UserRead),
    row("mmio_event_match4", Space::Mmio, Kind::Event(MATCH)),
    row("mmio_event_len4", Space::Mmio, Kind::Event(Match::Len(4))),
    row("mmio_event_len0", Space::Mmio, Kind::Event(Match::Any)),
    Row {
        pages: 8,
        ..row("mmio_user_write_8_pages", Space::Mmio, Kind::UserWrite)
    },
    Row {
        pages: 8,
        ..row("mmio_user_read_8_pages", Space::Mmio, Kind::UserRead)
    },
    Row {
        pages: 8,
        ..row("mmio_event_match4_8_pages", Space::Mmio, Kind::Event(MATCH))
    },
];

impl Row {
    /// In words, for the table.
    pub fn describe(&self) -> String {
        let space = match self.space {
            Space::Pio => "port",
            Space::Mmio => "mmio",
        };
        let kind = match self.kind {
            Kind::UserWrite => "write, exit to userspace".to_owned(),
            Kind::UserRead => "read, exit to userspace".to_owned(),
            Kind::Event(Match::Data { len, .. }) => format!("ioeventfd, {len}-byte datamatch"),
            Kind::Event(Match::Len(len)) => format!("ioeventfd, {len} bytes, any value"),
            Kind::Event(Match::Any) => "ioeventfd, zero-length wildcard".to_owned(),
        };
        let pages = if self.pages > 1 {
            format!(", {} pages in turn", self.pages)
        } else {
            String::new()
        };
        format!("{space} {kind}{pages}")
    }

    /// Registers the doorbells; keep them as long as the machine.
    pub fn doorbells(&self, machine: &Machine) -> Result<Vec<Doorbell>> {
        let Kind::Event(kind) = self.kind else {
            return Ok(Vec::new());
        };
        (0..self.pages)
            .map(|page| {
                let bus = match self.space {
                    Space::Pio => Bus::Pio(port::BENCH),
                    Space::Mmio => Bus::Mmio(machine.gpa(page)),
                };
                machine.doorbell(bus, kind)
            })
            .collect()
    }

    /// The instructions of one turn of the loop: one access for each page. RDI holds the first
    /// page, EAX the value.
    pub fn accesses(&self, a: &mut CodeAssembler) -> Result<(), IcedError> {
        for page in 0..self.pages {
            let at = asm::dword_ptr(asm::rdi + (page * PAGE) as i32);
            match (self.space, self.kind) {
                (Space::Pio, Kind::UserRead) => a.in_(asm::eax, asm::dx)?,
                (Space::Pio, _) => a.out(asm::dx, asm::eax)?,
                // Not into EAX, which keeps the value to be written.
                (Space::Mmio, Kind::UserRead) => a.mov(asm::ebx, at)?,
                (Space::Mmio, _) => a.mov(at, asm::eax)?,
            }
        }
        Ok(())
    }

    /// The value that EAX holds in the loop.
    pub fn value(&self) -> u32 {
        VALUE
    }
}
