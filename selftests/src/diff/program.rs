// SPDX-License-Identifier: GPL-2.0
//! Random 64-bit programs that access RAM and MMIO, and nothing else.

use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};

use super::machine::{FS_BASE, RAM, WINDOW, WINDOW_PAGES};
use super::random::Random;
use crate::guest::PAGE;
use crate::guest::layout::port;

/// One access, and what has to be in registers before it.
#[derive(Clone)]
pub struct Step {
    registers: Vec<(u8, u64)>,
    bytes: Vec<u8>,
    /// The offset of a 32-bit displacement from the next instruction, and where it leads.
    relative: Option<(usize, u64)>,
}

/// An opcode and what follows it.
#[derive(Clone, Copy)]
struct Form {
    opcode: &'static [u8],
    /// The reg field of ModRM where it belongs to the opcode.
    digit: Option<u8>,
    immediate: Immediate,
    lockable: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Immediate {
    None,
    /// One byte.
    Byte,
    /// As long as the operand, at most 4 bytes.
    Operand,
}

const fn form(opcode: &'static [u8]) -> Form {
    Form {
        opcode,
        digit: None,
        immediate: Immediate::None,
        lockable: false,
    }
}

const fn unary(opcode: &'static [u8], digit: u8, immediate: Immediate) -> Form {
    Form {
        digit: Some(digit),
        immediate,
        lockable: true,
        ..form(opcode)
    }
}

const fn lockable(opcode: &'static [u8]) -> Form {
    Form {
        lockable: true,
        ..form(opcode)
    }
}

const MOVES: &[Form] = &[
    form(&[0x88]),
    form(&[0x89]),
    form(&[0x89]),
    form(&[0x8a]),
    form(&[0x8b]),
    form(&[0x8b]),
    form(&[0x63]),
    form(&[0x0f, 0xb6]),
    form(&[0x0f, 0xb7]),
    form(&[0x0f, 0xbe]),
    form(&[0x0f, 0xbf]),
    Form {
        lockable: false,
        ..unary(&[0xc6], 0, Immediate::Byte)
    },
    Form {
        lockable: false,
        ..unary(&[0xc7], 0, Immediate::Operand)
    },
];

/// Instructions that the fast path leaves to the emulator.
const OTHERS: &[Form] = &[
    lockable(&[0x00]),
    lockable(&[0x01]),
    lockable(&[0x09]),
    lockable(&[0x21]),
    lockable(&[0x29]),
    lockable(&[0x31]),
    form(&[0x03]),
    form(&[0x0b]),
    form(&[0x33]),
    form(&[0x39]),
    form(&[0x3b]),
    form(&[0x85]),
    lockable(&[0x86]),
    lockable(&[0x87]),
    unary(&[0x80], 1, Immediate::Byte),
    unary(&[0x81], 0, Immediate::Operand),
    unary(&[0x83], 6, Immediate::Byte),
    unary(&[0xfe], 0, Immediate::None),
    unary(&[0xff], 0, Immediate::None),
    unary(&[0xff], 1, Immediate::None),
    unary(&[0xf7], 2, Immediate::None),
];

/// Values that ring doorbells, and any.
fn value(random: &mut Random) -> u64 {
    if random.percent(60) {
        random.below(4)
    } else {
        random.next()
    }
}

/// Where an access goes. Every address up to 32 bytes on is mapped.
fn target(random: &mut Random) -> u64 {
    if random.percent(15) {
        return RAM + random.below(2 * PAGE - 64);
    }
    let page = WINDOW + random.below(WINDOW_PAGES - 1) * PAGE;
    page + match random.below(10) {
        0..4 => random.below(4) * 8,
        4..8 => random.below(PAGE - 32),
        // The end of a page, and over it.
        8 => PAGE - random.pick(&[1, 2, 4, 8]),
        _ => PAGE - 1 - random.below(16),
    }
}

/// Prefixes before REX, and what they mean.
struct Prefixes {
    bytes: Vec<u8>,
    operand_size: bool,
    short: bool,
    /// What the segment adds.
    segment: u64,
}

fn prefixes(random: &mut Random) -> Prefixes {
    let mut prefixes = Prefixes {
        bytes: Vec::new(),
        operand_size: random.percent(25),
        short: random.percent(15),
        segment: 0,
    };
    if prefixes.operand_size {
        prefixes.bytes.push(0x66);
    }
    if prefixes.short {
        prefixes.bytes.push(0x67);
    }
    if random.percent(10) {
        let segment = random.pick(&[0x26, 0x2e, 0x36, 0x3e, 0x64]);
        prefixes.bytes.push(segment);
        if segment == 0x64 {
            prefixes.segment = FS_BASE;
        }
    }
    let some = prefixes.bytes.len() as u64;
    if some > 1 {
        // In any order.
        prefixes.bytes.rotate_left(random.below(some) as usize);
    }
    prefixes
}

/// The bits of REX.
const W: u8 = 8;
const R: u8 = 4;
const X: u8 = 2;
const B: u8 = 1;

/// An operand in memory.
struct Operand {
    rex: u8,
    /// ModRM without reg.
    modrm: u8,
    sib: Option<u8>,
    displacement: Vec<u8>,
    registers: Vec<(u8, u64)>,
    relative: bool,
}

fn bit(register: u8, bit: u8) -> u8 {
    if register >= 8 { bit } else { 0 }
}

/// An operand at `target`, without its segment's base.
fn operand(random: &mut Random, target: u64, short: bool) -> Operand {
    let mut operand = Operand {
        rex: 0,
        modrm: 0,
        sib: None,
        displacement: Vec::new(),
        registers: Vec::new(),
        relative: false,
    };
    match random.below(10) {
        0..2 => {
            operand.modrm = 5;
            operand.displacement = vec![0; 4];
            operand.relative = true;
        }
        2 => {
            // Neither base nor index.
            operand.modrm = 4;
            operand.sib = Some((random.below(4) as u8) << 6 | 4 << 3 | 5);
            operand.displacement = (target as u32).to_le_bytes().to_vec();
        }
        3 => {
            // No base.
            let (index, shift) = (index(random), random.below(4) as u8);
            let displacement = (random.next() as i32 & !7) | (target & 7) as i32;
            let rest = target.wrapping_sub(displacement as u64);
            operand.modrm = 4;
            operand.sib = Some(shift << 6 | (index & 7) << 3 | 5);
            operand.rex = bit(index, X);
            operand.displacement = displacement.to_le_bytes().to_vec();
            operand.registers = vec![(index, rest >> shift)];
        }
        kind => based(random, target, kind >= 7, &mut operand),
    }
    if short {
        // What is above 32 bits must not matter.
        for (_, value) in &mut operand.registers {
            *value ^= random.next() << 32;
        }
    }
    operand
}

fn index(random: &mut Random) -> u8 {
    random.pick(&[0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15])
}

fn based(random: &mut Random, target: u64, indexed: bool, operand: &mut Operand) {
    let base = random.below(16) as u8;
    let mut rest = target;
    let mode = match random.below(3) as u8 {
        // Base 5 without a displacement means none.
        0 if base & 7 == 5 => 1,
        mode => mode,
    };
    match mode {
        1 => {
            let displacement = random.next() as i8;
            operand.displacement = displacement.to_le_bytes().to_vec();
            rest = rest.wrapping_sub(displacement as u64);
        }
        2 => {
            let displacement = random.next() as i32;
            operand.displacement = displacement.to_le_bytes().to_vec();
            rest = rest.wrapping_sub(displacement as u64);
        }
        _ => {}
    }
    operand.rex = bit(base, B);
    operand.modrm = mode << 6 | base & 7;
    let index = index(random);
    if indexed && index != base {
        let (shift, value) = (random.below(4) as u8, random.next());
        operand.registers.push((index, value));
        rest = rest.wrapping_sub(value << shift);
        operand.rex |= bit(index, X);
        operand.modrm = mode << 6 | 4;
        operand.sib = Some(shift << 6 | (index & 7) << 3 | base & 7);
    } else if base & 7 == 4 {
        operand.sib = Some(4 << 3 | 4);
    }
    operand.registers.push((base, rest));
}

/// An instruction with a ModRM byte.
fn with_modrm(random: &mut Random, form: Form) -> Step {
    let target = target(random);
    let prefixes = prefixes(random);
    let mut operand = operand(
        random,
        target.wrapping_sub(prefixes.segment),
        prefixes.short,
    );

    let register = form.digit.unwrap_or(random.below(16) as u8);
    let mut rex = operand.rex | bit(register, R);
    if random.percent(30) {
        rex |= W;
    }
    let has_rex = rex != 0 || random.percent(10);
    let mut bytes = Vec::new();
    if form.lockable && random.percent(10) && !reads_only(form) {
        bytes.push(0xf0);
    }
    bytes.extend(&prefixes.bytes);
    if has_rex {
        bytes.push(0x40 | rex);
    }
    bytes.extend(form.opcode);
    bytes.push(operand.modrm | (register & 7) << 3);
    bytes.extend(operand.sib);
    let relative = operand
        .relative
        .then_some((bytes.len(), target.wrapping_sub(prefixes.segment)));
    bytes.extend(&operand.displacement);
    let length = match form.immediate {
        Immediate::None => 0,
        Immediate::Byte => 1,
        Immediate::Operand if rex & W == 0 && prefixes.operand_size => 2,
        Immediate::Operand => 4,
    };
    bytes.extend(&value(random).to_le_bytes()[..length]);

    let is_address = |(number, _): &(u8, u64)| *number == register;
    if random.percent(60) && !operand.registers.iter().any(is_address) && form.digit.is_none() {
        operand.registers.push((register, value(random)));
    }
    Step {
        registers: operand.registers,
        bytes,
        relative,
    }
}

/// LOCK is #UD there. (None of the lockable forms, but so it stays.)
fn reads_only(form: Form) -> bool {
    matches!(form.opcode, [0x03 | 0x0b | 0x33 | 0x39 | 0x3b | 0x85])
}

/// A move between the accumulator and an absolute address.
fn absolute(random: &mut Random) -> Step {
    let prefixes = prefixes(random);
    let target = target(random).wrapping_sub(prefixes.segment);
    let mut bytes = prefixes.bytes;
    if random.percent(30) {
        bytes.push(0x40 | random.below(16) as u8);
    }
    bytes.push(0xa0 + random.below(4) as u8);
    let length = if prefixes.short { 4 } else { 8 };
    bytes.extend(&target.to_le_bytes()[..length]);
    Step {
        registers: vec![(0, value(random))],
        bytes,
        relative: None,
    }
}

/// MOVS, STOS or LODS, most of them repeated.
fn string(random: &mut Random) -> Step {
    let mut bytes = Vec::new();
    if random.percent(60) {
        bytes.push(0xf3);
    }
    if random.percent(20) {
        bytes.push(0x66);
    } else if random.percent(30) {
        bytes.push(0x48);
    }
    bytes.push(random.pick(&[0xa4, 0xa5, 0xaa, 0xab, 0xac, 0xad]));
    let registers = vec![
        (7, target(random)),
        (6, target(random)),
        (1, random.below(4)),
    ];
    Step {
        registers,
        bytes,
        relative: None,
    }
}

pub fn generate(random: &mut Random, length: usize) -> Vec<Step> {
    (0..length)
        .map(|_| match random.below(20) {
            0..14 => {
                let form = random.pick(MOVES);
                with_modrm(random, form)
            }
            14..16 => absolute(random),
            16..19 => {
                let form = random.pick(OTHERS);
                with_modrm(random, form)
            }
            _ => string(random),
        })
        .collect()
}

/// The program's bytes, to be placed at `address`.
pub fn assemble(steps: &[Step], address: u64) -> Vec<u8> {
    let mut code = Vec::new();
    for step in steps {
        for (number, value) in &step.registers {
            // movabs
            code.extend([0x48 | number >> 3, 0xb8 | number & 7]);
            code.extend(value.to_le_bytes());
        }
        let start = code.len();
        code.extend(&step.bytes);
        if let Some((offset, target)) = step.relative {
            let next = address + code.len() as u64;
            let displacement = target.wrapping_sub(next) as u32;
            code[start + offset..][..4].copy_from_slice(&displacement.to_le_bytes());
        }
    }
    code.extend([0xe6, port::DONE]);
    code
}

/// The program as text, an instruction a line.
pub fn listing(code: &[u8], address: u64) -> String {
    let mut text = String::new();
    let mut formatter = IntelFormatter::new();
    for insn in Decoder::with_ip(64, code, address, DecoderOptions::NONE).iter() {
        let start = (insn.ip() - address) as usize;
        let bytes = &code[start..start + insn.len()];
        let mut line = String::new();
        formatter.format(&insn, &mut line);
        text += &format!("{:#x}: {bytes:02x?} {line}\n", insn.ip());
    }
    text
}
