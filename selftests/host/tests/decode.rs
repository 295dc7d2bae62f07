// SPDX-License-Identifier: GPL-2.0
//! The fast path's decoder against iced-x86, as the second opinion on every byte.
//!
//! `DECODE_FUZZ=N` sets the number of random byte strings, `DECODE_SEED=N` the first of them.

use std::collections::BTreeMap;
use std::thread;

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register as Reg};
use kvm_mmio_ext::pure::code_address::CodeAddress;
use kvm_mmio_ext::pure::decode::{decode, Access, Base, CodeKind, Operation, MAX_LENGTH};
use kvm_mmio_ext::pure::gpr::Extend;
use kvm_mmio_ext::pure::plan::Plan;

const KINDS: [CodeKind; 2] = [CodeKind::Long, CodeKind::Flat];

/// Where the instruction is: an address whose sum with a displacement carries out of 32 bits.
fn rip(kind: CodeKind) -> u64 {
    match kind {
        CodeKind::Long => 0x0000_7ffe_ffff_fff9,
        CodeKind::Flat => 0xffff_fff9,
    }
}

fn bits(kind: CodeKind) -> u32 {
    match kind {
        CodeKind::Long => 64,
        CodeKind::Flat => 32,
    }
}

fn is_rex(byte: u8, kind: CodeKind) -> bool {
    kind == CodeKind::Long && (0x40..=0x4f).contains(&byte)
}

/// Of the segments that have one in 64-bit mode.
const SEGMENT_BASE: u64 = 0x1234_5000;

/// xorshift64*, the same sequence on each machine.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        ((self.next() >> 32) as usize * end) >> 32
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// The general registers of a vCPU.
    fn registers(&mut self) -> [u64; 16] {
        std::array::from_fn(|_| self.next())
    }
}

/// What a byte string turned out to be.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Verdict {
    /// Decoded by both to the same.
    Accepted,
    /// Refused, and neither a move nor an access to memory.
    Other,
    /// A move to or from memory that is refused, for this reason.
    Refused(&'static str),
}

/// Moves that the decoder has to know or to refuse for a reason.
fn is_move_of_memory(insn: &Instruction) -> bool {
    matches!(
        insn.mnemonic(),
        Mnemonic::Mov | Mnemonic::Movzx | Mnemonic::Movsx | Mnemonic::Movsxd
    ) && (0..insn.op_count()).any(|n| insn.op_kind(n) == OpKind::Memory)
}

fn data_register(insn: &Instruction) -> Option<Reg> {
    (0..insn.op_count())
        .find(|n| insn.op_kind(*n) == OpKind::Register)
        .map(|n| insn.op_register(n))
}

/// Why a move with an operand in memory is refused: all the reasons that there are.
fn reason(insn: &Instruction, bytes: &[u8], kind: CodeKind) -> Option<&'static str> {
    let data = data_register(insn);
    let opcode = bytes
        .iter()
        .position(|b| !is_legacy_prefix(*b) && !is_rex(*b, kind))?;
    let rex_is_void = (0..opcode.saturating_sub(1)).any(|n| is_rex(bytes[n], kind));
    let flat_has = |prefixes: &[u8]| {
        kind == CodeKind::Flat && bytes[..opcode].iter().any(|b| prefixes.contains(b))
    };
    Some(match insn.memory_segment() {
        Reg::FS | Reg::GS => "FS or GS",
        // An override of a second one.
        _ if bytes[..opcode].iter().any(|b| matches!(b, 0x64 | 0x65)) => "FS or GS, overridden",
        _ if flat_has(&[0x26, 0x2e, 0x36, 0x3e]) => "ES, CS, SS or DS in 32-bit code",
        _ if flat_has(&[0x67]) => "16-bit address",
        _ if rex_is_void => "prefix or REX behind REX",
        _ if bytes[..opcode].iter().any(|b| matches!(b, 0xf2 | 0xf3)) => "REPNE or REP",
        _ if data.is_some_and(|r| r.is_segment_register()) => "segment register",
        _ if data.is_some_and(|r| r.full_register() == Reg::RSP) => "RSP as data",
        _ if insn.mnemonic() == Mnemonic::Movsxd && insn.code() != Code::Movsxd_r64_rm32 => {
            "MOVSXD without REX.W"
        }
        _ => return None,
    })
}

