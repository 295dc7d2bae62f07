// SPDX-License-Identifier: GPL-2.0
//! 32-bit code: fast with flat segments, the emulator's with all others.

use anyhow::{Result, bail, ensure};
use kvm_bindings::{kvm_regs, kvm_sregs};

use super::program::{STORE, code_page, delta, ending, mark, run_at};
use super::ways::{Switch, each_way, needs_more_than_bochs};
use crate::expect_eq;
use crate::guest::layout::{GDT, SCRATCH};
use crate::guest::paging::SUPERVISOR;
use crate::guest::{Bus, Event, Machine, Match, Mode, PAGE, Vcpu, pattern_value};

const FLAT: &str = "gate: 32-bit code with flat segments is for the fast path";

const OTHERS: &str = "gate: all other code that is not 64-bit is left to the emulator";

crate::test_table! {
    fast_flat_pae: FLAT => accesses(Mode::Pae),
    fast_flat_legacy: FLAT => accesses(Mode::Legacy),
    fast_flat_unpaged: FLAT => accesses(Mode::Flat),
    fast_flat_compatibility_mode: FLAT => short_instruction(Mode::Long, true),
    fast_flat_refuses_compatibility_mode: OTHERS => short_instruction(Mode::Long, false),
    fast_flat_refuses_void_l_bit: OTHERS => {
        // VMRUN fails there, also outside long mode.
        needs_more_than_bochs("does not enter a guest with CS.L and CS.D")?;
        short_instruction(Mode::Pae, false)
    },
    fast_flat_refuses_segments: OTHERS => segments(),
    fast_flat_refuses_prefixes:
        "decode: what means something else in 32-bit code than in 64-bit code is the emulator's"
        => prefixes(),
    fast_flat_end_of_addresses: "retirement: RIP goes on at 0 behind 4 GiB" => end_of_addresses(),
    fast_flat_after_segments:
        "gate: code with flat segments is looked at again behind code without" => after_segments(),
}

const ROUNDS: u64 = 3;

/// mov [edi], eax; mov [edi], ecx
pub const STORES: [[u8; 2]; 2] = [STORE, [0x89, 0x0f]];

/// Registers for these, or for a load to EAX.
pub fn regs_for(gva: u64) -> kvm_regs {
    kvm_regs {
        rdi: gva,
        rax: 0x5566_7788,
        rcx: 0xddee_ff01,
        ..Default::default()
    }
}

/// What the `n`th store writes.
pub fn stored(gpa: u64, n: u64) -> [Event; 1] {
    let regs = regs_for(0);
    [Event::write(gpa, 4, [regs.rax, regs.rcx][n as usize])]
}

/// All sizes, and forms that only 32-bit code has.
fn accesses(mode: Mode) -> Result<()> {
    each_way(|fast| {
        let (machine, mut vcpu) = Machine::with_vcpu(mode)?;
        let (gva, gpa) = (machine.gva(1), machine.gpa(1));
        vcpu.touch(gva, gpa, 4)?;
        let start = mark(&vcpu)?;
        let mut seen = Vec::new();
        let mut count = 0;
        for _ in 0..ROUNDS {
            for size in mode.sizes().iter().copied() {
                let exit = Event::write(gpa, size.into(), 0x8877_6655);
                expect_eq!(vcpu.write(gva, size, 0x8877_6655)?, [exit], "{size}");
                let (value, exits) = vcpu.read(gva, size)?;
                expect_eq!(value, pattern_value(gpa, size.into()), "{size}");
                expect_eq!(exits, [Event::read(gpa, size.into())], "{size}");
                count += 2;
            }
            let address = (gva as u32).to_le_bytes();
            let next = (gva as u32 + 0x10).to_le_bytes();
            // Of all of these 64-bit code makes something else, but for the last two.
            for code in [
                &[&[0xa3][..], &address].concat(),
                &[&[0xa0][..], &address].concat(),
                &[&[0x89, 0x0d][..], &address].concat(),
                &[&[0xc7, 0x05][..], &next, &[1, 2, 3, 4]].concat(),
                &[&[0x66, 0x89, 0x04, 0x25][..], &next].concat(),
                // movsx eax, byte [edi + ecx * 4]
                &vec![0x0f, 0xbe, 0x04, 0x8f],
            ] {
                let at = code_page(0);
                machine.ram().write(at, &ending(code));
                let regs = kvm_regs {
                    rcx: 4,
                    ..regs_for(gva)
                };
                let events = run_at(&mut vcpu, regs, at)?;
                expect_eq!(events.len(), 1, "{code:x?}: {events:?}");
                let regs = vcpu.fd().get_regs()?;
                seen.push((events, regs.rax, regs.rip));
                count += 1;
            }
        }
        delta(&start, &vcpu)?
            .expect_ext("fast", if fast { count } else { 0 })?
            .expect_ext("refused_context", 0)?;
        Ok(seen)
    })?;
    Ok(())
}

