// SPDX-License-Identifier: GPL-2.0
//! What the guest's page tables forbid stays forbidden, whatever was cached before.

use anyhow::{Result, bail};
use iced_x86::IcedError;
use iced_x86::code_asm::{self as asm, CodeAssembler};
use kvm_bindings::kvm_regs;

use crate::expect_eq;
use crate::guest::cpu::{CR0_WP, USER_CODE, USER_DATA};
use crate::guest::paging::{ACCESSED, DIRTY, PRESENT, SUPERVISOR, USER, WRITE};
use crate::guest::vcpu::{change_cr0, mov_from_memory, mov_to_memory, store_entry};
use crate::guest::{Event, Fault, Machine, Mode, PAGE_FAULT, operand};
use crate::stats::Mark;

const PROVES: &str = "get_mmio_spte_access, the info cache's access bits: \
    a cached page is no way around the guest's page tables";

const CHANGED: &str = "sync_mmio_spte, the info cache: rights that the guest has taken away, or \
    given, are those of the next access";

crate::test_table! {
    permission_user_long: PROVES => user(Mode::Long),
    permission_user_pae: PROVES => user(Mode::Pae),
    permission_user_legacy: PROVES => user(Mode::Legacy),
    permission_write_long: PROVES => write(Mode::Long),
    permission_write_legacy: PROVES => write(Mode::Legacy),
    permission_changed_long: CHANGED => changed(Mode::Long),
    permission_changed_pae: CHANGED => changed(Mode::Pae),
    permission_changed_legacy: CHANGED => changed(Mode::Legacy),
}

/// Bits of a #PF's error code.
const ERROR_PRESENT: u64 = 1 << 0;
const ERROR_WRITE: u64 = 1 << 1;
const ERROR_USER: u64 = 1 << 2;

/// RFLAGS of the user program: I/O allowed (it ends by an OUT), and the always-one bit.
const USER_RFLAGS: i32 = 3 << 12 | 1 << 1;

/// Goes on in user mode at RSI (ESI), on the same stack.
pub(super) fn enter_user_mode(a: &mut CodeAssembler, mode: Mode) -> Result<(), IcedError> {
    if mode.is_long() {
        a.mov(asm::rbp, asm::rsp)?;
        a.push(i32::from(USER_DATA))?;
        a.push(asm::rbp)?;
        a.push(USER_RFLAGS)?;
        a.push(i32::from(USER_CODE))?;
        a.push(asm::rsi)?;
        a.iretq()
    } else {
        // IRET clears data segments that user mode may not use.
        a.mov(asm::ecx, u32::from(USER_DATA))?;
        a.mov(asm::ds, asm::ecx)?;
        a.mov(asm::es, asm::ecx)?;
        a.mov(asm::ebp, asm::esp)?;
        a.push(i32::from(USER_DATA))?;
        a.push(asm::ebp)?;
        a.push(USER_RFLAGS)?;
        a.push(i32::from(USER_CODE))?;
        a.push(asm::esi)?;
        a.iretd()
    }
}

/// The kernel's access, then the user's.
fn store_and_enter_user_mode(a: &mut CodeAssembler, mode: Mode) -> Result<(), IcedError> {
    a.mov(asm::dword_ptr(operand(mode, 0)), asm::eax)?;
    enter_user_mode(a, mode)
}

