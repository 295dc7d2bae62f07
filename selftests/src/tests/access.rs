// SPDX-License-Identifier: GPL-2.0
//! Reads, writes and read-modify-writes of every size: the exits, in order.

use anyhow::Result;
use iced_x86::IcedError;
use iced_x86::code_asm::{self as asm, CodeAssembler};
use kvm_bindings::kvm_regs;

use crate::expect_eq;
use crate::guest::layout::SCRATCH;
use crate::guest::paging::SUPERVISOR;
use crate::guest::{Event, Machine, Mode, PAGE, Run, Vcpu, operand, pattern_value};
use crate::stats::{Mark, with_sptes};

const SIZES: &str = "handle_mmio_page_fault_common, get_mmio_spte_gfn: \
    each access of 1 to 8 bytes is one exit with its address, length and data";
const CROSSING: &str = "get_mmio_spte_gfn, the info cache: \
    an access over two pages is two exits, each with its own page's GPA";
const MODIFY: &str = "handle_mmio_page_fault_common: \
    a read-modify-write is one fault, one read exit and one write exit";

crate::test_table! {
    access_sizes_long: SIZES => sizes(Mode::Long),
    access_sizes_pae: SIZES => sizes(Mode::Pae),
    access_sizes_legacy: SIZES => sizes(Mode::Legacy),
    access_sizes_flat: SIZES => sizes(Mode::Flat),
    access_crossing_long: CROSSING => crossing(Mode::Long),
    access_crossing_pae: CROSSING => crossing(Mode::Pae),
    access_crossing_legacy: CROSSING => crossing(Mode::Legacy),
    access_crossing_flat: CROSSING => crossing(Mode::Flat),
    access_crossing_ram: CROSSING => crossing_ram(),
    access_16_bytes: SIZES => sixteen_bytes(),
    access_immediate: SIZES => immediate(),
    access_extending: SIZES => extending(),
    access_modify_long: MODIFY => modify(Mode::Long),
    access_modify_legacy: MODIFY => modify(Mode::Legacy),
}

const VALUE: u64 = 0x8877_6655_4433_2211;

fn mask(size: u8) -> u64 {
    u64::MAX >> (64 - 8 * u32::from(size))
}

fn sizes(mode: Mode) -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(mode)?;
    let (gva, gpa) = (machine.gva(1), machine.gpa(1));
    vcpu.touch(gva, gpa, 1)?;

    let start = Mark::here(&[vcpu.fd()])?;
    let mut accesses = 0;
    for size in mode.sizes().iter().copied() {
        let len = usize::from(size);
        // The first byte of the page, its last, and one place that is not aligned.
        for offset in [0, PAGE - u64::from(size), 0x123] {
            expect_eq!(
                vcpu.write(gva + offset, size, VALUE)?,
                [Event::write(gpa + offset, len, VALUE)],
                "{size} bytes at {offset:#x}"
            );
            vcpu.touch(gva + offset, gpa + offset, size)?;
            accesses += 2;
        }
    }
    let faults = with_sptes(accesses)?;
    start
        .delta(&[vcpu.fd()])?
        .expect_kvm("mmio_exits", accesses)?
        .expect_ext("faults", faults)?
        .expect_ext("passed", 0)?
        .expect_hits(faults)?;
    Ok(())
}

fn crossing(mode: Mode) -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(mode)?;
    // Neighbours for the guest, apart for the host.
    let second = if mode.is_paged() { 9 } else { 2 };
    if mode.is_paged() {
        machine
            .tables()
            .map(machine.gva(2), machine.gpa(second), SUPERVISOR);
    }
    let (boundary, end, next) = (machine.gva(2), machine.gpa(1) + PAGE, machine.gpa(second));

    let start = Mark::here(&[vcpu.fd()])?;
    for _ in 0..2 {
        for size in mode.sizes().iter().copied().filter(|size| *size > 1) {
            for before in 1..size {
                let (low, high) = (usize::from(before), usize::from(size - before));
                let split = u64::from(before);
                expect_eq!(
                    vcpu.write(boundary - split, size, VALUE)?,
                    [
                        Event::write(end - split, low, VALUE),
                        Event::write(next, high, VALUE >> (8 * split)),
                    ],
                    "{size} bytes, {before} of them in the first page"
                );
                let (value, events) = vcpu.read(boundary - split, size)?;
                expect_eq!(
                    events,
                    [Event::read(end - split, low), Event::read(next, high)],
                    "{size} bytes, {before} of them in the first page"
                );
                let want =
                    pattern_value(end - split, low) | pattern_value(next, high) << (8 * split);
                expect_eq!(
                    value,
                    want,
                    "{size} bytes, {before} of them in the first page"
                );
            }
        }
    }
    start.expect_all_handled(&[vcpu.fd()])
}

