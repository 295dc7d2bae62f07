// SPDX-License-Identifier: GPL-2.0
//! 64-bit code in system management mode: all of it but the mode is what the fast path takes.

use anyhow::{Context, Result};
use iced_x86::IcedError;
use iced_x86::code_asm::{self as asm, CodeAssembler};
use kvm_bindings::KVM_CAP_MULTI_ADDRESS_SPACE;

use super::program::{CODE, delta, mark};
use super::ways::each_way;
use crate::guest::cpu::{CR0_PE, CR0_PG, CR4_PAE, EFER_LME};
use crate::guest::layout::{GDT, SCRATCH, SMM_HANDLER};
use crate::guest::paging::SUPERVISOR;
use crate::guest::{Bus, Event, Machine, Match, Mode, SMM_SPACE, SlotKind, pattern_value};
use crate::stats::Mark;
use crate::{expect_eq, skip};

crate::test_table! {
    fast_smm: "gate: accesses in system management mode are left to the emulator, and are the same"
        => accesses(),
}

/// Where the handler goes on as 64-bit code.
const HANDLER_64: u64 = SMM_HANDLER + 0x200;

const BELL_VALUE: u32 = 0x5111;

/// From what SMM starts as, 16-bit code with 4 GiB segments, to 64-bit code.
fn enter_long_mode(a: &mut CodeAssembler, root: u64, gdtr: u64) -> Result<(), IcedError> {
    const MSR_EFER: u32 = 0xc000_0080;
    const CODE_64: u16 = 0x08;
    a.mov(asm::ebx, gdtr as u32)?;
    a.lgdt(asm::fword_ptr(asm::ebx))?;
    a.mov(asm::eax, asm::cr4)?;
    a.or(asm::eax, CR4_PAE as i32)?;
    a.mov(asm::cr4, asm::eax)?;
    a.mov(asm::eax, root as u32)?;
    a.mov(asm::cr3, asm::eax)?;
    a.mov(asm::ecx, MSR_EFER)?;
    a.rdmsr()?;
    a.or(asm::eax, EFER_LME as i32)?;
    a.wrmsr()?;
    a.mov(asm::eax, asm::cr0)?;
    a.or(asm::eax, (CR0_PG | CR0_PE) as u32)?;
    a.mov(asm::cr0, asm::eax)?;
    // A far jump to an offset of 32 bits, which the assembler does not have in 16-bit code.
    let target = [
        &[0x66, 0xea][..],
        &(HANDLER_64 as u32).to_le_bytes(),
        &CODE_64.to_le_bytes(),
    ];
    a.db(&target.concat())
}

/// A write and a read at the page in RDI, and a doorbell's ring; then back.
fn access(a: &mut CodeAssembler, gva: u64) -> Result<(), IcedError> {
    a.mov(asm::rdi, gva)?;
    a.mov(asm::eax, 0x1234_5678)?;
    a.mov(asm::dword_ptr(asm::rdi), asm::eax)?;
    a.mov(asm::rax, asm::qword_ptr(asm::rdi + 8))?;
    a.mov(asm::rsi, SCRATCH)?;
    a.mov(asm::qword_ptr(asm::rsi), asm::rax)?;
    a.mov(asm::eax, BELL_VALUE)?;
    a.mov(asm::dword_ptr(asm::rdi + 0x40), asm::eax)?;
    a.rsm()
}

fn accesses() -> Result<()> {
    const ROUNDS: u64 = 4;
    each_way(|fast| {
        let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
        let vm = machine.vm();
        if vm.check_extension_raw(KVM_CAP_MULTI_ADDRESS_SPACE.into()) < 2 {
            skip!("KVM has no SMM");
        }
        machine.set_slot(SMM_SPACE, 0, machine.ram(), SlotKind::Ram)?;
        // One GVA for all, but SMM has page tables of its own.
        let (inside, outside) = (machine.gpa(2), machine.gpa(1));
        let tables = machine.new_tables();
        machine.tables().map(CODE, outside, SUPERVISOR);
        tables.map(CODE, inside, SUPERVISOR);
        write_handler(&machine, tables.root())?;
        let data = Match::Data {
            len: 4,
            value: BELL_VALUE.into(),
        };
        let bell = machine.doorbell(Bus::Mmio(inside + 0x40), data)?;

        vcpu.touch(CODE, outside, 8)?;
        vcpu.touch(CODE, outside, 8)?;
        let mut start = None;
        for round in 0..ROUNDS {
            // Taken before the first instruction of what runs next.
            vcpu.fd().smi().context("KVM_SMI")?;
            let (value, events) = vcpu.read(CODE, 8)?;
            let want = [
                Event::write(inside, 4, 0x1234_5678),
                Event::read(inside + 8, 8),
                Event::read(outside, 8),
            ];
            expect_eq!(events, want, "round {round}");
            expect_eq!(value, pattern_value(outside, 8), "round {round}");
            expect_eq!(
                machine.ram().read_u64(SCRATCH),
                pattern_value(inside + 8, 8),
                "round {round}"
            );
            expect_eq!(bell.rings()?, 1, "round {round}");
            // All has been accessed once.
            start.get_or_insert(mark(&vcpu)?);
        }
        let start: Mark = start.expect("there are rounds");
        delta(&start, &vcpu)?
            .expect_ext("fast", if fast { ROUNDS - 1 } else { 0 })?
            .expect_ext("passed", 0)?;
        Ok(())
    })
}

fn write_handler(machine: &Machine, root: u64) -> Result<()> {
    /// GDT and its limit, as LGDT wants it.
    const GDTR: u64 = SCRATCH + 0x100;
    const GDT_LIMIT: u64 = 0x2f;
    machine.ram().write_u64(GDTR, GDT << 16 | GDT_LIMIT);

    let mut first = CodeAssembler::new(16)?;
    enter_long_mode(&mut first, root, GDTR)?;
    let first = first.assemble(SMM_HANDLER)?;
    assert!(SMM_HANDLER + first.len() as u64 <= HANDLER_64);
    machine.ram().write(SMM_HANDLER, &first);

    let mut second = CodeAssembler::new(64)?;
    access(&mut second, CODE)?;
    machine
        .ram()
        .write(HANDLER_64, &second.assemble(HANDLER_64)?);
    Ok(())
}