/// Code that is 32-bit although the processor is in long mode, or although CS.L is set; and an
/// instruction that is longer as 64-bit code. In long mode the data segment decides whether it is flat.
fn short_instruction(mode: Mode, is_flat: bool) -> Result<()> {
    /// Where the guest goes on, and in which segment.
    const TARGET: u64 = SCRATCH + 8 * PAGE;
    const VALUE: u64 = SCRATCH + 9 * PAGE + 8;
    const KERNEL_CODE: u64 = 0x08;
    const L: u64 = 1 << 53;
    const D: u64 = 1 << 54;
    let (events, stored, want) = each_way(|fast| {
        let (machine, mut vcpu) = Machine::with_vcpu(mode)?;
        let (gva, gpa, at) = (machine.gva(1), machine.gpa(1), code_page(0));
        // mov [gva], eax; add [eax], al, twice. As 64-bit code it is one instruction.
        let code = [&[0xa3][..], &gva.to_le_bytes()].concat();
        machine.ram().write(at, &ending(&code));
        machine.ram().write_u64(TARGET, KERNEL_CODE << 32 | at);
        let code_segment = machine.ram().read_u64(GDT + KERNEL_CODE);
        machine
            .ram()
            .write_u64(GDT + KERNEL_CODE, (code_segment | D) ^ L);

        let regs = kvm_regs {
            rsi: TARGET,
            rax: VALUE,
            ..regs_for(gva)
        };
        if mode == Mode::Long && !is_flat {
            vcpu.limit_data_segment()?;
        }
        // jmp far [rsi], or [esi]
        let run = |vcpu: &mut Vcpu| vcpu.exec(regs, |a| a.db(&[0xff, 0x2e]))?.done();
        run(&mut vcpu)?;
        machine.ram().write_u64(VALUE, 0);
        let start = mark(&vcpu)?;
        let events = run(&mut vcpu)?;
        delta(&start, &vcpu)?
            .expect_ext("fast", (fast && is_flat).into())?
            .expect_ext("refused_context", (fast && !is_flat).into())?;
        let want = [Event::write(gpa, 4, VALUE)];
        Ok((events, machine.ram().read_u64(VALUE), want))
    })?;
    expect_eq!(events, want);
    expect_eq!(stored, 2 * (VALUE & 0xff));
    Ok(())
}

/// One segment at a time is not flat: its base, its limit, its type, its width.
fn segments() -> Result<()> {
    const CONFORMING: u8 = 1 << 2;
    const EXPAND_DOWN: u8 = 1 << 2;
    const WRITABLE: u8 = 1 << 1;
    const SHORT: u32 = 0xffff_efff;
    /// Far above what is accessed.
    const NEARLY_ALL: u32 = 0x0000_0fff;
    type Change = fn(&mut kvm_sregs);
    let load = [0x8b, 0x07];
    // mov [edi], ebp, relative to SS if it is the base
    let stack = [0x89, 0x45, 0x00];
    let cases: &[(&str, &[u8], Change, u64)] = &[
        ("CS limit", &STORE, |s| s.cs.limit = SHORT, 0),
        ("CS base", &STORE, |s| s.cs.base = PAGE, 0),
        ("CS conforming", &STORE, |s| s.cs.type_ |= CONFORMING, 0),
        // It takes the prefix for addresses of 32 bits.
        ("CS.D", &[0x67, 0x89, 0x07], |s| s.cs.db = 0, 0),
        ("DS limit", &STORE, |s| s.ds.limit = SHORT, 0),
        ("DS base", &STORE, |s| s.ds.base = PAGE, PAGE),
        ("DS read-only", &load, |s| s.ds.type_ &= !WRITABLE, 0),
        (
            "DS grows down",
            &STORE,
            |s| {
                s.ds.type_ |= EXPAND_DOWN;
                s.ds.limit = NEARLY_ALL;
            },
            0,
        ),
        ("SS limit", &stack, |s| s.ss.limit = SHORT, 0),
        ("SS base", &stack, |s| s.ss.base = PAGE, PAGE),
    ];
    for (what, code, change, shift) in cases {
        let (events, gpa) = each_way(|fast| {
            let (machine, mut vcpu) = Machine::with_vcpu(Mode::Pae)?;
            let (gva, gpa) = (machine.gva(1), machine.gpa(1));
            vcpu.touch(gva, gpa, 4)?;
            vcpu.change_sregs(change)?;
            let base = vcpu.sregs()?.cs.base;
            machine.ram().write(code_page(0), &ending(code));
            let regs = kvm_regs {
                rbp: gva - shift,
                ..regs_for(gva - shift)
            };
            run_at(&mut vcpu, regs, code_page(0) - base)?;
            let start = mark(&vcpu)?;
            let events = run_at(&mut vcpu, regs, code_page(0) - base)?;
            delta(&start, &vcpu)?
                .expect_ext("fast", 0)?
                .expect_ext("refused_context", fast.into())?;
            Ok((events, gpa))
        })?;
        let [ref event] = events[..] else {
            bail!("{what}: {events:?}");
        };
        match event {
            Event::Write { gpa: at, .. } | Event::Read { gpa: at, .. } => {
                expect_eq!(*at, gpa, "{what}")
            }
            other => bail!("{what}: {other:?}"),
        }
    }
    Ok(())
}

