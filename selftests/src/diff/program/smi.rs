// SPDX-License-Identifier: GPL-2.0
//! System management interrupts, whose handlers access MMIO from other memslots.

use super::step::Step;
use crate::diff::slots::HostOp;
use crate::diff::smm::COUNT;
use crate::diff::space::{RAM, WINDOW_PAGES};
use crate::guest::PAGE;
use crate::guest::layout::MMIO_GPA;
use crate::random::Random;

/// An interrupt before the next instruction, with a handler of a few copies.
pub fn step(random: &mut Random) -> Step {
    let copies = 1 + random.below(3);
    let mut handler: Vec<u8> = (0..copies).flat_map(|_| copy(random)).collect();
    // inc dword ptr [COUNT]; rsm
    handler.extend([0x66, 0x67, 0xff, 0x05]);
    handler.extend((COUNT as u32).to_le_bytes());
    handler.extend([0x0f, 0xaa]);
    Step {
        host: Some(HostOp::Smi(handler)),
        ..Step::default()
    }
}

/// 16-bit code that copies 1, 2 or 4 bytes through the accumulator, between absolute addresses of
/// 32 bits: registers are restored by RSM, memory tells what was read.
fn copy(random: &mut Random) -> Vec<u8> {
    let (wide, dword) = (u8::from(random.percent(75)), random.percent(60));
    let mut code = Vec::new();
    // MOV from memory, MOV to memory.
    for opcode in [0xa0, 0xa2] {
        if dword {
            code.push(0x66);
        }
        code.extend([0x67, opcode | wide]);
        code.extend((target(random) as u32).to_le_bytes());
    }
    code
}

fn target(random: &mut Random) -> u64 {
    let (base, pages) = if random.percent(30) {
        (RAM, 1)
    } else {
        (MMIO_GPA, WINDOW_PAGES - 1)
    };
    let offset = match random.below(3) {
        0 => random.below(4) * 8,
        1 => random.below(PAGE),
        // The end of a page, and over it.
        _ => PAGE - 1 - random.below(4),
    };
    base + random.below(pages) * PAGE + offset
}