fn is_legacy_prefix(byte: u8) -> bool {
    matches!(
        byte,
        0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0x66 | 0x67 | 0xf0 | 0xf2 | 0xf3
    )
}

/// Number of a general register and how far its part in question is shifted.
fn number(register: Reg) -> (u8, u32) {
    match register {
        Reg::AH | Reg::CH | Reg::DH | Reg::BH => ((register as u32 - Reg::AH as u32) as u8, 8),
        _ => ((register.full_register() as u32 - Reg::RAX as u32) as u8, 0),
    }
}

fn low(value: u64, bytes: usize) -> u64 {
    value & (u64::MAX >> (64 - 8 * bytes))
}

/// What the register file holds after `insn` has loaded `value`: by the manual, of iced's terms.
fn loaded(insn: &Instruction, old: u64, value: u64) -> u64 {
    let register = insn.op0_register();
    let from = insn.memory_size().size();
    let value = match insn.mnemonic() {
        Mnemonic::Movsx | Mnemonic::Movsxd => {
            let unused = 64 - 8 * from as u32;
            ((value << unused) as i64 >> unused) as u64
        }
        _ => low(value, from),
    };
    let to = register.size();
    match to {
        8 => value,
        // The upper half is cleared.
        4 => low(value, 4),
        _ => {
            let (_, shift) = number(register);
            let mask = low(u64::MAX, to) << shift;
            old & !mask | value << shift & mask
        }
    }
}

/// Both read the same; everything is compared with the registers given.
fn compare(
    access: &Access,
    insn: &Instruction,
    bytes: &[u8],
    registers: &[u64; 16],
    kind: CodeKind,
) {
    let what = || format!("{:02x?}: {access:x?} but {insn:?}", &bytes[..insn.len()]);
    assert!(is_move_of_memory(insn), "{}", what());
    assert!(!insn.has_lock_prefix(), "{}", what());
    assert_eq!(usize::from(access.length), insn.len(), "{}", what());
    assert_eq!(
        usize::from(access.size),
        insn.memory_size().size(),
        "{}",
        what()
    );

    let next_rip = low(
        rip(kind).wrapping_add(access.length.into()),
        bits(kind) as usize / 8,
    );
    let memory = (0..insn.op_count())
        .find(|n| insn.op_kind(*n) == OpKind::Memory)
        .unwrap();
    let want = insn
        .virtual_address(memory, 0, |register, _, _| {
            Some(match register {
                Reg::FS | Reg::GS => SEGMENT_BASE,
                _ if register.is_segment_register() => 0,
                _ => low(registers[usize::from(number(register).0)], register.size()),
            })
        })
        .unwrap();
    let plan = Plan::new(access, CodeAddress::new(rip(kind), kind));
    assert_eq!(
        (plan.next_rip, plan.size),
        (next_rip, access.size),
        "{}",
        what()
    );
    let got = plan.address(|n| registers[usize::from(n)]).0;
    assert_eq!(got, want, "address: {}", what());
    if let Base::Register(base) = access.address.base {
        assert!(base < 16, "{}", what());
    }

    match access.operation {
        Operation::StoreImmediate(value) => {
            assert_eq!(memory, 0, "{}", what());
            let size = access.size.into();
            assert_eq!(value, low(insn.immediate(1), size), "{}", what());
            assert_eq!(
                plan.stored(|n| registers[usize::from(n)]),
                value,
                "{}",
                what()
            );
        }
        Operation::Store(register) => {
            assert_eq!(memory, 0, "{}", what());
            let (n, shift) = number(insn.op1_register());
            assert_eq!(register.number, n, "{}", what());
            let value = registers[usize::from(n)];
            let want = low(value >> shift, insn.op1_register().size());
            let got = plan.stored(|n| registers[usize::from(n)]);
            assert_eq!(got, want, "{}", what());
        }
        Operation::Load { register, extend } => {
            assert_eq!(memory, 1, "{}", what());
            let (n, _) = number(insn.op0_register());
            assert_eq!(register.number, n, "{}", what());
            let plain = insn.mnemonic() == Mnemonic::Mov;
            assert_eq!(extend == Extend::Plain, plain, "{}", what());
            let old = registers[usize::from(n)];
            // Of either sign, and with bits that do not belong to the operand.
            for value in [registers[0], !registers[0], 0x80, 0x8000, 0x8000_0000] {
                assert_eq!(
                    register.loaded(old, value, access.size, extend),
                    loaded(insn, old, value),
                    "loads {value:#x} over {old:#x}: {}",
                    what()
                );
            }
        }
    }
}

