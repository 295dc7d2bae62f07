// SPDX-License-Identifier: GPL-2.0
//! 32-bit code: what was read of it, and the page tables that lead to it.

use anyhow::{Context, Result, ensure};
use iced_x86::code_asm as asm;
use kvm_bindings::kvm_regs;

use super::flat::{STORES, regs_for, stored};
use super::program::{code_page, delta, ending, mark, run_at};
use super::ways::{Switch, each_way};
use crate::guest::paging::SUPERVISOR;
use crate::guest::{Event, Machine, Mode, PAGE, Vcpu};
use crate::host::{Modes, is_qemu};
use crate::{expect_eq, skip};

const STALE: &str = "fetch cache: 32-bit code that was read before is not taken for another at the \
    same RIP";

crate::test_table! {
    fast_flat_or_long:
        "fetch cache: the same bytes at the same RIP are two instructions, and both are fast"
        => flat_or_long(),
    fast_flat_code_modified: STALE => modified(),
    fast_flat_code_tables_pae: STALE => tables(Mode::Pae),
    fast_flat_code_tables_legacy: STALE => tables(Mode::Legacy),
    fast_flat_code_no_pse: STALE => no_pse(),
    fast_flat_code_pdpte:
        "fetch: the first level of PAE page tables is what the processor goes by" => pdpte(),
}

const ROUNDS: u64 = 3;

/// Puts each of the stores at the start of a page of its own.
fn two_pages(machine: &Machine) {
    for (n, code) in (0..).zip(STORES) {
        machine.ram().write(code_page(n), &ending(&code));
    }
}

/// The same bytes are executed as 64-bit and as 32-bit code, which have another operand.
fn flat_or_long() -> Result<()> {
    let _switch = Switch::on()?;
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let (gva, at) = (machine.gva(1), code_page(0));
    // mov [gva], eax; as 64-bit code, mov [rip + gva], eax.
    let code = [&[0x89, 0x05][..], &(gva as u32).to_le_bytes()].concat();
    let other = gva + at + code.len() as u64;
    machine.ram().write(at, &ending(&code));
    machine.tables().map(other, machine.gpa(2), SUPERVISOR);
    let regs = regs_for(gva);
    let want = [machine.gpa(1), machine.gpa(2) + other % PAGE];
    let mut run = |is_long: bool| {
        vcpu.change_sregs(|s| (s.cs.l, s.cs.db) = (is_long.into(), (!is_long).into()))?;
        let start = mark(&vcpu)?;
        let events = run_at(&mut vcpu, regs, at)?;
        let gpa = want[usize::from(is_long)];
        expect_eq!(events, [Event::write(gpa, 4, regs.rax)], "long: {is_long}");
        delta(&start, &vcpu)?.ext("fast")
    };
    for is_long in [true, false] {
        run(is_long)?;
    }
    for round in 0..ROUNDS {
        for is_long in [true, false] {
            expect_eq!(run(is_long)?, Some(1), "round {round}, long: {is_long}");
        }
    }
    Ok(())
}

/// The host writes other code.
fn modified() -> Result<()> {
    let _switch = Switch::on()?;
    for mode in [Mode::Pae, Mode::Legacy, Mode::Flat] {
        let (machine, mut vcpu) = Machine::with_vcpu(mode)?;
        let (gva, gpa, at) = (machine.gva(1), machine.gpa(1), code_page(0));
        vcpu.touch(gva, gpa, 4)?;
        let start = mark(&vcpu)?;
        for round in 0..2 * ROUNDS {
            let n = round % 2;
            machine.ram().write(at, &ending(&STORES[n as usize]));
            for _ in 0..2 {
                let events = run_at(&mut vcpu, regs_for(gva), at)?;
                expect_eq!(events, stored(gpa, n), "{mode:?}, round {round}");
            }
        }
        delta(&start, &vcpu)?.expect_ext("fast", 4 * ROUNDS)?;
    }
    Ok(())
}

/// The guest writes `value` to an entry of the path to its code, loads CR3 and goes there: the `n`th
/// store is what is done, then and the next time, which is fast.
fn remapped(
    machine: &Machine,
    vcpu: &mut Vcpu,
    (entry, value): (u64, u64),
    code: u64,
    n: u64,
) -> Result<()> {
    let gpa = machine.gpa(1);
    let regs = kvm_regs {
        rdx: entry,
        rsi: value,
        rbx: code,
        rbp: machine.tables().root(),
        ..regs_for(machine.gva(1))
    };
    let run = vcpu.exec(regs, |a| {
        a.mov(asm::dword_ptr(asm::edx), asm::esi)?;
        a.mov(asm::cr3, asm::ebp)?;
        a.jmp(asm::ebx)
    })?;
    expect_eq!(run.done()?, stored(gpa, n));
    // With shadow paging, KVM may have dropped the MMIO SPTE with the tables.
    let start = mark(vcpu)?;
    expect_eq!(run_at(vcpu, regs, code)?, stored(gpa, n));
    delta(&start, vcpu)?.expect_ext("fast", 1)?;
    Ok(())
}

