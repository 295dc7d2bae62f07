// SPDX-License-Identifier: GPL-2.0
//! Code in several address spaces: what is known in one is used in another only where it is the same.

use anyhow::{Result, ensure};
use iced_x86::code_asm as asm;
use kvm_bindings::kvm_regs;

use super::code::{ROUNDS, STALE, stored, two_pages, warm};
use super::program::{CODE, code_page, delta, mark, regs_for};
use super::ways::Switch;
use crate::expect_eq;
use crate::guest::Vcpu;
use crate::guest::paging::SUPERVISOR;
use crate::host::Modes;

crate::test_table! {
    fast_code_cr3: STALE => cr3(),
    fast_code_many_roots: STALE => many_roots(2),
    fast_code_shared_tables:
        "fetch cache: an instruction is known in each address space that has the same tables below \
            its root" => many_roots(1),
}

/// Another root maps other code at the same RIP.
fn cr3() -> Result<()> {
    let _switch = Switch::on()?;
    let (machine, mut vcpu) = warm()?;
    two_pages(&machine);
    let second = machine.new_tables();
    machine.tables().map(CODE, code_page(0), SUPERVISOR);
    second.map(CODE, code_page(1), SUPERVISOR);
    let roots = [machine.tables().root(), second.root()];
    let start = mark(&vcpu)?;
    for round in 0..4 * ROUNDS {
        let regs = kvm_regs {
            rsi: roots[(round % 2) as usize],
            ..regs_for(&machine)
        };
        let run = vcpu.exec(regs, |a| {
            a.mov(asm::cr3, asm::rsi)?;
            a.jmp(asm::rbx)
        })?;
        expect_eq!(run.done()?, stored(&machine, round % 2), "round {round}");
    }
    // Under shadow paging, the second root has no MMIO SPTE at first.
    let fast = delta(&start, &vcpu)?.ext("fast")?.unwrap_or(0);
    ensure!(fast + 1 >= 4 * ROUNDS, "fast {fast}");
    Ok(())
}

/// More roots than a vCPU has places for pages of code. Of two kinds, neighbours differ in what they map
/// at the same RIP, so some that share a place do, too; of one, all have the same tables.
fn many_roots(kinds: u64) -> Result<()> {
    const ROOTS: u64 = 96;
    const FIRST: u64 = 8;
    let _switch = Switch::on()?;
    let (machine, mut vcpu) = warm()?;
    two_pages(&machine);
    // In the upper half, where entries of the root lead to nothing but the code.
    let code = [0xffff_a000_0000_0000, 0xffff_a080_0000_0000];
    for (n, code) in (0..).zip(code) {
        machine.tables().map(code, code_page(n), SUPERVISOR);
    }
    let entries = code.map(|code| machine.tables().root_entry(code));
    let slot = machine.tables().entries(code[0])[0] - machine.tables().root();
    let set_entry = |n: u64, kind: u64| {
        let at = code_page(FIRST + n) + slot;
        machine.ram().write_u64(at, entries[kind as usize]);
    };
    for n in 0..ROOTS {
        machine.copy_root(code_page(FIRST + n));
        set_entry(n, n % kinds);
    }

    let run = |vcpu: &mut Vcpu, n: u64| {
        let regs = kvm_regs {
            rsi: code_page(FIRST + n),
            rbx: code[0],
            ..regs_for(&machine)
        };
        let run = vcpu.exec(regs, |a| {
            a.mov(asm::cr3, asm::rsi)?;
            a.jmp(asm::rbx)
        });
        run?.done()
    };
    let start = mark(&vcpu)?;
    for round in 0..ROUNDS {
        for n in 0..ROOTS {
            let want = stored(&machine, n % kinds);
            expect_eq!(run(&mut vcpu, n)?, want, "root {n}, round {round}");
        }
    }
    let fast = delta(&start, &vcpu)?.ext("fast")?.unwrap_or(0);
    if kinds != 1 {
        // Those that have come first keep their places.
        ensure!(fast >= ROOTS / 4, "fast {fast}");
        return Ok(());
    }
    // Under shadow paging, some roots have no MMIO SPTE at first.
    let others = if Modes::detect()?.tdp { 0 } else { ROOTS / 8 };
    ensure!(fast + others >= ROUNDS * ROOTS, "fast {fast}");

    // The root's entry changes, of every other one and then of the first as well, and so do the tables
    // below.
    let change_roots = |first: u64| {
        for n in (first..ROOTS).step_by(2) {
            set_entry(n, 1);
        }
    };
    let mut expect = |even: u64, odd: u64| {
        for n in 0..ROOTS {
            let want = stored(&machine, if n % 2 == 0 { even } else { odd });
            expect_eq!(run(&mut vcpu, n)?, want, "root {n}");
        }
        Ok(())
    };
    change_roots(1);
    expect(0, 1)?;
    machine.tables().map(code[0], code_page(1), SUPERVISOR);
    expect(1, 1)?;
    machine.tables().map(code[1], code_page(0), SUPERVISOR);
    expect(1, 0)?;
    change_roots(0);
    expect(0, 0)
}