/// Decodes `bytes` both ways. Fails where the fast path's decoder takes what it should not, or
/// refuses for no reason.
fn check(bytes: &[u8], registers: &[u64; 16], kind: CodeKind) -> Verdict {
    let insn = Decoder::with_ip(bits(kind), bytes, rip(kind), DecoderOptions::NONE).decode();
    if let Some(access) = decode(bytes, kind) {
        compare(&access, &insn, bytes, registers, kind);
        // It depends on the bytes of the instruction only, and on all of them being there.
        let length = usize::from(access.length);
        assert_eq!(decode(&bytes[..length], kind), Some(access), "{bytes:02x?}");
        assert_eq!(decode(&bytes[..length - 1], kind), None, "{bytes:02x?}");
        return Verdict::Accepted;
    }
    if insn.is_invalid() || !is_move_of_memory(&insn) {
        return Verdict::Other;
    }
    match reason(&insn, &bytes[..insn.len()], kind) {
        Some(reason) => Verdict::Refused(reason),
        None => panic!("{:02x?} is refused: {insn:?}", &bytes[..insn.len()]),
    }
}

/// How many byte strings had each verdict.
type Table = BTreeMap<Verdict, u64>;

fn print(title: &str, table: &Table) {
    println!("{title}: {} byte strings", table.values().sum::<u64>());
    for (verdict, count) in table {
        println!("{count:12} {verdict:?}");
    }
}

/// What is behind the bytes that are tried one by one: every byte differs and has its sign set.
const TAIL: [u8; 16] = [
    0x91, 0xa2, 0xb3, 0xc4, 0xd5, 0xe6, 0xf7, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff, 0x80,
];

const PREFIXES: &[&[u8]] = &[
    &[],
    &[0x66],
    &[0x67],
    &[0x66, 0x67],
    &[0x2e],
    &[0x64],
    &[0xf0],
    &[0xf3],
];

/// The opcodes of the decoder.
const OPCODES: &[&[u8]] = &[
    &[0x88],
    &[0x89],
    &[0x8a],
    &[0x8b],
    &[0x63],
    &[0xc6],
    &[0xc7],
    &[0xa0],
    &[0xa1],
    &[0xa2],
    &[0xa3],
    &[0x0f, 0xb6],
    &[0x0f, 0xb7],
    &[0x0f, 0xbe],
    &[0x0f, 0xbf],
];

/// Tries `opcode` with all prefixes and REX, ModRM and, if `sibs`, SIB.
fn all_forms(opcode: &[u8], sibs: bool, kind: CodeKind, table: &mut Table) {
    let registers = Random::new(7).registers();
    let rexes = (0x40..=0x4f)
        .filter(|rex| is_rex(*rex, kind))
        .map(Some)
        .chain([None]);
    for (prefixes, rex) in PREFIXES
        .iter()
        .flat_map(|prefixes| rexes.clone().map(move |rex| (prefixes, rex)))
    {
        let mut bytes = prefixes.to_vec();
        bytes.extend(rex);
        bytes.extend(opcode);
        let modrm = bytes.len();
        bytes.extend([0; 2]);
        bytes.extend(TAIL);
        bytes.truncate(MAX_LENGTH + 1);
        for value in 0..=u8::MAX {
            bytes[modrm] = value;
            let has_sib = value & 7 == 4 && value >> 6 != 3;
            let last = if has_sib && sibs { u8::MAX } else { 0 };
            for sib in 0..=last {
                bytes[modrm + 1] = sib;
                *table.entry(check(&bytes, &registers, kind)).or_default() += 1;
            }
        }
    }
}

/// Every opcode that is decoded, with every prefix, REX, ModRM and SIB.
#[test]
fn every_form_of_the_opcodes() {
    for kind in KINDS {
        let mut table = Table::new();
        for opcode in OPCODES {
            let before = table.get(&Verdict::Accepted).copied().unwrap_or(0);
            all_forms(opcode, true, kind, &mut table);
            // MOVSXD is 64-bit code's alone.
            let is_some = (kind, *opcode) != (CodeKind::Flat, &[0x63]);
            assert_eq!(
                table[&Verdict::Accepted] > before,
                is_some,
                "{opcode:02x?}, {kind:?}"
            );
        }
        print(&format!("all forms, {kind:?}"), &table);
    }
}

