// SPDX-License-Identifier: GPL-2.0
//! A kind of access that is measured, and the guest that it needs.

use std::io::ErrorKind;
use std::iter;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use vmm_sys_util::eventfd::EventFd;

use super::insn::Insn;
use super::places::{Places, Sites};
use crate::guest::layout::port;
use crate::guest::{
    Bus, Doorbell, Machine, Match, Mode, PAGE, Region, Registers, Request, SlotKind, Vcpu,
    new_event, on_read, on_write, signal,
};

/// How the access leaves the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Space {
    /// Port I/O: needs no page tables and no emulator; the limit of what MMIO can reach.
    Pio,
    Mmio,
    /// It is no access, but another exit.
    None,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is an exit to userspace.
    User,
    /// An ioeventfd takes it; userspace does not see it. A datamatch is the value written.
    Event(Event),
    /// It is an exit to userspace, as the ioeventfd there, which was rung before, waits for another
    /// value.
    Missed,
    /// KVM does it.
    Kvm,
    /// It goes to a ring in memory.
    Coalesced,
    /// A register of the extension answers by itself; writes signal an eventfd.
    Posted(OnWrite),
}

/// What a write does to the word of a register. A read returns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnWrite {
    Store,
    Clear,
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

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    Same,
    /// The number of the place, as virtio's drivers write that of the queue.
    Number,
    /// A new value each time, as NVMe's drivers write the tail of a queue. For 64-bit guests.
    Changes,
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
    /// What is accessed in turn.
    pub places: Places,
    pub value: Value,
    /// Memslots of the guest.
    pub slots: u32,
    /// The places are memory that the guest may only read.
    pub read_only: bool,
    /// The guest's data segment is not the whole address space. For 32-bit guests.
    pub segments: bool,
    /// ioeventfds at each place, each with its datamatch; the guest rings the one that was
    /// registered last.
    pub doorbells: u32,
    /// ioeventfds elsewhere on the MMIO bus.
    pub others: u32,
    /// vCPUs that do this at the same time.
    pub vcpus: u64,
}

/// What a guest needs as long as it runs.
pub struct Fixture {
    /// Of the places; they share an eventfd.
    doorbells: Vec<Doorbell>,
    _others: Vec<Doorbell>,
    registers: Option<Posted>,
    /// Words of registers, too, hence last.
    _memory: Region,
    _read_only: Option<Region>,
}

/// Registers that share an eventfd.
struct Posted {
    _file: Registers,
    event: Arc<EventFd>,
    signals: bool,
}

impl Posted {
    fn rings(&self) -> Result<Option<u64>> {
        match self.event.read() {
            _ if !self.signals => Ok(None),
            Ok(count) => Ok(Some(count)),
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(Some(0)),
            Err(e) => Err(e).context("reading an eventfd"),
        }
    }
}

impl Fixture {
    /// How often ioeventfds have taken an access since the last call; None if the row has none.
    pub fn rings(&self) -> Result<Option<u64>> {
        match &self.registers {
            Some(posted) => posted.rings(),
            None => self.doorbells.first().map(Doorbell::rings).transpose(),
        }
    }
}

/// Where other ioeventfds are: at lower addresses, so that a search from the start meets them.
const OTHERS_GPA: u64 = 0xc000_0000;
const OTHERS_STRIDE: u64 = 16;

/// Where memslots go that are just there: above 4 GiB, so that they meet nothing else.
const SLOTS_GPA: u64 = 1 << 32;

impl Row {
    /// In words, for the table.
    pub fn describe(&self) -> String {
        let space = match self.space {
            Space::Pio => "port ",
            Space::Mmio => "MMIO ",
            Space::None => "",
        };
        let kind = match self.kind {
            Kind::User => "exit to userspace",
            Kind::Missed => "exit to userspace, ioeventfd with another datamatch",
            Kind::Kvm => "exit to KVM",
            Kind::Event(Event::DataMatch) => "ioeventfd with datamatch",
            Kind::Event(Event::Length) => "ioeventfd of this length",
            Kind::Event(Event::Any) => "ioeventfd of zero length",
            Kind::Coalesced => "coalesced",
            Kind::Posted(_) if self.insn.is_load() => "register of the extension",
            Kind::Posted(OnWrite::Store) => "register of the extension, store and signal",
            Kind::Posted(OnWrite::Clear) => "register of the extension, clear and signal",
        };
        let mode = match self.mode {
            Mode::Long => "",
            Mode::La57 => ", 5-level paging",
            Mode::Pae => ", 32-bit with PAE",
            Mode::Legacy => ", 32-bit with 2-level paging",
            Mode::Flat => ", 32-bit without paging",
        };
        let segments = if self.segments {
            ", a limited segment"
        } else {
            ""
        };
        let many = |count: u64, what: &str| {
            if count > 1 {
                format!(", {count} {what}")
            } else {
                String::new()
            }
        };
        let value = match self.value {
            Value::Same => "",
            Value::Number => ", each with its number",
            Value::Changes => ", a new value each time",
        };
        let read_only = if self.read_only {
            ", in a read-only memslot"
        } else {
            ""
        };
        [
            format!("{space}{}, {kind}{mode}", self.insn),
            many(self.places.count, self.places.describe()),
            value.to_owned(),
            read_only.to_owned(),
            segments.to_owned(),
            many(self.slots.into(), "memslots"),
            many(self.doorbells.into(), "ioeventfds"),
            match self.others {
                0 => String::new(),
                1 => ", 1 other ioeventfd".to_owned(),
                others => format!(", {others} other ioeventfds"),
            },
            many(self.vcpus, "vCPUs"),
        ]
        .concat()
    }