fn user(mode: Mode) -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(mode)?;
    let (gva, gpa) = (machine.gva(1), machine.gpa(1));
    let (user_gva, user_gpa) = (machine.gva(2), machine.gpa(2));
    machine.tables().map(user_gva, user_gpa, SUPERVISOR | USER);
    let write = vcpu.load(mov_to_memory(mode, 4))?;
    let read = vcpu.load(mov_from_memory(mode, 4))?;

    let start = Mark::here(&[vcpu.fd()])?;
    for round in 0..3 {
        for (program, error) in [(write, ERROR_WRITE), (read, 0)] {
            let regs = kvm_regs {
                rdi: gva,
                rsi: program,
                rax: 5,
                ..Default::default()
            };
            let run = vcpu.exec(regs, |a| store_and_enter_user_mode(a, mode))?;
            let fault = Fault {
                vector: PAGE_FAULT,
                error_code: ERROR_PRESENT | ERROR_USER | error,
                cr2: gva,
            };
            let want = [Event::write(gpa, 4, 5), Event::Fault(fault)];
            expect_eq!(run.events, want, "round {round}");
        }
        // A user's own page, and the same page again for the supervisor.
        let regs = kvm_regs {
            rdi: user_gva,
            rsi: write,
            rax: 6,
            ..Default::default()
        };
        let run = vcpu.exec(regs, |a| store_and_enter_user_mode(a, mode))?;
        let exit = Event::write(user_gpa, 4, 6);
        expect_eq!(run.done()?, [exit.clone(), exit], "round {round}");
        vcpu.leave_user_mode()?;
    }
    start.delta(&[vcpu.fd()])?.expect_ext("passed", 0)?;
    Ok(())
}

fn write(mode: Mode) -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(mode)?;
    let (gva, gpa) = (machine.gva(1), machine.gpa(1));
    machine.tables().map(gva, gpa, PRESENT | ACCESSED | DIRTY);

    for round in 0..3 {
        vcpu.touch(gva, gpa, 4)?;
        let regs = kvm_regs {
            rdi: gva,
            rcx: 5,
            ..Default::default()
        };
        let run = vcpu.exec(regs, |a| a.mov(asm::dword_ptr(operand(mode, 0)), asm::ecx))?;
        let [Event::Fault(fault)] = run.events[..] else {
            bail!("round {round}: {:?}, wanted a page fault", run.events);
        };
        let want = Fault {
            vector: PAGE_FAULT,
            error_code: ERROR_PRESENT | ERROR_WRITE,
            cr2: gva,
        };
        expect_eq!(fault, want, "round {round}");

        // Without CR0.WP a supervisor may write.
        let run = vcpu.exec(regs, |a| {
            change_cr0(a, mode, CR0_WP, 0)?;
            a.mov(asm::dword_ptr(operand(mode, 0)), asm::ecx)?;
            change_cr0(a, mode, 0, CR0_WP)
        })?;
        expect_eq!(run.done()?, [Event::write(gpa, 4, 5)], "round {round}");
    }
    Ok(())
}

/// The kernel changes what user mode may do with a page, and makes that known with INVLPG or by
/// loading CR3.
fn changed(mode: Mode) -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(mode)?;
    let (gva, gpa) = (machine.gva(1), machine.gpa(1));
    let program = vcpu.load(mov_to_memory(mode, 4))?;
    let pte = machine.tables().pte(gva);
    let all = SUPERVISOR | USER;
    machine.tables().map(gva, gpa, all);

    for round in 0..2 {
        for reload in [false, true] {
            for rights in [all, SUPERVISOR, all, all & !WRITE] {
                let regs = kvm_regs {
                    rdi: gva,
                    rsi: program,
                    rax: 5,
                    rdx: pte,
                    rcx: gpa | rights,
                    rbx: machine.tables().root(),
                    ..Default::default()
                };
                let run = vcpu.exec(regs, |a| {
                    store_entry(a, mode, asm::ecx)?;
                    match (reload, mode.is_long()) {
                        (false, _) => a.invlpg(asm::byte_ptr(operand(mode, 0)))?,
                        (true, true) => a.mov(asm::cr3, asm::rbx)?,
                        (true, false) => a.mov(asm::cr3, asm::ebx)?,
                    }
                    enter_user_mode(a, mode)
                })?;
                let want = if rights == all {
                    Event::write(gpa, 4, 5)
                } else {
                    Event::Fault(Fault {
                        vector: PAGE_FAULT,
                        error_code: ERROR_PRESENT | ERROR_USER | ERROR_WRITE,
                        cr2: gva,
                    })
                };
                let what = format!("rights {rights:#x}, CR3 {reload}, round {round}");
                expect_eq!(run.events, [want], "{what}");
                if rights == all {
                    vcpu.leave_user_mode()?;
                }
            }
        }
    }
    Ok(())
}
