// SPDX-License-Identifier: GPL-2.0
//! What an instruction does besides its access: traps, the interrupt shadow, privilege.

use anyhow::{Context, Result, bail};
use iced_x86::code_asm as asm;
use kvm_bindings::{KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, kvm_guest_debug, kvm_regs};
use kvm_ioctls::VcpuExit;

use super::program::{
    LOAD, STORE, code_page, delta, ending, events_of, finish, mark, prepared, regs_for, run_at,
    start_with,
};
use super::ways::{Switch, each_way, each_way_undisturbed, needs_trap_flag};
use crate::expect_eq;
use crate::guest::layout::{RAM_SIZE, port};
use crate::guest::paging::{DIRTY, SUPERVISOR, USER};
use crate::guest::{Event, Fault, Machine, Mode, PAGE, PAGE_FAULT, Vcpu, operand};
use crate::host::Modes;
use crate::skip;
use crate::tests::permission::enter_user_mode;

const SAME: &str = "gate and retirement: an access ends as with the emulator";

const KERNEL: &str = "fetch and address: code and devices are where a kernel has them";

const CLEAN: &str =
    "gate: a page that was read before it was dirty is written to by the fast path, too";

crate::test_table! {
    fast_trap_flag: SAME => trap_flag(),
    fast_resume_flag: SAME => resume_flag(),
    fast_guest_debug: SAME => guest_debug(),
    fast_shadow_sti: SAME => shadow(&[0xfb]),
    // mov ss, ecx
    fast_shadow_mov_ss: SAME => shadow(&[0x8e, 0xd1]),
    fast_user_mode: "gate: what the guest's page tables deny to user mode is denied" => user_mode(),
    fast_smap: "rights: the kernel has the user's page only if RFLAGS.AC is set" => smap(),
    fast_kernel_half_4_levels: KERNEL => kernel_half(Mode::Long, 0xffff_8880_0000_0000),
    fast_kernel_half_5_levels: KERNEL => kernel_half(Mode::La57, 0xffa0_0000_0000_0000),
    fast_write_to_clean_page: CLEAN => write_to_clean_page(Mode::Long),
    fast_write_to_clean_page_pae: CLEAN => write_to_clean_page(Mode::Pae),
    fast_write_to_clean_page_legacy: CLEAN => write_to_clean_page(Mode::Legacy),
    fast_stack_pointer: "registers: an address that depends on RSP is computed with that of now"
        => stack_pointer(),
}

const TF: u64 = 1 << 8;
const RF: u64 = 1 << 16;

/// A single-step trap follows the access, or what is next.
fn trap_flag() -> Result<()> {
    needs_trap_flag()?;
    for code in [STORE, LOAD] {
        let (events, pushed, at) = each_way(|fast| {
            let (machine, mut vcpu, at) = prepared(&code)?;
            run_at(&mut vcpu, regs_for(&machine), at)?;
            let start = mark(&vcpu)?;
            start_with(&mut vcpu, regs_for(&machine), at, TF)?;
            let events = finish(&mut vcpu)?;
            delta(&start, &vcpu)?
                .expect_ext("fast", 0)?
                .expect_ext("refused_context", fast.into())?;
            let regs = vcpu.fd().get_regs().context("KVM_GET_REGS")?;
            Ok((events, machine.ram().read_u64(regs.rsp), at))
        })?;
        let [_, Event::Fault(fault)] = events[..] else {
            bail!("{events:?}: wanted an access and a trap");
        };
        // Behind the access; on SVM, behind the NOP that follows a store to userspace.
        let delay = pushed.wrapping_sub(at + 2);
        if fault.vector != 1 || delay > u64::from(code == STORE) {
            bail!("{code:x?} at {at:#x}: {fault:?}, RIP {pushed:#x}");
        }
    }
    Ok(())
}

/// RFLAGS at the exit for the access, and at the end.
fn resume_flag() -> Result<()> {
    for code in [STORE, LOAD] {
        each_way(|_| {
            let (machine, mut vcpu, at) = prepared(&code)?;
            start_with(&mut vcpu, regs_for(&machine), at, RF)?;
            let exit = vcpu.step()?;
            let first = vcpu.fd().get_regs().context("KVM_GET_REGS")?;
            expect_eq!(vcpu.step()?, None);
            let last = vcpu.fd().get_regs().context("KVM_GET_REGS")?;
            expect_eq!(last.rflags & RF, 0);
            Ok((exit, first, last))
        })?;
    }
    Ok(())
}

/// Userspace single-steps, from the start or from the exit for the access on.
fn guest_debug() -> Result<()> {
    needs_trap_flag()?;
    for code in [STORE, LOAD] {
        for late in [false, true] {
            let seen = each_way(|_| {
                let mut seen = debugged(&code, late)?;
                // After a read that userspace has answered the emulator restores RFLAGS, without
                // the TF of this request, and steps no more.
                seen.truncate(if late { 2 } else { usize::MAX });
                Ok(seen)
            })?;
            // Where there is no other trap, KVM forgets the step when a store goes to userspace.
            let must_stop = code == LOAD || late;
            if must_stop && !seen.iter().any(|exit| exit.starts_with("debug")) {
                bail!("never stopped: {seen:?}, late {late}");
            }
        }
    }
    Ok(())
}