    fn bus(&self, machine: &Machine, place: u64) -> Bus {
        match self.space {
            Space::Pio => Bus::Pio(port::BENCH),
            Space::Mmio | Space::None => Bus::Mmio(machine.gpa(0) + self.places.offset(place)),
        }
    }

    /// What the ioeventfd of a row of [`Kind::Missed`] waits for.
    fn missed_value(&self) -> u64 {
        u64::from(self.rings()) + 1
    }

    /// Has the guest do what comes before its loop, with the extension on.
    pub fn begin(&self, machine: &Machine, vcpu: &mut Vcpu) -> Result<()> {
        /// Until the ioeventfd is known.
        const RINGS: u64 = 3;
        if (self.kind, self.space) == (Kind::Missed, Space::Mmio) {
            for _ in 0..RINGS {
                let events = vcpu.write(machine.gva(0), self.len() as u8, self.missed_value())?;
                ensure!(events.is_empty(), "{events:?}: the ioeventfd is not rung");
            }
        }
        Ok(())
    }

    /// Bytes written.
    fn len(&self) -> u32 {
        match self.insn {
            Insn::Store(size) => size,
            _ => 4,
        }
    }

    /// What takes the accesses, for programs that read JSON.
    pub fn receiver(&self) -> &'static str {
        match self.kind {
            Kind::User => "userspace",
            Kind::Missed => "missed",
            Kind::Kvm => "kvm",
            Kind::Event(Event::DataMatch) => "datamatch",
            Kind::Event(Event::Length) => "length",
            Kind::Event(Event::Any) => "zero_length",
            Kind::Coalesced => "coalesced",
            Kind::Posted(_) => "register",
        }
    }

    /// Registers what takes the accesses, makes the memslots, and writes what the guest reads.
    pub fn prepare(&self, machine: &Machine) -> Result<Fixture> {
        let memory = Region::new(PAGE).context("memory for the guest")?;
        for slot in 1..self.slots {
            let gpa = SLOTS_GPA + u64::from(slot) * 2 * PAGE;
            machine.set_slot(slot, gpa, &memory, SlotKind::Ram)?;
        }
        machine.widen_window(self.places.offset(self.places.count).div_ceil(PAGE));
        if self.places.sites != Sites::Each {
            self.places.write_table(machine, machine.gva(0));
        }
        let read_only = self.read_only.then(|| self.read_only_memory(machine));
        let read_only = read_only.transpose()?;
        // On the bus in this order.
        let others = machine.doorbells(self.others(machine))?;
        Ok(Fixture {
            doorbells: self.receivers(machine)?,
            _others: others,
            registers: match self.kind {
                Kind::Posted(on_write) => Some(self.register(machine, &memory, on_write)?),
                _ => None,
            },
            _memory: memory,
            _read_only: read_only,
        })
    }

    /// ioeventfds that take nothing of what is measured.
    fn others(&self, machine: &Machine) -> impl Iterator<Item = (Bus, Match)> {
        let len = self.len();
        let elsewhere = (0..u64::from(self.others)).map(move |number| {
            let bus = Bus::Mmio(OTHERS_GPA + number * OTHERS_STRIDE);
            (bus, Match::Len(len))
        });
        let value = self.missed_value();
        let missed =
            (self.kind == Kind::Missed).then(|| (self.bus(machine, 0), Match::Data { len, value }));
        elsewhere.chain(missed)
    }

    fn read_only_memory(&self, machine: &Machine) -> Result<Region> {
        let pages = self.places.offset(self.places.count).div_ceil(PAGE);
        let memory = Region::new(pages * PAGE).context("memory to read")?;
        machine.set_slot(self.slots, machine.gpa(0), &memory, SlotKind::ReadOnly)?;
        Ok(memory)
    }

    fn receivers(&self, machine: &Machine) -> Result<Vec<Doorbell>> {
        let places = (0..self.places.distinct()).map(|place| self.bus(machine, place));
        match self.kind {
            Kind::User | Kind::Missed | Kind::Kvm | Kind::Posted(_) => Ok(Vec::new()),
            Kind::Coalesced => {
                for bus in places {
                    machine.coalesce(bus, self.len())?;
                }
                Ok(Vec::new())
            }
            Kind::Event(event) => machine.doorbells(places.flat_map(|bus| {
                let values = 1..=self.doorbells;
                iter::repeat(bus).zip(values.map(move |value| self.matches(event, value)))
            })),
        }
    }

    fn register(&self, machine: &Machine, memory: &Region, on_write: OnWrite) -> Result<Posted> {
        let file = Registers::open()?.context("the extension is not loaded")?;
        let event = new_event()?;
        for place in 0..self.places.distinct() {
            file.add(&Request {
                gpa: machine.gpa(0) + self.places.offset(place),
                user_addr: memory.hva(),
                len: self.len(),
                vm_fd: machine.vm().as_raw_fd(),
                event_fd: event.as_raw_fd(),
                on_write: match on_write {
                    OnWrite::Store => on_write::STORE,
                    OnWrite::Clear => on_write::CLEAR,
                },
                on_read: on_read::RETURN,
                signal: signal::ALWAYS,
                ..Default::default()
            })
            .context("KVM_MMIO_REGISTER_ADD")?;
        }
        Ok(Posted {
            _file: file,
            event,
            // Reads do not.
            signals: !self.insn.is_load(),
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

    /// The value that RAX holds in the loop, unless it is to hold others: the last datamatch.
    pub fn rings(&self) -> u32 {
        self.doorbells
    }
}
