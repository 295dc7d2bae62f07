// SPDX-License-Identifier: GPL-2.0
//! The guest changes what a linear address means: CR3, INVLPG, CR0.PG.
//!
//! Under EPT/NPT this is the processor's business, but for the emulator's own translation; under
//! shadow paging the info cache and the MMIO SPTEs are by linear address.

use anyhow::{Context, Result};
use iced_x86::code_asm as asm;
use kvm_bindings::kvm_regs;

use crate::guest::cpu::CR0_PG;
use crate::guest::layout::SCRATCH;
use crate::guest::paging::{ACCESSED, DIRTY, PRESENT, SUPERVISOR};
use crate::guest::vcpu::{change_cr0, load_cr3, report, store_entry};
use crate::guest::{Event, Machine, Mode, PAGE, Vcpu, operand, pattern_value};
use crate::stats::Mark;
use crate::{expect_eq, skip};

const CR3: &str = "the info cache (vcpu_clear_mmio_info), FNAME(page_fault): \
    a cached linear address does not outlive a CR3 switch";
const INVLPG: &str = "zap of MMIO SPTEs on INVLPG, the info cache: \
    the page that the changed PTE names is accessed";
const NONPAGING: &str = "nonpaging_page_fault, the info cache: \
    with paging off neither an old address nor old rights are used";

crate::test_table! {
    cr3_switch_long: CR3 => cr3_switch(Mode::Long),
    cr3_switch_pae: CR3 => cr3_switch(Mode::Pae),
    cr3_switch_legacy: CR3 => cr3_switch(Mode::Legacy),
    invlpg_long: INVLPG => invlpg(Mode::Long),
    invlpg_pae: INVLPG => invlpg(Mode::Pae),
    invlpg_legacy: INVLPG => invlpg(Mode::Legacy),
    invlpg_two_vcpus_long: INVLPG => invlpg_two_vcpus(Mode::Long),
    invlpg_two_vcpus_legacy: INVLPG => invlpg_two_vcpus(Mode::Legacy),
    paging_off_pae: NONPAGING => paging_off(Mode::Pae),
    paging_off_legacy: NONPAGING => paging_off(Mode::Legacy),
}

fn cr3_switch(mode: Mode) -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(mode)?;
    let (gva, gpa) = (machine.gva(1), machine.gpa(1));
    // Page 1 is RAM in the second root, page 2 another MMIO page.
    let second = machine.new_tables();
    second.map(gva, SCRATCH, SUPERVISOR);
    second.map(gva + PAGE, machine.gpa(7), SUPERVISOR);
    machine.ram().write_u64(SCRATCH, 0x1357_9bdf);

    let regs = kvm_regs {
        rdi: gva,
        rsi: second.root(),
        rdx: machine.tables().root(),
        rcx: 0xc0de,
        ..Default::default()
    };
    let other = PAGE as i32;
    let start = Mark::here(&[vcpu.fd()])?;
    for round in 0..3 {
        let run = vcpu.exec(regs, |a| {
            a.mov(asm::dword_ptr(operand(mode, 0)), asm::ecx)?;
            load_cr3(a, mode)?;
            a.mov(asm::eax, asm::dword_ptr(operand(mode, 0)))?;
            report(a)?;
            a.mov(asm::dword_ptr(operand(mode, other)), asm::ecx)?;
            // Back to the first root.
            if mode.is_long() {
                a.mov(asm::cr3, asm::rdx)?;
            } else {
                a.mov(asm::cr3, asm::edx)?;
            }
            a.mov(asm::dword_ptr(operand(mode, other)), asm::ecx)?;
            a.mov(asm::dword_ptr(operand(mode, 0)), asm::ecx)
        })?;
        expect_eq!(
            run.done()?,
            [
                Event::write(gpa, 4, 0xc0de),
                Event::Report(0x1357_9bdf),
                Event::write(machine.gpa(7), 4, 0xc0de),
                Event::write(machine.gpa(2), 4, 0xc0de),
                Event::write(gpa, 4, 0xc0de),
            ],
            "round {round}"
        );
    }
    start.expect_all_handled(&[vcpu.fd()])
}

