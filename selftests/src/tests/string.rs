// SPDX-License-Identifier: GPL-2.0
//! String instructions and the stack on MMIO: one exit for each element, in order.

use anyhow::Result;
use iced_x86::code_asm as asm;
use kvm_bindings::kvm_regs;

use crate::expect_eq;
use crate::guest::layout::SCRATCH;
use crate::guest::{Event, Machine, Mode, PAGE, pattern, pattern_value};
use crate::stats::{Mark, with_sptes};

const PROVES: &str = "handle_mmio_page_fault_common: \
    instructions with two memory operands or many elements reach the emulator unchanged";

crate::test_table! {
    string_ram_to_mmio: PROVES => ram_to_mmio(),
    string_mmio_to_ram: PROVES => mmio_to_ram(),
    string_mmio_to_mmio: PROVES => mmio_to_mmio(),
    string_store_load: PROVES => store_and_load(),
    string_over_pages: PROVES => over_pages(),
    stack_on_mmio: PROVES => stack(),
}

fn ram_to_mmio() -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let gpa = machine.gpa(1);
    vcpu.touch(machine.gva(1), gpa, 1)?;
    machine.ram().write(SCRATCH, b"abcde");

    let start = Mark::here(&[vcpu.fd()])?;
    let regs = kvm_regs {
        rsi: SCRATCH,
        rdi: machine.gva(1),
        rcx: 5,
        ..Default::default()
    };
    let run = vcpu.exec(regs, |a| a.rep().movsb())?;
    expect_eq!(
        (run.regs.rsi, run.regs.rdi, run.regs.rcx),
        (SCRATCH + 5, machine.gva(1) + 5, 0)
    );
    let want: Vec<_> = (gpa..)
        .zip(b"abcde")
        .map(|(gpa, byte)| Event::write(gpa, 1, (*byte).into()))
        .collect();
    expect_eq!(run.done()?, want);
    // KVM returns to the guest after each element, which then faults again.
    start
        .delta(&[vcpu.fd()])?
        .expect_kvm("mmio_exits", 5)?
        .expect_ext("faults", with_sptes(5)?)?
        .expect_ext("passed", 0)?;
    Ok(())
}

fn mmio_to_ram() -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let gpa = machine.gpa(1) + 0x40;
    let regs = kvm_regs {
        rsi: machine.gva(1) + 0x40,
        rdi: SCRATCH,
        rcx: 3,
        ..Default::default()
    };
    for _ in 0..2 {
        machine.ram().write(SCRATCH, &[0; 16]);
        let run = vcpu.exec(regs, |a| a.rep().movsd())?;
        expect_eq!(
            (
                run.regs.rsi - regs.rsi,
                run.regs.rdi - SCRATCH,
                run.regs.rcx
            ),
            (12, 12, 0)
        );
        expect_eq!(
            run.done()?,
            [
                Event::read(gpa, 4),
                Event::read(gpa + 4, 4),
                Event::read(gpa + 8, 4)
            ]
        );
        let mut want: Vec<u8> = (gpa..gpa + 12).map(pattern).collect();
        want.extend([0; 4]);
        expect_eq!(machine.ram().read(SCRATCH, 16), want);
    }
    Ok(())
}

fn mmio_to_mmio() -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let (from, to) = (machine.gpa(1), machine.gpa(6));
    let regs = kvm_regs {
        rsi: machine.gva(1),
        rdi: machine.gva(6),
        rcx: 2,
        ..Default::default()
    };
    for _ in 0..2 {
        let run = vcpu.exec(regs, |a| a.rep().movsd())?;
        expect_eq!(
            run.done()?,
            [
                Event::read(from, 4),
                Event::write(to, 4, pattern_value(from, 4)),
                Event::read(from + 4, 4),
                Event::write(to + 4, 4, pattern_value(from + 4, 4)),
            ]
        );
    }
    Ok(())
}

fn store_and_load() -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let gpa = machine.gpa(1);
    let regs = kvm_regs {
        rdi: machine.gva(1),
        rax: 0x4321,
        rcx: 3,
        ..Default::default()
    };
    for _ in 0..2 {
        let run = vcpu.exec(regs, |a| a.rep().stosw())?;
        expect_eq!(run.regs.rdi, regs.rdi + 6);
        let want: Vec<_> = (0..3)
            .map(|i| Event::write(gpa + 2 * i, 2, 0x4321))
            .collect();
        expect_eq!(run.done()?, want);
    }
    let regs = kvm_regs {
        rsi: machine.gva(1),
        ..Default::default()
    };
    let run = vcpu.exec(regs, |a| a.lodsq())?;
    expect_eq!(
        (run.regs.rax, run.regs.rsi),
        (pattern_value(gpa, 8), regs.rsi + 8)
    );
    expect_eq!(run.done()?, [Event::read(gpa, 8)]);

    // Compares RAX with memory, and writes neither.
    let regs = kvm_regs {
        rdi: machine.gva(1),
        rax: pattern_value(gpa, 4),
        ..Default::default()
    };
    let run = vcpu.exec(regs, |a| a.scasd())?;
    expect_eq!(run.regs.rflags & 1 << 6, 1 << 6, "ZF of scasd");
    expect_eq!(run.done()?, [Event::read(gpa, 4)]);
    Ok(())
}

/// The GPA that the fault named is that of the first element only.
fn over_pages() -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    // Neighbours for the guest, apart for the host.
    machine.tables().map(
        machine.gva(2),
        machine.gpa(9),
        crate::guest::paging::SUPERVISOR,
    );
    let regs = kvm_regs {
        rdi: machine.gva(2) - 2,
        rax: 0x77,
        rcx: 4,
        ..Default::default()
    };
    let want = [
        Event::write(machine.gpa(1) + PAGE - 2, 1, 0x77),
        Event::write(machine.gpa(1) + PAGE - 1, 1, 0x77),
        Event::write(machine.gpa(9), 1, 0x77),
        Event::write(machine.gpa(9) + 1, 1, 0x77),
    ];
    for _ in 0..2 {
        expect_eq!(vcpu.exec(regs, |a| a.rep().stosb())?.done()?, want);
    }
    Ok(())
}

fn stack() -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let regs = kvm_regs {
        rsp: machine.gva(1) + 0x100,
        rax: 0x1122_3344_5566_7788,
        ..Default::default()
    };
    let gpa = machine.gpa(1) + 0x100;
    for _ in 0..2 {
        let run = vcpu.exec(regs, |a| a.push(asm::rax))?;
        expect_eq!(run.regs.rsp, regs.rsp - 8);
        expect_eq!(run.done()?, [Event::write(gpa - 8, 8, regs.rax)]);

        let run = vcpu.exec(regs, |a| a.pop(asm::rbx))?;
        expect_eq!(
            (run.regs.rsp, run.regs.rbx),
            (regs.rsp + 8, pattern_value(gpa, 8))
        );
        expect_eq!(run.done()?, [Event::read(gpa, 8)]);
    }
    Ok(())
}
