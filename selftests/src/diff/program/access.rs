// SPDX-License-Identifier: GPL-2.0
//! Random instructions that access RAM or MMIO: all sizes and addressing forms.

use super::form::{Form, Immediate, MOVES, MOVSXD, OTHERS};
use super::operand::{R, W, bit, operand, prefixes, target};
use super::step::{Guest, Step};
use crate::random::Random;

/// Values that ring doorbells, and any.
fn value(random: &mut Random) -> u64 {
    if random.percent(60) {
        random.below(4)
    } else {
        random.next()
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