/// Skips where the first level of PAE page tables is not what a guest has written; seen with QEMU 7.2
/// and 10.0.
fn needs_pae_tables() -> Result<()> {
    if Modes::detect()?.tdp && is_qemu() {
        skip!("QEMU with NPT writes to the entries that CR3 points to, at no certain time");
    }
    Ok(())
}

/// Lets the vCPU load CR3 anew: with PAE paging it has the entries of the first level in registers.
fn reload(vcpu: &Vcpu) -> Result<()> {
    vcpu.change_sregs(|_| ())
}

/// Where all of the path to it is the code's own.
const HIGH: u64 = 0x8000_0000;

/// The guest puts another table, or page, into the path to its code, at each level.
fn tables(mode: Mode) -> Result<()> {
    if mode == Mode::Pae {
        needs_pae_tables()?;
    }
    let _switch = Switch::on()?;
    let (machine, mut vcpu) = Machine::with_vcpu(mode)?;
    vcpu.touch(machine.gva(1), machine.gpa(1), 4)?;
    two_pages(&machine);
    machine.tables().map(HIGH, code_page(0), SUPERVISOR);
    reload(&vcpu)?;
    let path = machine.tables().entries(HIGH);
    let bits = if mode == Mode::Pae { 9 } else { 10 };
    for (level, entry) in path.iter().enumerate() {
        let other = HIGH + (PAGE << (bits * (path.len() - 1 - level)));
        machine.tables().map(other, code_page(1), SUPERVISOR);
        let other = machine.tables().entries(other)[level];
        let values = [*entry, other].map(|at| machine.tables().read_entry(at));
        for round in 0..=2 * ROUNDS {
            let n = round % 2;
            let value = values[n as usize];
            remapped(&machine, &mut vcpu, (*entry, value), HIGH, n)
                .with_context(|| format!("level {level} from the root, round {round}"))?;
        }
    }
    Ok(())
}

/// Without CR4.PSE bit 7 means nothing in an entry that leads to a table. This one has it, and the
/// page that it would be has the code where the table has it at first.
fn no_pse() -> Result<()> {
    const PAGE_SIZE: u64 = 1 << 7;
    let _switch = Switch::on()?;
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Legacy)?;
    vcpu.touch(machine.gva(1), machine.gpa(1), 4)?;
    two_pages(&machine);
    // Nothing else is in the guest's first page, the table.
    let pte = code_page(0) / PAGE * 4;
    let pde = machine.tables().root() + (HIGH >> 22) * 4;
    machine.tables().write_entry(pte, code_page(0) | SUPERVISOR);
    machine.tables().write_entry(pde, PAGE_SIZE | SUPERVISOR);
    for round in 0..2 * ROUNDS {
        let n = round % 2;
        let value = code_page(n) | SUPERVISOR;
        remapped(&machine, &mut vcpu, (pte, value), HIGH + code_page(0), n)
            .with_context(|| format!("round {round}"))?;
    }
    Ok(())
}

/// An entry of the first level changes in memory. Until CR3 is loaded again, processors that keep
/// these in registers walk by the old one, and then changes below that count.
fn pdpte() -> Result<()> {
    needs_pae_tables()?;
    each_way(|fast| {
        let (machine, mut vcpu) = Machine::with_vcpu(Mode::Pae)?;
        let (gva, gpa) = (machine.gva(1), machine.gpa(1));
        vcpu.touch(gva, gpa, 4)?;
        two_pages(&machine);
        // Two tables that map the same, so that a walk by either gets there.
        let other = HIGH + (1 << 30);
        for address in [HIGH, other] {
            machine.tables().map(address, code_page(0), SUPERVISOR);
        }
        reload(&vcpu)?;
        let ptes = [HIGH, other].map(|address| machine.tables().pte(address));
        let root = machine.tables().entries(HIGH)[0];
        let value = machine.ram().read_u64(machine.tables().entries(other)[0]);
        let regs = kvm_regs {
            rdx: root,
            rsi: value,
            rbx: HIGH,
            ..regs_for(gva)
        };
        let mut seen = Vec::new();
        let start = mark(&vcpu)?;
        for _ in 0..ROUNDS {
            seen.push(run_at(&mut vcpu, regs, HIGH)?);
        }
        // With shadow paging, the second root has no MMIO SPTE at first.
        let count = delta(&start, &vcpu)?.ext("fast")?.unwrap_or(0);
        ensure!(!fast || count + 1 >= ROUNDS, "fast {count}");
        // Now both get there, by different tables.
        let store = |vcpu: &mut Vcpu, regs| {
            vcpu.exec(regs, |a| {
                a.mov(asm::dword_ptr(asm::edx), asm::esi)?;
                a.invlpg(asm::byte_ptr(asm::ebx))?;
                a.jmp(asm::ebx)
            })?
            .done()
        };
        for _ in 0..ROUNDS {
            seen.push(store(&mut vcpu, regs)?);
        }
        // One of them leads to other code now, then the other as well.
        for pte in ptes {
            let regs = kvm_regs {
                rdx: pte,
                rsi: code_page(1) | SUPERVISOR,
                ..regs
            };
            for _ in 0..ROUNDS {
                seen.push(store(&mut vcpu, regs)?);
            }
        }
        expect_eq!(seen[seen.len() - 1], stored(gpa, 1));
        Ok(seen)
    })?;
    Ok(())
}
