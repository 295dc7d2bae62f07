// SPDX-License-Identifier: GPL-2.0
//! The instructions of one turn of the loop that is measured.

use iced_x86::IcedError;
use iced_x86::code_asm::{self as asm, CodeAssembler};

use super::places::{Sites, TABLE, TABLE_ENTRY};
use super::row::{Row, Space, Value};
use crate::guest::operand;

/// Whether a loop makes the accesses, or is all that is around them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loop {
    Full,
    Empty,
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
