// SPDX-License-Identifier: GPL-2.0
//! Programs as machine code, and as text.

use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};

use super::step::{L2, Step};
use crate::diff::nested;
use crate::diff::slots::HostOp;
use crate::guest::Mode;
use crate::guest::layout::{SMM_HANDLER, port};

/// A program as it runs.
pub struct Program {
    pub code: Vec<u8>,
    /// What the host does at each exit to [`port::HOST`], in order.
    pub host: Vec<HostOp>,
}

impl Program {
    /// Assembles steps for the place where the program goes.
    pub fn assemble(steps: &[Step], mode: Mode, address: u64) -> Self {
        let mut program = Self {
            code: Vec::new(),
            host: Vec::new(),
        };
        for step in steps {
            program.add(step, mode, address);
        }
        for step in steps.iter().rev() {
            if let Some(undo) = &step.undo {
                program.add(undo, mode, address);
            }
        }
        program.code.extend([0xe6, port::DONE]);
        program
    }

    fn add(&mut self, step: &Step, mode: Mode, address: u64) {
        if let Some(l2) = &step.l2 {
            self.add_l2(l2, mode, address);
        }
        let code = &mut self.code;
        for (number, value) in &step.registers {
            // movabs, and mov with 32 bits.
            if mode.is_long() {
                code.extend([0x48 | number >> 3, 0xb8 | number & 7]);
                code.extend(value.to_le_bytes());
            } else {
                code.push(0xb8 | number);
                code.extend((*value as u32).to_le_bytes());
            }
        }
        let start = code.len();
        code.extend(&step.bytes);
        if let Some((offset, target)) = step.relative {
            let next = address + code.len() as u64;
            let displacement = target.wrapping_sub(next) as u32;
            code[start + offset..][..4].copy_from_slice(&displacement.to_le_bytes());
        }
        if let Some(op) = &step.host {
            code.extend([0xe6, port::HOST]);
            self.host.push(op.clone());
        }
    }

    /// The code of L2, with a jump over it, and that which runs it twice.
    fn add_l2(&mut self, l2: &L2, mode: Mode, address: u64) {
        // jmp over it
        self.code.extend([0xe9, 0, 0, 0, 0]);
        let start = self.code.len();
        for step in &l2.steps {
            self.add(step, mode, address);
        }
        self.code.extend(nested::END);
        let length = (self.code.len() - start) as u32;
        self.code[start - 4..start].copy_from_slice(&length.to_le_bytes());
        // The second time KVM knows all pages.
        for _ in 0..2 {
            self.code.extend(l2.entry.code(address + start as u64));
        }
    }

    /// The program as text, an instruction a line.
    pub fn listing(&self, mode: Mode, address: u64) -> String {
        let mut text = String::new();
        let mut host = self.host.iter();
        for (bytes, line) in disassemble(&self.code, mode.bits(), address) {
            text += &line;
            match (bytes == [0xe6, port::HOST]).then(|| host.next()).flatten() {
                Some(HostOp::Smi(handler)) => {
                    text += "  ; SMI";
                    for (_, line) in disassemble(handler, 16, SMM_HANDLER) {
                        text += &format!("\n    {line}");
                    }
                }
                Some(op) => text += &format!("  ; {op:x?}"),
                None => {}
            }
            text += "\n";
        }
        text
    }
}

/// The bytes of each instruction, and a line of text.
fn disassemble(code: &[u8], bits: u32, address: u64) -> impl Iterator<Item = (&[u8], String)> {
    let mut formatter = IntelFormatter::new();
    let mut decoder = Decoder::with_ip(bits, code, address, DecoderOptions::NONE);
    std::iter::from_fn(move || {
        let start = decoder.position();
        let insn = decoder.can_decode().then(|| decoder.decode())?;
        let bytes = &code[start..decoder.position()];
        let mut line = String::new();
        formatter.format(&insn, &mut line);
        Some((bytes, format!("{:#x}: {bytes:02x?} {line}", insn.ip())))
    })
}