/// One half of the access is RAM, the other MMIO.
fn crossing_ram() -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let ram = machine.ram().clone();
    // RAM at page 2, between MMIO at pages 1 and 3.
    machine.tables().map(machine.gva(2), SCRATCH, SUPERVISOR);

    for _ in 0..2 {
        ram.write_u64(SCRATCH, 0);
        let (at, gpa) = (machine.gva(2) - 3, machine.gpa(2) - 3);
        expect_eq!(vcpu.write(at, 8, VALUE)?, [Event::write(gpa, 3, VALUE)]);
        expect_eq!(ram.read_u64(SCRATCH), VALUE >> 24);
        let (value, events) = vcpu.read(at, 8)?;
        expect_eq!(events, [Event::read(gpa, 3)]);
        expect_eq!(value, pattern_value(gpa, 3) | (VALUE & !mask(3)));

        let last = SCRATCH + PAGE - 8;
        ram.write_u64(last, 0);
        let (at, gpa) = (machine.gva(3) - 5, machine.gpa(3));
        expect_eq!(
            vcpu.write(at, 8, VALUE)?,
            [Event::write(gpa, 3, VALUE >> 40)]
        );
        expect_eq!(ram.read_u64(last), VALUE << 24);
        let (value, events) = vcpu.read(at, 8)?;
        expect_eq!(events, [Event::read(gpa, 3)]);
        expect_eq!(value, (VALUE & mask(5)) | pattern_value(gpa, 3) << 40);
    }
    Ok(())
}

/// An SSE access is two exits of 8 bytes.
fn sixteen_bytes() -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let ram = machine.ram().clone();
    let regs = kvm_regs {
        rdi: machine.gva(1),
        rsi: SCRATCH,
        ..Default::default()
    };
    let gpa = machine.gpa(1);
    let high = !VALUE;

    for _ in 0..2 {
        ram.write_u64(SCRATCH, VALUE);
        ram.write_u64(SCRATCH + 8, high);
        let run = vcpu.exec(regs, |a| {
            a.movups(asm::xmm0, asm::xmmword_ptr(asm::rsi))?;
            a.movups(asm::xmmword_ptr(asm::rdi), asm::xmm0)
        })?;
        expect_eq!(
            run.done()?,
            [Event::write(gpa, 8, VALUE), Event::write(gpa + 8, 8, high)]
        );

        let run = vcpu.exec(regs, |a| {
            a.movups(asm::xmm0, asm::xmmword_ptr(asm::rdi))?;
            a.movups(asm::xmmword_ptr(asm::rsi), asm::xmm0)
        })?;
        expect_eq!(run.done()?, [Event::read(gpa, 8), Event::read(gpa + 8, 8)]);
        expect_eq!(ram.read_u64(SCRATCH), pattern_value(gpa, 8));
        expect_eq!(ram.read_u64(SCRATCH + 8), pattern_value(gpa + 8, 8));
    }
    Ok(())
}

fn immediate() -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let gpa = machine.gpa(1);
    let regs = kvm_regs {
        rdi: machine.gva(1),
        ..Default::default()
    };
    let at = || operand(Mode::Long, 0x20);
    let run = vcpu.exec(regs, |a| {
        a.mov(asm::byte_ptr(at()), 0x5a)?;
        a.mov(asm::word_ptr(at()), 0x1234)?;
        a.mov(asm::dword_ptr(at()), 0x1234_5678)?;
        // Sign-extended to 64 bits.
        a.mov(asm::qword_ptr(at()), -2)
    })?;
    expect_eq!(
        run.done()?,
        [
            Event::write(gpa + 0x20, 1, 0x5a),
            Event::write(gpa + 0x20, 2, 0x1234),
            Event::write(gpa + 0x20, 4, 0x1234_5678),
            Event::write(gpa + 0x20, 8, u64::MAX - 1),
        ]
    );
    Ok(())
}