/// Every other opcode, of one byte and of two, is refused or no opcode.
#[test]
fn every_other_opcode() {
    for kind in KINDS {
        let mut table = Table::new();
        for byte in 0..=u8::MAX {
            for opcode in [&[byte][..], &[0x0f, byte]] {
                // Prefixes are no opcodes, and what follows them is tried otherwise.
                let prefix = opcode.len() == 1
                    && (is_legacy_prefix(byte) || is_rex(byte, kind) || byte == 0x0f);
                if !prefix && !OPCODES.contains(&opcode) {
                    all_forms(opcode, false, kind, &mut table);
                }
            }
        }
        print(&format!("other opcodes, {kind:?}"), &table);
        assert_eq!(table.get(&Verdict::Accepted), None);
    }
}

/// Bytes that are nearly an instruction of the decoder, or are, or are noise.
fn near_miss(random: &mut Random, bytes: &mut [u8; MAX_LENGTH + 5]) -> usize {
    const LEGACY: &[u8] = &[
        0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3,
    ];
    for eight in bytes.chunks_mut(8) {
        let noise = random.next().to_le_bytes();
        eight.copy_from_slice(&noise[..eight.len()]);
    }
    let mut at = 0;
    if !random.one_in(16) {
        let prefixes = match random.below(16) {
            0 => random.below(14),
            1..=3 => 2,
            4..=8 => 1,
            _ => 0,
        };
        for _ in 0..prefixes {
            bytes[at] = match random.below(8) {
                0 => random.pick(LEGACY),
                1 => 0x40 | bytes[at] & 0xf,
                2..=4 => 0x66,
                5 => 0x67,
                _ => 0x2e,
            };
            at += 1;
        }
        if random.one_in(2) {
            bytes[at] = 0x40 | bytes[at] & 0xf;
            at += 1;
        }
        let opcode = random.pick(OPCODES);
        bytes[at..at + opcode.len()].copy_from_slice(opcode);
        // One bit off now and then.
        if random.one_in(16) {
            bytes[at + opcode.len() - 1] ^= 1 << random.below(8);
        }
        // An address at all, and the immediate's only value, more often than by chance.
        let modrm = &mut bytes[at + opcode.len()];
        if *modrm >> 6 == 3 && random.one_in(2) {
            *modrm &= 0x7f;
        }
        if opcode[0] & 0xfe == 0xc6 && !random.one_in(4) {
            *modrm &= !0x38;
        }
    }
    if random.one_in(8) {
        random.below(bytes.len() + 1)
    } else {
        bytes.len()
    }
}

fn number_from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|e| panic!("{name}={text}: {e}"))
    })
}

fn fuzz(seed: u64, count: u64) -> Table {
    let mut random = Random::new(seed);
    let mut registers = random.registers();
    let mut table = Table::new();
    let mut bytes = [0; MAX_LENGTH + 5];
    for n in 0..count {
        if n % 64 == 0 {
            registers = random.registers();
        }
        let length = near_miss(&mut random, &mut bytes);
        // What is cut off is no instruction for either.
        for kind in KINDS {
            *table
                .entry(check(&bytes[..length], &registers, kind))
                .or_default() += 1;
        }
    }
    table
}

/// Random byte strings, most of them nearly right.
#[test]
fn random_bytes() {
    let count = number_from_env("DECODE_FUZZ", 4_000_000);
    let seed = number_from_env("DECODE_SEED", 1);
    let threads = thread::available_parallelism().map_or(1, |n| n.get() as u64);
    println!("DECODE_SEED={seed} DECODE_FUZZ={count}, {threads} threads");
    let parts: Vec<_> = (0..threads)
        .map(|n| {
            let share = count / threads + u64::from(n < count % threads);
            thread::spawn(move || fuzz(seed.wrapping_add(n << 32), share))
        })
        .collect();
    let mut table = Table::new();
    for part in parts {
        let part = part.join().expect("see the failure above");
        for (verdict, count) in part {
            *table.entry(verdict).or_default() += count;
        }
    }
    print("random", &table);
    let accepted = table.get(&Verdict::Accepted).copied().unwrap_or(0);
    assert!(accepted > count / 6, "only {accepted} are instructions");
}
