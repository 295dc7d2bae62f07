// SPDX-License-Identifier: GPL-2.0
//! Writes to read-only memslots: pages that are memory to read and a device to write.

use anyhow::{Context, Result, bail};
use iced_x86::IcedError;
use iced_x86::code_asm::{self as asm, CodeAssembler};
use kvm_bindings::kvm_regs;

use super::irqs_off::{IrqsOff, RINGS, answered, register};
use super::ways::{Switch, each_way};
use crate::guest::paging::{ACCESSED, SUPERVISOR};
use crate::guest::{
    Bus, Event, Machine, Match, Mode, PAGE, Region, Registers, SlotKind, Vcpu, on_write, operand,
};
use crate::host::Modes;
use crate::stats::Mark;
use crate::{expect_eq, skip};

const ANSWERED: &str = "src/exit.rs, write_fault(): \
    a write to a read-only memslot costs what one to a hole does, and reads find memory";
const AS_C: &str = "src/exit.rs, write_fault(): whatever is written to a read-only memslot, \
    and however, userspace sees what it sees without the extension";
const GONE: &str = "src/pure/bells.rs: \
    what was read-only memory signals nothing once there is other memory";
const WALKED: &str = "kvm_mmio_ext_may_be_mmio(): \
    a walk of the guest's page tables is no access to them";

crate::test_table! {
    fast_read_only_rings: ANSWERED => rings(),
    fast_read_only_registers: ANSWERED => registers(),
    fast_read_only_exits: ANSWERED => exits(),
    fast_read_only_ways: AS_C => ways(),
    fast_read_only_gone: GONE => gone(),
    fast_read_only_walk: WALKED => walk(),
}

const SLOT: u32 = 9;
const WORD: u64 = 0x0123_4567_89ab_cdef;

/// Memory at a page of the window that the guest may only read, full of [`WORD`].
fn read_only(machine: &Machine, page: u64) -> Result<Region> {
    let memory = Region::new(PAGE)?;
    for offset in (0..PAGE).step_by(8) {
        memory.write_u64(offset, WORD);
    }
    machine.set_slot(SLOT, machine.gpa(page), &memory, SlotKind::ReadOnly)?;
    Ok(memory)
}

/// Fails unless reads of the page find the memory as it was, without an exit.
fn expect_memory(machine: &Machine, vcpu: &mut Vcpu, page: u64, memory: &Region) -> Result<()> {
    for offset in [0, 8, PAGE - 8] {
        expect_eq!(vcpu.read(machine.gva(page) + offset, 8)?, (WORD, vec![]));
        expect_eq!(memory.read_u64(offset), WORD, "{offset:#x}");
    }
    Ok(())
}

fn rings() -> Result<()> {
    let switch = IrqsOff::on()?;
    for kind in [Match::Any, Match::Len(4), Match::Data { len: 4, value: 5 }] {
        let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
        let memory = read_only(&machine, 1)?;
        let bell = machine.doorbell(Bus::Mmio(machine.gpa(1)), kind)?;
        for (on, expected) in [(true, RINGS), (false, 0), (true, RINGS)] {
            switch.set(on)?;
            let start = Mark::here(&[vcpu.fd()])?;
            let answered = answered(&machine, &mut vcpu, &bell, 1, 5)?;
            expect_eq!(answered, expected, "{kind:?}, {on}");
            let delta = start.delta(&[vcpu.fd()])?;
            delta.expect_balance()?;
            if !on {
                // All of them, and those before.
                expect_eq!(delta.ext("read_only")?, delta.ext("fast")?);
            }
            expect_memory(&machine, &mut vcpu, 1, &memory)?;
        }
    }
    Ok(())
}

fn registers() -> Result<()> {
    let _switch = IrqsOff::on()?;
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let memory = read_only(&machine, 1)?;
    let (gva, gpa) = (machine.gva(1) + 0x40, machine.gpa(1) + 0x40);
    let file = Registers::open()?.context("the extension is loaded")?;
    let word = Region::new(PAGE)?;
    let request = register(&machine, gpa, &word, on_write::STORE);
    file.add(&request)?;

    let start = Mark::here(&[vcpu.fd()])?;
    for value in 1..=RINGS {
        expect_eq!(vcpu.write(gva, 4, value)?, []);
        expect_eq!(word.read_u64(0), value);
    }
    expect_memory(&machine, &mut vcpu, 1, &memory)?;
    let delta = start.delta(&[vcpu.fd()])?;
    delta.expect_kvm("mmio_exits", 0)?;
    delta.expect_ext("fast_kernel", RINGS)?;

    file.remove(&request.place())?;
    expect_eq!(vcpu.write(gva, 4, 7)?, [Event::write(gpa, 4, 7)]);
    Ok(())
}

/// Without a device each write exits, by the fast path and with nothing made that reads would meet.
fn exits() -> Result<()> {
    let _switch = Switch::on()?;
    if !Modes::detect()?.tdp {
        skip!("shadow paging takes the ordinary path");
    }
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let (gva, gpa) = (machine.gva(1), machine.gpa(1));
    // Of an MMIO SPTE that is left from before a write makes nothing that reads would find again.
    vcpu.touch(gva, gpa, 4)?;
    let memory = read_only(&machine, 1)?;
    expect_eq!(vcpu.write(gva, 4, 1)?, [Event::write(gpa, 4, 1)]);
    expect_memory(&machine, &mut vcpu, 1, &memory)?;

    let start = Mark::here(&[vcpu.fd()])?;
    for round in 0..10 {
        for size in [1, 2, 4, 8] {
            let value = round + 1;
            let event = Event::write(gpa + 8 * round, size.into(), value);
            expect_eq!(vcpu.write(gva + 8 * round, size, value)?, [event]);
        }
        expect_memory(&machine, &mut vcpu, 1, &memory)?;
    }
    start
        .delta(&[vcpu.fd()])?
        .expect_balance()?
        .expect_ext("fast_userspace", 40)?
        .expect_ext("read_only", 40)?
        .expect_ext("cache_hit", 0)?
        .expect_ext("emulated", 0)?
        .expect_kvm("pf_mmio_spte_created", 0)?;
    Ok(())
}