fn extending() -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    // Values of either sign: the pattern differs from byte to byte.
    for offset in 0..16 {
        let (gva, gpa) = (machine.gva(1) + offset, machine.gpa(1) + offset);
        let regs = kvm_regs {
            rdi: gva,
            rax: u64::MAX,
            ..Default::default()
        };
        let at = || operand(Mode::Long, 0);
        let mut case = |len: usize,
                        want: u64,
                        program: &dyn Fn(&mut CodeAssembler) -> Result<(), IcedError>|
         -> Result<()> {
            let run = vcpu.exec(regs, program)?;
            let rax = run.regs.rax;
            expect_eq!(run.done()?, [Event::read(gpa, len)]);
            expect_eq!(rax, want, "offset {offset}");
            Ok(())
        };
        let byte = pattern_value(gpa, 1);
        let word = pattern_value(gpa, 2);
        let dword = pattern_value(gpa, 4);
        case(1, byte, &|a| a.movzx(asm::eax, asm::byte_ptr(at())))?;
        case(2, word, &|a| a.movzx(asm::eax, asm::word_ptr(at())))?;
        case(1, byte as i8 as u64, &|a| {
            a.movsx(asm::rax, asm::byte_ptr(at()))
        })?;
        case(2, u64::from(word as i16 as u32), &|a| {
            a.movsx(asm::eax, asm::word_ptr(at()))
        })?;
        case(4, dword as i32 as u64, &|a| {
            a.movsxd(asm::rax, asm::dword_ptr(at()))
        })?;
    }
    Ok(())
}

fn modify(mode: Mode) -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(mode)?;
    let gpa = machine.gpa(1);
    let regs = kvm_regs {
        rdi: machine.gva(1),
        rax: 0x8000_0001,
        ..Default::default()
    };
    let old = pattern_value(gpa, 4) as u32;
    let operand32 = || asm::dword_ptr(operand(mode, 0));
    vcpu.touch(machine.gva(1), gpa, 4)?;

    let mut case = |name: &str,
                    new: u32,
                    program: &dyn Fn(&mut CodeAssembler) -> Result<(), IcedError>|
     -> Result<Run> {
        let start = Mark::here(&[vcpu.fd()])?;
        let run = vcpu.exec(regs, program)?;
        let want = [Event::read(gpa, 4), Event::write(gpa, 4, new.into())];
        expect_eq!(run.clone().done()?, want, "{name}");
        start
            .delta(&[vcpu.fd()])?
            .expect_kvm("mmio_exits", 2)?
            .expect_ext("faults", with_sptes(1)?)?
            .expect_ext("passed", 0)?;
        Ok(run)
    };
    case("or", old | 0x8000_0001, &|a| a.or(operand32(), asm::eax))?;
    case("and", old & 0xffff, &|a| a.and(operand32(), 0xffff))?;
    case("add", old.wrapping_add(0x8000_0001), &|a| {
        a.add(operand32(), asm::eax)
    })?;
    case("inc", old.wrapping_add(1), &|a| a.inc(operand32()))?;
    case("not", !old, &|a| a.not(operand32()))?;
    case("lock inc", old.wrapping_add(1), &|a| {
        a.lock().inc(operand32())
    })?;
    let run = case("xchg", 0x8000_0001, &|a| a.xchg(operand32(), asm::eax))?;
    expect_eq!(run.regs.rax, u64::from(old), "xchg");
    compare_only(&mut vcpu, regs, gpa, mode)
}

/// An instruction that reads MMIO and writes nothing: no write exit.
fn compare_only(vcpu: &mut Vcpu, regs: kvm_regs, gpa: u64, mode: Mode) -> Result<()> {
    let run = vcpu.exec(regs, |a| a.test(asm::dword_ptr(operand(mode, 0)), asm::eax))?;
    let rflags = run.regs.rflags;
    expect_eq!(run.done()?, [Event::read(gpa, 4)]);
    let zero = pattern_value(gpa, 4) & regs.rax == 0;
    expect_eq!(rflags & 1 << 6 != 0, zero, "ZF of test");
    Ok(())
}
