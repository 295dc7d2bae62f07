// SPDX-License-Identifier: GPL-2.0
//! The instructions that access memory and have a ModRM byte.

/// An opcode and what follows it.
#[derive(Clone, Copy)]
pub struct Form {
    pub opcode: &'static [u8],
    /// The reg field of ModRM where it belongs to the opcode.
    pub digit: Option<u8>,
    pub immediate: Immediate,
    pub lockable: bool,
    /// A prefix that is part of the opcode.
    pub prefix: Option<u8>,
    /// Whether an operand-size prefix would mean something else.
    pub no16: bool,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Immediate {
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

pub const MOVES: &[Form] = &[
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
pub const MOVSXD: u8 = 0x63;

/// Instructions that the fast path leaves to the emulator.
pub const OTHERS: &[Form] = &[
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