/// Instructions that write, to read-only memory at RDI with RAX and RCX.
type Writes = fn(&mut CodeAssembler) -> Result<(), IcedError>;

const INSTRUCTIONS: [(&str, Writes); 8] = [
    ("or", |a| {
        a.or(asm::dword_ptr(operand(Mode::Long, 0)), asm::eax)
    }),
    ("xchg", |a| {
        a.xchg(asm::dword_ptr(operand(Mode::Long, 0)), asm::eax)
    }),
    ("lock cmpxchg", |a| {
        a.lock()
            .cmpxchg(asm::dword_ptr(operand(Mode::Long, 0)), asm::ecx)
    }),
    ("inc", |a| a.inc(asm::word_ptr(operand(Mode::Long, 0)))),
    ("stosd", |a| a.stosd()),
    ("rep stosw", |a| a.rep().stosw()),
    ("over the end", |a| {
        a.mov(asm::qword_ptr(operand(Mode::Long, 0xffc)), asm::rax)
    }),
    ("into it", |a| {
        a.mov(asm::qword_ptr(operand(Mode::Long, -4)), asm::rax)
    }),
];

fn ways() -> Result<()> {
    each_way(|_| {
        let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
        let memory = read_only(&machine, 1)?;
        let regs = kvm_regs {
            rdi: machine.gva(1),
            rax: WORD & 0xffff_ffff,
            rcx: 3,
            ..Default::default()
        };
        let mut seen = Vec::new();
        for (name, instruction) in INSTRUCTIONS {
            // The second time they are known.
            for _ in 0..3 {
                let run = vcpu.exec(regs, instruction).context(name)?;
                let (rax, rdi, rcx) = (run.regs.rax, run.regs.rdi, run.regs.rcx);
                seen.push((name, run.done()?, rax, rdi, rcx));
            }
            expect_memory(&machine, &mut vcpu, 1, &memory).context(name)?;
        }
        Ok(seen)
    })?;
    Ok(())
}

/// Memory that may be written takes the place of such that may not, and the other way round.
fn gone() -> Result<()> {
    let _switch = IrqsOff::on()?;
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let (gva, gpa) = (machine.gva(1), machine.gpa(1));
    let bell = machine.doorbell(Bus::Mmio(gpa), Match::Len(4))?;
    for round in 1..=3 {
        let memory = read_only(&machine, 1)?;
        expect_eq!(answered(&machine, &mut vcpu, &bell, 1, round)?, RINGS);
        expect_memory(&machine, &mut vcpu, 1, &memory)?;
        machine.delete_slot(SLOT)?;

        machine.set_slot(SLOT, gpa, &memory, SlotKind::Ram)?;
        expect_eq!(vcpu.write(gva, 4, round)?, []);
        expect_eq!(memory.read_u64(0), (WORD & !0xffff_ffff) | round);
        expect_eq!(bell.rings()?, 0, "memory is there");
        machine.delete_slot(SLOT)?;

        expect_eq!(
            answered(&machine, &mut vcpu, &bell, 1, round)?,
            RINGS,
            "a hole"
        );
    }
    Ok(())
}

/// A page table in read-only memory, with a doorbell at an entry. The processor writes the entry's
/// accessed bit for a store to a page that is mapped by it, at the same offset as the entry's.
fn walk() -> Result<()> {
    const TABLE: u64 = 2;
    const FAR: u64 = 1 << 30;
    let switch = IrqsOff::on()?;
    for on in [true, false] {
        switch.set(on)?;
        let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
        let (near, target) = (machine.gva(0) + FAR, machine.gpa(0));
        let (table_gva, table) = (machine.gva(TABLE), machine.gpa(TABLE));
        // Not accessed yet.
        machine.tables().map(near, target, SUPERVISOR & !ACCESSED);
        let entries = machine.tables().entries(near);
        let [.., directory, entry] = entries[..] else {
            bail!("{entries:x?}");
        };
        let offset = entry % PAGE;
        let memory = Region::new(PAGE)?;
        let contents = machine.ram().read(entry - offset, PAGE as usize);
        memory.write(0, &contents);
        machine.set_slot(SLOT, table, &memory, SlotKind::ReadOnly)?;
        machine.ram().write_u64(directory, table | SUPERVISOR);

        let bell = machine.doorbell(Bus::Mmio(table + offset), Match::Len(4))?;
        for _ in 0..RINGS {
            expect_eq!(vcpu.write(table_gva + offset, 4, 5)?, []);
        }
        expect_eq!(bell.rings()?, RINGS, "{on}");
        let start = Mark::here(&[vcpu.fd()])?;
        for round in 0..3 {
            expect_eq!(
                vcpu.write(near + offset, 4, 5)?,
                [Event::write(target + offset, 4, 5)],
                "{on}, round {round}"
            );
        }
        start
            .delta(&[vcpu.fd()])?
            .expect_ext("fast", 0)?
            .expect_ext("read_only", 0)?;
        expect_eq!(bell.rings()?, 0, "{on}");
        expect_eq!(memory.read(0, PAGE as usize), contents);
    }
    Ok(())
}