/// All exits with RIP at each.
fn debugged(code: &[u8], late: bool) -> Result<Vec<String>> {
    let (machine, mut vcpu, at) = prepared(code)?;
    run_at(&mut vcpu, regs_for(&machine), at)?;
    vcpu.start(regs_for(&machine), at)?;
    let step = |vcpu: &Vcpu| {
        vcpu.fd()
            .set_guest_debug(&kvm_guest_debug {
                control: KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP,
                ..Default::default()
            })
            .context("KVM_SET_GUEST_DEBUG")
    };
    if !late {
        step(&vcpu)?;
    }
    let mut seen = Vec::new();
    for _ in 0..10 {
        let exit = match vcpu.fd_mut().run().context("KVM_RUN")? {
            VcpuExit::MmioWrite(gpa, data) => format!("write {gpa:#x} {data:x?}"),
            VcpuExit::MmioRead(gpa, data) => {
                data.fill(0xa5);
                format!("read {gpa:#x} {}", data.len())
            }
            VcpuExit::Debug(debug) => format!("debug {:#x} dr6 {:#x}", debug.pc, debug.dr6),
            VcpuExit::IoOut(to, _) if to == u16::from(port::DONE) => "done".to_owned(),
            other => format!("{other:?}"),
        };
        let regs = vcpu.fd().get_regs().context("KVM_GET_REGS")?;
        let end = exit == "done";
        seen.push(format!("{exit}, rip {:#x} rax {:#x}", regs.rip, regs.rax));
        if end {
            break;
        }
        if late && seen.len() == 1 {
            step(&vcpu)?;
        }
    }
    Ok(seen)
}

/// The access is in the interrupt shadow of the instruction before it, which ends with it.
fn shadow(before: &[u8]) -> Result<()> {
    for access in [STORE, LOAD] {
        let code = [before, &access].concat();
        let last = each_way_undisturbed(|fast| {
            let (machine, mut vcpu, at) = prepared(&code)?;
            let regs = kvm_regs {
                // The data segment, for SS.
                rcx: 0x10,
                ..regs_for(&machine)
            };
            let start = mark(&vcpu)?;
            vcpu.start(regs, at)?;
            let exit = vcpu.step()?;
            let first = events_of(&vcpu)?.interrupt.shadow;
            // Completes the access, and does not run the guest.
            super::pending::complete(&mut vcpu)?;
            let last = events_of(&vcpu)?.interrupt.shadow;
            let regs = vcpu.fd().get_regs().context("KVM_GET_REGS")?;
            delta(&start, &vcpu)?.expect_ext("fast", fast.into())?;
            Ok((exit, first, last, regs))
        })?
        .2;
        expect_eq!(last, 0, "interrupt shadow after the access");
    }
    Ok(())
}

/// The kernel's page is fast for the kernel and denied to user mode; the user's is fast there.
fn user_mode() -> Result<()> {
    let _switch = Switch::on()?;
    let tdp = Modes::detect()?.tdp;
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    machine
        .tables()
        .map(machine.gva(2), machine.gpa(2), SUPERVISOR | USER);
    let store = vcpu.load(|a| a.mov(asm::dword_ptr(operand(Mode::Long, 0)), asm::eax))?;
    for round in 0..3 {
        for (page, allowed) in [(1, false), (2, true)] {
            let (gva, gpa) = (machine.gva(page), machine.gpa(page));
            vcpu.touch(gva, gpa, 4)?;
            let start = mark(&vcpu)?;
            let regs = kvm_regs {
                rdi: gva,
                rsi: store,
                rax: 7,
                ..Default::default()
            };
            let run = vcpu.exec(regs, |a| enter_user_mode(a, Mode::Long))?;
            let delta = delta(&start, &vcpu)?;
            if allowed {
                expect_eq!(run.done()?, [Event::write(gpa, 4, 7)], "round {round}");
                delta
                    .expect_ext("fast", 1)?
                    .expect_ext("refused_access", 0)?;
                vcpu.leave_user_mode()?;
            } else {
                let [Event::Fault(fault)] = run.events[..] else {
                    bail!("round {round}: {:?}", run.events);
                };
                let want = Fault {
                    vector: PAGE_FAULT,
                    error_code: 7,
                    cr2: gva,
                };
                expect_eq!(fault, want, "round {round}");
                // With TDP the processor sees to it.
                delta
                    .expect_ext("fast", 0)?
                    .expect_ext("refused_access", (!tdp).into())?;
            }
        }
    }
    Ok(())
}

