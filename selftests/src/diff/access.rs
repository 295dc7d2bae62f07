// SPDX-License-Identifier: GPL-2.0
//! Random instructions that access RAM or MMIO: all sizes and addressing forms.

use super::machine::{RAM, WINDOW_PAGES, segment_bases};
use super::program::{Guest, Step};
use super::random::Random;
use crate::guest::PAGE;

/// An opcode and what follows it.
#[derive(Clone, Copy)]
struct Form {
    opcode: &'static [u8],
    /// The reg field of ModRM where it belongs to the opcode.
    digit: Option<u8>,
    immediate: Immediate,
    lockable: bool,
    /// A prefix that is part of the opcode.
    prefix: Option<u8>,
    /// Whether an operand-size prefix would mean something else.
    no16: bool,
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
        prefix: None,
        no16: false,
    }
}

const fn with_immediate(opcode: &'static [u8], immediate: Immediate) -> Form {
    Form {
        immediate,
        ..form(opcode)
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

const fn unlockable(opcode: &'static [u8], digit: u8, immediate: Immediate) -> Form {
    Form {
        lockable: false,
        ..unary(opcode, digit, immediate)
    }
}

/// MOVDQU: 16 bytes.
const fn sixteen_bytes(opcode: &'static [u8]) -> Form {
    Form {
        prefix: Some(0xf3),
        no16: true,
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
    unlockable(&[0xc6], 0, Immediate::Byte),
    unlockable(&[0xc7], 0, Immediate::Operand),
];

/// MOVSXD; ARPL in 32-bit code.
const MOVSXD: u8 = 0x63;

/// Instructions that the fast path leaves to the emulator.
const OTHERS: &[Form] = &[
    lockable(&[0x00]),
    lockable(&[0x01]),
    lockable(&[0x09]),
    lockable(&[0x11]),
    lockable(&[0x19]),
    lockable(&[0x21]),
    lockable(&[0x29]),
    lockable(&[0x31]),
    form(&[0x02]),
    form(&[0x03]),
    form(&[0x0b]),
    form(&[0x13]),
    form(&[0x33]),
    form(&[0x38]),
    form(&[0x39]),
    form(&[0x3a]),
    form(&[0x3b]),
    form(&[0x84]),
    form(&[0x85]),
    lockable(&[0x86]),
    lockable(&[0x87]),
    with_immediate(&[0x69], Immediate::Operand),
    with_immediate(&[0x6b], Immediate::Byte),
    unary(&[0x80], 1, Immediate::Byte),
    unary(&[0x81], 0, Immediate::Operand),
    unary(&[0x83], 6, Immediate::Byte),
    unary(&[0xfe], 0, Immediate::None),
    unary(&[0xff], 0, Immediate::None),
    unary(&[0xff], 1, Immediate::None),
    unlockable(&[0xf6], 0, Immediate::Byte),
    unary(&[0xf6], 3, Immediate::None),
    unary(&[0xf7], 2, Immediate::None),
    form(&[0x0f, 0x44]),
    unlockable(&[0x0f, 0x94], 0, Immediate::None),
    form(&[0x0f, 0xaf]),
    lockable(&[0x0f, 0xb0]),
    lockable(&[0x0f, 0xb1]),
    unlockable(&[0x0f, 0xba], 4, Immediate::Byte),
    unary(&[0x0f, 0xba], 5, Immediate::Byte),
    unary(&[0x0f, 0xba], 6, Immediate::Byte),
    unary(&[0x0f, 0xba], 7, Immediate::Byte),
    lockable(&[0x0f, 0xc0]),
    lockable(&[0x0f, 0xc1]),
    // MOVNTI.
    Form {
        no16: true,
        ..form(&[0x0f, 0xc3])
    },
    sixteen_bytes(&[0x0f, 0x6f]),
    sixteen_bytes(&[0x0f, 0x7f]),
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
fn target(random: &mut Random, guest: &Guest<'_>) -> u64 {
    if random.percent(15) {
        return RAM + random.below(2 * PAGE - 64);
    }
    in_window(random, guest)
}

fn in_window(random: &mut Random, guest: &Guest<'_>) -> u64 {
    let page = guest.window() + random.below(WINDOW_PAGES - 1) * PAGE;
    page + match random.below(10) {
        0..4 => random.below(4) * 8,
        4..8 => random.below(PAGE - 32),
        // The end of a page, and over it.
        8 => PAGE - random.pick(&[1, 2, 4, 8]),
        _ => PAGE - 1 - random.below(16),
    }
}

const FS: u8 = 0x64;
const GS: u8 = 0x65;

/// Prefixes before REX, and what they mean.
struct Prefixes {
    bytes: Vec<u8>,
    operand_size: bool,
    /// The address size is not the usual one.
    short: bool,
    /// What the segment adds.
    segment: u64,
}

fn prefixes(random: &mut Random, guest: &Guest<'_>, no16: bool) -> Prefixes {
    let mut prefixes = Prefixes {
        bytes: Vec::new(),
        operand_size: !no16 && random.percent(25),
        short: random.percent(15),
        segment: 0,
    };
    if prefixes.operand_size {
        prefixes.bytes.push(0x66);
    }
    if prefixes.short {
        prefixes.bytes.push(0x67);
    }
    let segment = if prefixes.short && !guest.is_long() {
        // With 16 bits the window can only be reached from its start.
        Some(if guest.is_paged() { FS } else { GS })
    } else if random.percent(10) {
        // In 32-bit code CS is read-only.
        let cs = if guest.is_long() { 0x2e } else { 0x26 };
        Some(random.pick(&[0x26, cs, 0x36, 0x3e, FS, GS]))
    } else {
        None
    };
    if let Some(segment) = segment {
        prefixes.bytes.push(segment);
        prefixes.segment = match segment {
            FS => segment_bases(guest.mode())[0],
            GS => segment_bases(guest.mode())[1],
            _ => 0,
        };
    }
    let some = prefixes.bytes.len() as u64;
    if some > 1 {
        // In any order.
        prefixes.bytes.rotate_left(random.below(some) as usize);
    }
    prefixes
}

impl Prefixes {
    /// Whether addresses have 16 bits.
    fn addr16(&self, guest: &Guest<'_>) -> bool {
        self.short && !guest.is_long()
    }

    /// Where the access goes, as an offset in the segment.
    fn target(&self, random: &mut Random, guest: &Guest<'_>) -> u64 {
        let target = if self.addr16(guest) {
            in_window(random, guest)
        } else {
            target(random, guest)
        };
        target.wrapping_sub(self.segment)
    }
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
fn operand(random: &mut Random, guest: &Guest<'_>, target: u64, short: bool) -> Operand {
    let mut operand = Operand {
        rex: 0,
        modrm: 0,
        sib: None,
        displacement: Vec::new(),
        registers: Vec::new(),
        relative: false,
    };
    if short && !guest.is_long() {
        with_16_bits(random, target, &mut operand);
        return operand;
    }
    match random.below(10) {
        0..2 => {
            // Relative to RIP, and absolute in 32-bit code.
            operand.modrm = 5;
            operand.relative = guest.is_long();
            operand.displacement = (target as u32).to_le_bytes().to_vec();
        }
        2 => {
            // Neither base nor index.
            operand.modrm = 4;
            operand.sib = Some((random.below(4) as u8) << 6 | 4 << 3 | 5);
            operand.displacement = (target as u32).to_le_bytes().to_vec();
        }
        3 => {
            // No base.
            let (index, shift) = (index(random, guest), random.below(4) as u8);
            let displacement = (random.next() as i32 & !7) | (target & 7) as i32;
            let rest = target.wrapping_sub(displacement as u64);
            operand.modrm = 4;
            operand.sib = Some(shift << 6 | (index & 7) << 3 | 5);
            operand.rex = bit(index, X);
            operand.displacement = displacement.to_le_bytes().to_vec();
            operand.registers = vec![(index, rest >> shift)];
        }
        kind => based(random, guest, target, kind >= 7, &mut operand),
    }
    if short {
        // What is above 32 bits must not matter.
        for (_, value) in &mut operand.registers {
            *value ^= random.next() << 32;
        }
    }
    operand
}

fn index(random: &mut Random, guest: &Guest<'_>) -> u8 {
    loop {
        let index = random.below(guest.registers()) as u8;
        if index != 4 {
            break index;
        }
    }
}

fn based(
    random: &mut Random,
    guest: &Guest<'_>,
    target: u64,
    indexed: bool,
    operand: &mut Operand,
) {
    let base = random.below(guest.registers()) as u8;
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
    let index = index(random, guest);
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

/// The addressing forms of 16-bit code: the registers of each value of r/m.
const FORMS_16: [&[u8]; 8] = [&[3, 6], &[3, 7], &[5, 6], &[5, 7], &[6], &[7], &[5], &[3]];

fn with_16_bits(random: &mut Random, target: u64, operand: &mut Operand) {
    let (rm, mode) = (random.below(8) as u8, random.below(3) as u8);
    let mut rest = target as u16;
    operand.modrm = mode << 6 | rm;
    operand.displacement = match mode {
        // BP without a displacement means an absolute address.
        0 if rm == 6 => {
            operand.displacement = rest.to_le_bytes().to_vec();
            return;
        }
        0 => Vec::new(),
        1 => (random.next() as u8).to_le_bytes().to_vec(),
        _ => (random.next() as u16).to_le_bytes().to_vec(),
    };
    let displacement = match operand.displacement[..] {
        [byte] => i16::from(byte as i8),
        [low, high] => i16::from_le_bytes([low, high]),
        _ => 0,
    };
    rest = rest.wrapping_sub(displacement as u16);
    // What is above 16 bits must not matter.
    let mut load = |register, value: u16| {
        let above = random.next() << 16;
        operand.registers.push((register, above | u64::from(value)));
    };
    match *FORMS_16[usize::from(rm)] {
        [base, index] => {
            let value = rest.rotate_left(5) ^ 0x5aa5;
            load(index, value);
            load(base, rest.wrapping_sub(value));
        }
        [base] => load(base, rest),
        _ => unreachable!("one or two registers"),
    }
}

/// An instruction with a ModRM byte.
fn with_modrm(random: &mut Random, guest: &Guest<'_>, form: Form) -> Step {
    let prefixes = prefixes(random, guest, form.no16);
    let target = prefixes.target(random, guest);
    let mut operand = operand(random, guest, target, prefixes.short);

    let register = form.digit.unwrap_or(random.below(guest.registers()) as u8);
    let mut rex = operand.rex | bit(register, R);
    if guest.is_long() && random.percent(30) {
        rex |= W;
    }
    let has_rex = rex != 0 || (guest.is_long() && random.percent(10));
    let mut bytes = Vec::new();
    if form.lockable && random.percent(10) {
        bytes.push(0xf0);
    }
    bytes.extend(&prefixes.bytes);
    bytes.extend(form.prefix);
    if has_rex {
        bytes.push(0x40 | rex);
    }
    bytes.extend(form.opcode);
    bytes.push(operand.modrm | (register & 7) << 3);
    bytes.extend(operand.sib);
    let relative = operand.relative.then_some((bytes.len(), target));
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
        ..Step::default()
    }
}

/// A move between the accumulator and an absolute address.
fn absolute(random: &mut Random, guest: &Guest<'_>) -> Step {
    let prefixes = prefixes(random, guest, false);
    let target = prefixes.target(random, guest);
    let length = match (guest.is_long(), prefixes.short) {
        (true, false) => 8,
        (true, true) | (false, false) => 4,
        (false, true) => 2,
    };
    let mut bytes = prefixes.bytes;
    if guest.is_long() && random.percent(30) {
        bytes.push(0x40 | random.below(16) as u8);
    }
    bytes.push(0xa0 + random.below(4) as u8);
    bytes.extend(&target.to_le_bytes()[..length]);
    Step {
        registers: vec![(0, value(random))],
        bytes,
        ..Step::default()
    }
}

/// MOVS, STOS, LODS, CMPS or SCAS, most of them repeated, some downwards.
fn string(random: &mut Random, guest: &Guest<'_>) -> Step {
    let mut bytes = Vec::new();
    let down = random.percent(20);
    if down {
        bytes.push(0xfd);
    }
    if random.percent(60) {
        bytes.push(random.pick(&[0xf2, 0xf3]));
    }
    if random.percent(20) {
        bytes.push(0x66);
    } else if guest.is_long() && random.percent(30) {
        bytes.push(0x48);
    }
    bytes.push(random.pick(&[
        0xa4, 0xa5, 0xa4, 0xa5, 0xaa, 0xab, 0xac, 0xad, 0xa6, 0xa7, 0xae, 0xaf,
    ]));
    if down {
        bytes.push(0xfc);
    }
    // Room for as many elements below as above.
    let below = if down { 32 } else { 0 };
    let mut pointer = || target(random, guest) + below;
    let registers = vec![(7, pointer()), (6, pointer()), (1, random.below(4))];
    Step {
        registers,
        bytes,
        ..Step::default()
    }
}

/// An instruction that accesses memory.
pub fn access(random: &mut Random, guest: &Guest<'_>) -> Step {
    match random.below(20) {
        0..13 => {
            let form = random.pick(MOVES);
            if form.opcode == [MOVSXD] && !guest.is_long() {
                return absolute(random, guest);
            }
            with_modrm(random, guest, form)
        }
        13..15 => absolute(random, guest),
        15..19 => {
            let form = random.pick(OTHERS);
            with_modrm(random, guest, form)
        }
        _ => string(random, guest),
    }
}