fn invlpg(mode: Mode) -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(mode)?;
    let gva = machine.gva(1);
    machine.ram().write_u64(SCRATCH, 0x2468_ace0);
    let pte = machine.tables().pte(gva);
    let (a_page, b_page) = (machine.gpa(1), machine.gpa(8));
    let to_b = Event::read(b_page, 4);
    let b_value = Event::Report(pattern_value(b_page, 4) as u32);
    let ram_value = Event::Report(0x2468_ace0);

    let start = Mark::here(&[vcpu.fd()])?;
    // Twice: the table is shadowed and in sync at first, out of sync later.
    for round in 0..2 {
        let cases = [
            (b_page, vec![to_b.clone(), b_value.clone()]),
            (SCRATCH, vec![ram_value.clone()]),
            (b_page, vec![to_b.clone(), b_value.clone()]),
            (
                a_page,
                vec![
                    Event::read(a_page, 4),
                    Event::Report(pattern_value(a_page, 4) as u32),
                ],
            ),
        ];
        for (page, want) in cases {
            let regs = kvm_regs {
                rdi: gva,
                rsi: page | SUPERVISOR,
                rdx: pte,
                ..Default::default()
            };
            let before = vcpu.read(gva, 4)?;
            let run = vcpu.exec(regs, |a| {
                store_entry(a, mode, asm::esi)?;
                a.invlpg(asm::byte_ptr(operand(mode, 0)))?;
                a.mov(asm::eax, asm::dword_ptr(operand(mode, 0)))?;
                report(a)
            })?;
            expect_eq!(
                run.done()?,
                want,
                "page {page:#x}, round {round}, before {before:x?}"
            );
        }
    }
    start.expect_all_handled(&[vcpu.fd()])
}

/// A vCPU that has executed INVLPG finds an MMIO SPTE that another one has made since: the fault
/// is MMIO at once, and only its own caches could say where.
fn invlpg_two_vcpus(mode: Mode) -> Result<()> {
    let mut machine = Machine::new(mode)?;
    let (mut vcpu, mut other) = (machine.add_vcpu()?, machine.add_vcpu()?);
    let gva = machine.gva(1);
    let invlpg = |vcpu: &mut Vcpu, page: u64| -> Result<()> {
        let regs = kvm_regs {
            rdi: gva,
            rsi: page | SUPERVISOR,
            rdx: machine.tables().pte(gva),
            ..Default::default()
        };
        let run = vcpu.exec(regs, |a| {
            store_entry(a, mode, asm::esi)?;
            a.invlpg(asm::byte_ptr(operand(mode, 0)))
        })?;
        expect_eq!(run.done()?, []);
        Ok(())
    };
    for page in [1, 8, 9, 1] {
        let gpa = machine.gpa(page);
        invlpg(&mut vcpu, gpa)?;
        invlpg(&mut other, gpa)?;
        other.touch(gva, gpa, 4)?;
        vcpu.touch(gva, gpa, 4)
            .with_context(|| format!("page {page}, which the other vCPU has touched"))?;
    }
    Ok(())
}

fn paging_off(mode: Mode) -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(mode)?;
    let (gva, gpa) = (machine.gva(1), machine.gpa(1));
    // A page mapped at its own address, which the guest's page tables do not allow to be written.
    let read_only = machine.gpa(4);
    machine
        .tables()
        .map(read_only, read_only, PRESENT | ACCESSED | DIRTY);

    vcpu.touch(gva, gpa, 4)?;
    // A real processor does not write PDPTEs, where this bit is reserved: KVM refuses to load
    // them again. QEMU under NPT, 7.2 and 10.0, writes it.
    let pdpte = machine.tables().root_entry(gva);
    if mode == Mode::Pae && pdpte & ACCESSED != 0 {
        skip!("this processor wrote the accessed bit into a PDPTE: {pdpte:#x}");
    }

    let regs = kvm_regs {
        rdi: gva,
        rbx: read_only,
        rcx: 0xfeed,
        ..Default::default()
    };
    let start = Mark::here(&[vcpu.fd()])?;
    for round in 0..3 {
        let run = vcpu.exec(regs, |a| {
            a.mov(asm::dword_ptr(asm::edi), asm::ecx)?;
            change_cr0(a, mode, CR0_PG, 0)?;
            // The same linear address is now a physical one.
            a.mov(asm::dword_ptr(asm::edi), asm::ecx)?;
            change_cr0(a, mode, 0, CR0_PG)?;
            a.mov(asm::dword_ptr(asm::edi), asm::ecx)?;
            a.mov(asm::eax, asm::dword_ptr(asm::ebx))?;
            change_cr0(a, mode, CR0_PG, 0)?;
            a.mov(asm::dword_ptr(asm::ebx), asm::ecx)?;
            change_cr0(a, mode, 0, CR0_PG)
        })?;
        expect_eq!(
            run.done()?,
            [
                Event::write(gpa, 4, 0xfeed),
                Event::write(gva, 4, 0xfeed),
                Event::write(gpa, 4, 0xfeed),
                Event::read(read_only, 4),
                Event::write(read_only, 4, 0xfeed),
            ],
            "round {round}"
        );
    }
    start.expect_all_handled(&[vcpu.fd()])
}