/// The kernel stores to a device that is mapped for the user, with SMAP.
fn smap() -> Result<()> {
    const CR4_SMAP: u64 = 1 << 21;
    const AC: u64 = 1 << 18;
    if !Machine::supports_smap()? {
        skip!("this processor has no SMAP");
    }
    for allowed in [true, false] {
        let (events, gva, gpa) = each_way(|fast| {
            // Before the guest runs: nobody tells KVM that userspace changes page tables.
            let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
            let (gva, gpa, at) = (machine.gva(1), machine.gpa(1), code_page(0));
            machine.ram().write(at, &ending(&STORE));
            // What the processor itself touches must be the kernel's.
            for page in (0..RAM_SIZE).step_by(PAGE as usize) {
                machine.tables().map(page, page, SUPERVISOR);
            }
            machine.tables().map(gva, gpa, SUPERVISOR | USER);
            vcpu.change_sregs(|sregs| sregs.cr4 |= CR4_SMAP)?;

            let regs = regs_for(&machine);
            for _ in 0..2 {
                start_with(&mut vcpu, regs, at, AC)?;
                let write = Event::write(gpa, 4, regs.rax & 0xffff_ffff);
                expect_eq!(finish(&mut vcpu)?, [write]);
            }
            let start = mark(&vcpu)?;
            start_with(&mut vcpu, regs, at, if allowed { AC } else { 0 })?;
            let events = finish(&mut vcpu)?;
            delta(&start, &vcpu)?.expect_ext("fast", (fast && allowed).into())?;
            Ok((events, gva, gpa))
        })?;
        if allowed {
            expect_eq!(events.len(), 1, "{events:?}, {gpa:#x}");
            continue;
        }
        let [Event::Fault(fault)] = events[..] else {
            bail!("{events:?}: wanted a page fault");
        };
        expect_eq!(
            (fault.vector, fault.error_code, fault.cr2),
            (PAGE_FAULT, 3, gva)
        );
    }
    Ok(())
}

/// Code and device are mapped in the upper half of the address space.
fn kernel_half(mode: Mode, base: u64) -> Result<()> {
    if !Machine::supports(mode)? {
        skip!("this processor has no 5-level paging");
    }
    let _switch = Switch::on()?;
    let (machine, mut vcpu) = Machine::with_vcpu(mode)?;
    let device = base + 0x5000_0000;
    machine.tables().map(base, code_page(0), SUPERVISOR);
    machine.tables().map(device, machine.gpa(1), SUPERVISOR);
    machine.ram().write(code_page(0), &ending(&STORE));
    let regs = kvm_regs {
        rdi: device,
        rax: 7,
        ..Default::default()
    };

    let exit = [Event::write(machine.gpa(1), 4, 7)];
    expect_eq!(run_at(&mut vcpu, regs, base)?, exit, "first access");
    let start = mark(&vcpu)?;
    for _ in 0..3 {
        expect_eq!(run_at(&mut vcpu, regs, base)?, exit);
    }
    delta(&start, &vcpu)?
        .expect_ext("fast", 3)?
        .expect_ext("refused_address", 0)?;
    Ok(())
}

/// The guest reads a page whose entry is clean before it writes. With shadow paging, what is known
/// of the page forbids to write.
fn write_to_clean_page(mode: Mode) -> Result<()> {
    const WRITES: u64 = 4;
    let _switch = Switch::on()?;
    let (machine, mut vcpu) = Machine::with_vcpu(mode)?;
    let (gva, gpa) = (machine.gva(1), machine.gpa(1));
    machine.tables().map(gva, gpa, SUPERVISOR & !DIRTY);
    for _ in 0..2 {
        expect_eq!(vcpu.read(gva, 4)?.1, [Event::read(gpa, 4)]);
    }
    let start = mark(&vcpu)?;
    for n in 0..WRITES {
        expect_eq!(vcpu.write(gva, 4, n)?, [Event::write(gpa, 4, n)]);
    }
    delta(&start, &vcpu)?.expect_ext("fast", WRITES)?;
    // With TDP that is the processor's matter.
    if !Modes::detect()?.tdp {
        expect_eq!(machine.tables().entry(gva) & DIRTY, DIRTY);
    }
    Ok(())
}

/// RSP, which KVM reads when it is asked for, changes between two accesses.
fn stack_pointer() -> Result<()> {
    const ROUNDS: u64 = 4;
    let _switch = Switch::on()?;
    // mov [rsp + 8], eax
    let (machine, mut vcpu, at) = prepared(&[0x89, 0x44, 0x24, 0x08])?;
    run_at(
        &mut vcpu,
        kvm_regs {
            rsp: machine.gva(1),
            ..regs_for(&machine)
        },
        at,
    )?;
    let start = mark(&vcpu)?;
    for round in 0..ROUNDS {
        let regs = kvm_regs {
            rsp: machine.gva(1),
            rsi: 0x10 * (round + 1),
            rbx: at,
            ..regs_for(&machine)
        };
        let run = vcpu.exec(regs, |a| {
            a.mov(asm::dword_ptr(asm::rsp), asm::ecx)?;
            a.add(asm::rsp, asm::rsi)?;
            a.jmp(asm::rbx)
        })?;
        let want = [
            Event::write(machine.gpa(1), 4, regs.rcx),
            Event::write(machine.gpa(1) + 0x10 * (round + 1) + 8, 4, regs.rax),
        ];
        expect_eq!(run.done()?, want, "round {round}");
    }
    delta(&start, &vcpu)?.expect_ext("fast", 2 * ROUNDS)?;
    Ok(())
}
