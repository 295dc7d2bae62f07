// SPDX-License-Identifier: GPL-2.0
//! The instructions of one turn of the loop that is measured.

use iced_x86::IcedError;
use iced_x86::code_asm::{self as asm, CodeAssembler};

use super::row::{Places, Row, Sites, Space, Value};
use crate::guest::layout::{RAM_SIZE, SCRATCH};
use crate::guest::{Machine, PAGE, operand};

/// Whether a loop makes the accesses, or is all that is around them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loop {
    Full,
    Empty,
}

/// The table of [`Sites::One`] and [`Sites::Spaces`] in the guest's memory: of each place the address,
/// then the value, or the root of the page tables.
const TABLE: u64 = SCRATCH;
const TABLE_ENTRY: u64 = 16;

/// The roots, a page each: up to the end of the guest's memory.
const ROOTS: u64 = SCRATCH + 0x10_0000;
const MOST_ROOTS: u64 = (RAM_SIZE - ROOTS) / PAGE;

impl Places {
    /// Bytes from the first place to number `place`.
    pub fn offset(&self, place: u64) -> u64 {
        place * self.stride
    }

    /// How many different places there are.
    pub fn distinct(&self) -> u64 {
        match self.sites {
            Sites::Each | Sites::One if self.stride != 0 => self.count,
            _ => 1,
        }
    }

    /// Writes what [`Row::turn`] reads; the linear addresses start at `gva`.
    pub fn write_table(&self, machine: &Machine, gva: u64) {
        for place in 0..self.count {
            let at = TABLE + place * TABLE_ENTRY;
            let second = match self.sites {
                Sites::Spaces => new_root(machine, place),
                Sites::Each | Sites::One => place,
            };
            machine.ram().write_u64(at, gva + self.offset(place));
            machine.ram().write_u64(at + 8, second);
        }
    }
}

fn new_root(machine: &Machine, place: u64) -> u64 {
    assert!(place < MOST_ROOTS, "no room for root {place}");
    let root = ROOTS + place * PAGE;
    machine.copy_root(root);
    root
}

impl Row {
    /// One access to each place. DI holds the address of the first, DX the port, RAX the value;
    /// of a row of [`Value::Changes`], R10 the last value.
    pub fn turn(&self, a: &mut CodeAssembler, which: Loop) -> Result<(), IcedError> {
        match self.places.sites {
            Sites::Each => {
                (0..self.places.count).try_for_each(|place| self.at_its_own_site(a, which, place))
            }
            Sites::One | Sites::Spaces => self.by_table(a, which),
        }
    }

    fn at_its_own_site(
        &self,
        a: &mut CodeAssembler,
        which: Loop,
        place: u64,
    ) -> Result<(), IcedError> {
        match self.value {
            Value::Same => {}
            Value::Number => a.mov(asm::eax, place as u32)?,
            Value::Changes => new_value(a)?,
        }
        self.access(a, which, self.places.offset(place) as i32)
    }

    /// As a driver's function for all its registers: the same instruction goes round them.
    fn by_table(&self, a: &mut CodeAssembler, which: Loop) -> Result<(), IcedError> {
        let mut again = a.create_label();
        a.mov(asm::r8d, TABLE as u32)?;
        a.mov(asm::r9d, self.places.count as u32)?;
        a.set_label(&mut again)?;
        a.mov(asm::rdi, asm::qword_ptr(asm::r8))?;
        match self.value {
            Value::Same => {}
            Value::Number => a.mov(asm::eax, asm::dword_ptr(asm::r8 + 8))?,
            Value::Changes => new_value(a)?,
        }
        if self.places.sites == Sites::Spaces {
            a.mov(asm::r11, asm::qword_ptr(asm::r8 + 8))?;
            a.mov(asm::cr3, asm::r11)?;
        }
        a.add(asm::r8, TABLE_ENTRY as i32)?;
        self.access(a, which, 0)?;
        a.dec(asm::r9d)?;
        a.jne(again)
    }

    /// The access, at DI plus `offset`.
    fn access(&self, a: &mut CodeAssembler, which: Loop, offset: i32) -> Result<(), IcedError> {
        match (which, self.space) {
            (Loop::Empty, _) => Ok(()),
            (Loop::Full, Space::Pio) => self.insn.emit_port(a),
            (Loop::Full, Space::None) => self.insn.emit_other(a),
            (Loop::Full, Space::Mmio) => {
                let at = operand(self.mode, offset);
                self.insn.emit_mmio(a, at, self.rings())
            }
        }
    }
}

fn new_value(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.inc(asm::r10d)?;
    a.mov(asm::eax, asm::r10d)
}
