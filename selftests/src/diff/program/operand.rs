// SPDX-License-Identifier: GPL-2.0
//! Where an access goes, and operands of all forms that lead there.

use super::step::Guest;
use crate::diff::space::{RAM, WINDOW_PAGES, segment_bases};
use crate::guest::PAGE;
use crate::random::Random;

/// Where an access goes. Every address up to 32 bytes on is mapped.
pub fn target(random: &mut Random, guest: &Guest<'_>) -> u64 {
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
pub struct Prefixes {
    pub bytes: Vec<u8>,
    pub operand_size: bool,
    /// The address size is not the usual one.
    pub short: bool,
    /// What the segment adds.
    segment: u64,
}

pub fn prefixes(random: &mut Random, guest: &Guest<'_>, no16: bool) -> Prefixes {
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
    pub fn target(&self, random: &mut Random, guest: &Guest<'_>) -> u64 {
        let target = if self.addr16(guest) {
            in_window(random, guest)
        } else {
            target(random, guest)
        };
        target.wrapping_sub(self.segment)
    }
}

/// The bits of REX.
pub const W: u8 = 8;
pub const R: u8 = 4;
pub const X: u8 = 2;
pub const B: u8 = 1;

/// An operand in memory.
pub struct Operand {
    pub rex: u8,
    /// ModRM without reg.
    pub modrm: u8,
    pub sib: Option<u8>,
    pub displacement: Vec<u8>,
    pub registers: Vec<(u8, u64)>,
    pub relative: bool,
}

pub fn bit(register: u8, bit: u8) -> u8 {
    if register >= 8 { bit } else { 0 }
}

/// An operand at `target`, without its segment's base.
pub fn operand(random: &mut Random, guest: &Guest<'_>, target: u64, short: bool) -> Operand {
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