/// Bytes that are prefixes without a meaning, or REX, in 64-bit code.
fn prefixes() -> Result<()> {
    for code in [
        &[0x26, 0x89, 0x07][..], // mov es:[edi], eax
        &[0x3e, 0x89, 0x07],     // mov ds:[edi], eax
        &[0x67, 0x89, 0x05],     // mov [di], eax
        &[0x64, 0x89, 0x07],     // mov fs:[edi], eax
    ] {
        // Nothing is there as 16 bits of the address have it, in the guest's own memory.
        let is_short = code[0] == 0x67;
        each_way(|_| {
            let (machine, mut vcpu) = Machine::with_vcpu(Mode::Pae)?;
            let (gva, gpa, at) = (machine.gva(1), machine.gpa(1), code_page(0));
            vcpu.touch(gva, gpa, 4)?;
            let short = SCRATCH & 0xffff | 0xf000;
            if is_short {
                machine.tables().map(short, gpa, SUPERVISOR);
            }
            machine.ram().write(at, &ending(code));
            let regs = kvm_regs {
                // The upper half of the register does not count then.
                rdi: if is_short { short | 0xabcd_0000 } else { gva },
                ..regs_for(gva)
            };
            run_at(&mut vcpu, regs, at)?;
            let start = mark(&vcpu)?;
            let events = run_at(&mut vcpu, regs, at)?;
            expect_eq!(events, stored(gpa, 0), "{code:x?}");
            delta(&start, &vcpu)?.expect_ext("fast", 0)?;
            Ok(events)
        })?;
    }
    // dec eax; mov [edi], eax, which is fast, but at the second byte.
    each_way(|fast| {
        let (machine, mut vcpu) = Machine::with_vcpu(Mode::Pae)?;
        let (gva, gpa, at) = (machine.gva(1), machine.gpa(1), code_page(0));
        vcpu.touch(gva, gpa, 4)?;
        machine.ram().write(at, &ending(&[0x48, 0x89, 0x07]));
        let start = mark(&vcpu)?;
        let regs = regs_for(gva);
        let events = run_at(&mut vcpu, regs, at)?;
        expect_eq!(events, [Event::write(gpa, 4, regs.rax - 1)]);
        delta(&start, &vcpu)?.expect_ext("fast", fast.into())?;
        Ok(())
    })
}

/// A store is the last instruction below 4 GiB.
fn end_of_addresses() -> Result<()> {
    const LAST: u64 = 0xffff_f000;
    each_way(|fast| {
        let (machine, mut vcpu) = Machine::with_vcpu(Mode::Legacy)?;
        let (gva, gpa) = (machine.gva(1), machine.gpa(1));
        vcpu.touch(gva, gpa, 4)?;
        machine.tables().map(LAST, code_page(0), SUPERVISOR);
        machine.ram().write(code_page(0) + PAGE - 2, &STORE);
        // Nothing else is in the guest's first page.
        machine.ram().write(0, &ending(&[]));
        let run = |vcpu: &mut Vcpu| run_at(vcpu, regs_for(gva), LAST + PAGE - 2);
        run(&mut vcpu)?;
        let start = mark(&vcpu)?;
        expect_eq!(run(&mut vcpu)?, stored(gpa, 0));
        delta(&start, &vcpu)?.expect_ext("fast", fast.into())?;
        Ok(())
    })
}

/// A vCPU runs code with a limited segment, and then code with flat ones.
fn after_segments() -> Result<()> {
    const ACCESSES: u64 = 40;
    let _switch = Switch::on()?;
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Pae)?;
    let (gva, gpa) = (machine.gva(1), machine.gpa(1));
    let segmented = |vcpu: &mut Vcpu, write: bool| {
        let flat = vcpu.sregs()?;
        vcpu.limit_data_segment()?;
        vcpu.touch(gva, gpa, 4)?;
        if write {
            vcpu.write(gva, 4, 1)?;
        }
        vcpu.set_sregs(&flat)
    };
    segmented(&mut vcpu, true)?;
    let start = mark(&vcpu)?;
    for value in 0..ACCESSES {
        expect_eq!(vcpu.write(gva, 4, value)?, [Event::write(gpa, 4, value)]);
    }
    let count = delta(&start, &vcpu)?.ext("fast")?.unwrap_or(0);
    ensure!(count >= ACCESSES / 2, "fast {count}");

    // A read of flat code is one, whatever was before; KVM's shortcut would lose it.
    let bell = machine.doorbell(Bus::Mmio(gpa + 0x10), Match::Any)?;
    for round in 0..ROUNDS {
        segmented(&mut vcpu, false)?;
        for _ in 0..2 {
            let (value, events) = vcpu.read(gva + 0x10, 4)?;
            expect_eq!(value, pattern_value(gpa + 0x10, 4), "round {round}");
            expect_eq!(events, [Event::read(gpa + 0x10, 4)], "round {round}");
        }
    }
    expect_eq!(bell.rings()?, 0);
    Ok(())
}
