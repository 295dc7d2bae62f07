// SPDX-License-Identifier: GPL-2.0
//! The instruction at RIP is another than it was: nothing remembered of the old one is used.

use std::slice;

use anyhow::{Result, ensure};
use iced_x86::IcedError;
use iced_x86::code_asm::{self as asm, CodeAssembler};
use kvm_bindings::kvm_regs;

use super::program::{CODE, code_page, delta, ending, mark, regs_for, run_at};
use super::ways::Switch;
use crate::guest::cpu::EFER_NXE;
use crate::guest::layout::RAM_SIZE;
use crate::guest::paging::SUPERVISOR;
use crate::guest::{Event, Fault, Machine, Mode, PAGE, PAGE_FAULT, Region, SlotKind, Vcpu};
use crate::host::silicon;
use crate::{expect_eq, skip};

pub const STALE: &str = "fetch cache: an instruction that was read before is not taken for another at \
    the same RIP";

crate::test_table! {
    fast_code_modified: STALE => modified(),
    fast_code_remapped: STALE => remapped(),
    fast_code_tables_4_levels: STALE => tables(Mode::Long),
    fast_code_tables_5_levels: STALE => tables(Mode::La57),
    fast_code_slot: STALE => slot(),
    fast_code_nx: "fetch cache: code that may no longer be executed is not" => no_execute(),
    fast_code_same_places:
        "fetch cache: what is remembered of an instruction is not taken for another's, and \
            instructions with the same places in the cache do not keep each other from being fast"
        => same_places(),
    fast_code_same_bytes:
        "fetch cache: of instructions with the same bytes, each goes on behind itself"
        => same_bytes(),
    fast_code_same_page:
        "fetch cache: so does each of those in a page, wherever in the cache they are"
        => same_page(),
    fast_code_page_end:
        "fetch: an instruction at a page's end or over it is that of the pages mapped"
        => page_end(),
}

/// mov [rdi], eax; mov [rdi], rcx; mov [rdi], ah; mov word [rdi], 0x1234; and two that differ in
/// their last byte only: mov dword [rdi + 0x00000000], 0x12345678, and 0x13345678
const STORES: &[(&[u8], usize, u64)] = &[
    (&[0x89, 0x07], 4, 0x5566_7788),
    (&[0x48, 0x89, 0x0f], 8, 0x99aa_bbcc_ddee_ff01),
    (&[0x88, 0x27], 1, 0x77),
    (&[0x66, 0xc7, 0x07, 0x34, 0x12], 2, 0x1234),
    (
        &[0xc7, 0x87, 0, 0, 0, 0, 0x78, 0x56, 0x34, 0x12],
        4,
        0x1234_5678,
    ),
    (
        &[0xc7, 0x87, 0, 0, 0, 0, 0x78, 0x56, 0x34, 0x13],
        4,
        0x1334_5678,
    ),
];

pub const ROUNDS: u64 = 3;

/// A vCPU that has accessed the page, so that every further access is an MMIO fault.
pub fn warm() -> Result<(Machine, Vcpu)> {
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    vcpu.touch(machine.gva(1), machine.gpa(1), 4)?;
    Ok((machine, vcpu))
}

/// The host and the guest itself write other code.
fn modified() -> Result<()> {
    let _switch = Switch::on()?;
    let (machine, mut vcpu) = warm()?;
    let (at, gpa) = (code_page(0), machine.gpa(1));
    let mut accesses = 0;
    let start = mark(&vcpu)?;
    for round in 0..ROUNDS {
        for (code, len, value) in STORES {
            let want = [Event::write(gpa, *len, *value)];
            machine.ram().write(at, &ending(code));
            for _ in 0..3 {
                let events = run_at(&mut vcpu, regs_for(&machine), at)?;
                expect_eq!(events, want, "{code:x?}, round {round}, by the host");
                accesses += 1;
            }
        }
        for (code, len, value) in STORES {
            let mut bytes = ending(code);
            bytes.resize(16, 0x90);
            let bytes = u128::from_le_bytes(bytes.try_into().expect("16 bytes"));
            let regs = kvm_regs {
                rsi: at,
                rdx: bytes as u64,
                rbp: (bytes >> 64) as u64,
                ..regs_for(&machine)
            };
            let run = vcpu.exec(regs, |a| {
                a.mov(asm::qword_ptr(asm::rsi), asm::rdx)?;
                a.mov(asm::qword_ptr(asm::rsi + 8), asm::rbp)?;
                a.jmp(asm::rsi)
            })?;
            let want = [Event::write(gpa, *len, *value)];
            expect_eq!(run.done()?, want, "{code:x?}, round {round}, by the guest");
            accesses += 1;
        }
    }
    delta(&start, &vcpu)?.expect_ext("fast", accesses)?;
    Ok(())
}

/// Puts each of two stores at the start of a page of its own.
pub fn two_pages(machine: &Machine) {
    for n in 0..2 {
        let (code, _, _) = STORES[n as usize];
        machine.ram().write(code_page(n), &ending(code));
    }
}

pub fn stored(machine: &Machine, n: u64) -> [Event; 1] {
    let (_, len, value) = STORES[n as usize];
    [Event::write(machine.gpa(1), len, value)]
}

/// Writes RSI to the entry at RDX of the path to the code at RBX, and goes there.
fn remap_and_jump(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(asm::qword_ptr(asm::rdx), asm::rsi)?;
    a.invlpg(asm::byte_ptr(asm::rbx))?;
    a.jmp(asm::rbx)
}

/// The guest maps its code page elsewhere.
fn remapped() -> Result<()> {
    let _switch = Switch::on()?;
    let (machine, mut vcpu) = warm()?;
    two_pages(&machine);
    let pte = machine.tables().pte(CODE);
    let start = mark(&vcpu)?;
    for round in 0..2 * ROUNDS {
        let regs = kvm_regs {
            rdx: pte,
            rsi: code_page(round % 2) | SUPERVISOR,
            ..regs_for(&machine)
        };
        let run = vcpu.exec(regs, remap_and_jump)?;
        expect_eq!(run.done()?, stored(&machine, round % 2), "round {round}");
    }
    delta(&start, &vcpu)?.expect_ext("fast", 2 * ROUNDS)?;
    Ok(())
}

/// The guest puts another table, or page, into the path to its code, at each level.
fn tables(mode: Mode) -> Result<()> {
    if !Machine::supports(mode)? {
        skip!("this processor has no 5-level paging");
    }
    let _switch = Switch::on()?;
    let (machine, mut vcpu) = Machine::with_vcpu(mode)?;
    two_pages(&machine);
    // In the upper half, where all the path is the code's own.
    let code = match mode {
        Mode::La57 => 0xff00_0000_0000_0000,
        _ => 0xffff_a000_0000_0000,
    };
    machine.tables().map(code, code_page(0), SUPERVISOR);
    let path = machine.tables().entries(code);
    // For each entry its values: the page's first, and what leads to the second.
    let entries: Vec<_> = (0..path.len())
        .map(|level| {
            let other = code + (PAGE << (9 * (path.len() - 1 - level)));
            machine.tables().map(other, code_page(1), SUPERVISOR);
            let other = machine.tables().entries(other)[level];
            (
                path[level],
                [path[level], other].map(|at| machine.ram().read_u64(at)),
            )
        })
        .collect();

    for (level, (entry, values)) in entries.into_iter().enumerate() {
        for round in 0..=2 * ROUNDS {
            let n = round % 2;
            let what = format!("level {level} from the root, round {round}");
            let regs = kvm_regs {
                rdx: entry,
                rsi: values[n as usize],
                rbx: code,
                ..regs_for(&machine)
            };
            let run = vcpu.exec(regs, remap_and_jump)?;
            expect_eq!(run.done()?, stored(&machine, n), "{what}");
            // With shadow paging, KVM may have dropped the MMIO SPTE with the tables.
            let start = mark(&vcpu)?;
            expect_eq!(
                run_at(&mut vcpu, regs, code)?,
                stored(&machine, n),
                "{what}"
            );
            delta(&start, &vcpu)?.expect_ext("fast", 1)?;
        }
    }
    Ok(())
}

/// The memslot of the code goes, and comes back with other memory.
fn slot() -> Result<()> {
    let _switch = Switch::on()?;
    let (machine, mut vcpu) = warm()?;
    let gpa = RAM_SIZE;
    machine.tables().map(CODE, gpa, SUPERVISOR);
    let memory = [Region::new(PAGE)?, Region::new(PAGE)?];
    for (memory, (code, _, _)) in memory.iter().zip(STORES) {
        memory.write(0, &ending(code));
    }
    let start = mark(&vcpu)?;
    for round in 0..2 * ROUNDS {
        let n = round % 2;
        machine.set_slot(1, gpa, &memory[n as usize], SlotKind::Ram)?;
        for _ in 0..2 {
            let events = run_at(&mut vcpu, regs_for(&machine), CODE)?;
            expect_eq!(events, stored(&machine, n), "round {round}");
        }
        machine.delete_slot(1)?;
    }
    // The first access after a change finds no MMIO SPTE of the generation.
    let fast = delta(&start, &vcpu)?.ext("fast")?.unwrap_or(0);
    ensure!(fast >= 2 * ROUNDS, "fast {fast}");
    Ok(())
}

/// The guest forbids the execution of code that was fast.
fn no_execute() -> Result<()> {
    const NX: u64 = 1 << 63;
    const FETCH: u64 = 1 << 4;
    const PRESENT: u64 = 1 << 0;
    let _switch = Switch::on()?;
    let (machine, mut vcpu) = warm()?;
    vcpu.change_sregs(|sregs| sregs.efer |= EFER_NXE)?;
    vcpu.touch(machine.gva(1), machine.gpa(1), 4)?;
    two_pages(&machine);
    let pte = machine.tables().pte(CODE);
    for round in 0..ROUNDS {
        for flags in [SUPERVISOR, SUPERVISOR | NX] {
            let regs = kvm_regs {
                rdx: pte,
                rsi: code_page(0) | flags,
                ..regs_for(&machine)
            };
            let start = mark(&vcpu)?;
            let run = vcpu.exec(regs, remap_and_jump)?;
            if flags & NX == 0 {
                expect_eq!(run.done()?, stored(&machine, 0), "round {round}");
                delta(&start, &vcpu)?.expect_ext("fast", 1)?;
            } else {
                let fault = Event::Fault(Fault {
                    vector: PAGE_FAULT,
                    error_code: PRESENT | FETCH,
                    cr2: CODE,
                });
                expect_eq!(run.events, [fault], "round {round}");
                delta(&start, &vcpu)?.expect_ext("fast", 0)?;
            }
        }
    }
    Ok(())
}

/// Instructions whose addresses are a multiple of the cache's size apart, or that and one, as the
/// cache looks at two neighbouring places; in the same page, the next, and 4 GiB on. They are run
/// in turn. Some are none for the fast path.
fn same_places() -> Result<()> {
    const PAGES: [u64; 3] = [0, PAGE, 1 << 32];
    const OFFSETS: [u64; 3] = [0x40, 0x61, 0x80];
    let _switch = Switch::on()?;
    let (machine, mut vcpu) = warm()?;
    let mut code = Vec::new();
    for (page, to) in PAGES.into_iter().zip(0..) {
        machine.tables().map(CODE + page, code_page(to), SUPERVISOR);
        for offset in OFFSETS {
            let n = code.len() as u8;
            let at = 8 * n;
            let refused = n % 3 == 2;
            let (bytes, value) = if refused {
                // movnti [rdi + at], eax
                (vec![0x0f, 0xc3, 0x47, at], regs_for(&machine).rax)
            } else {
                // mov dword [rdi + at], n
                (vec![0xc7, 0x47, at, n, 0, 0, 0], n.into())
            };
            machine.ram().write(code_page(to) + offset, &ending(&bytes));
            let exit = Event::write(machine.gpa(1) + u64::from(at), 4, value);
            code.push((CODE + page + offset, exit, refused));
        }
    }

    for times in [1, 2, 1] {
        for (n, (rip, exit, refused)) in code.iter().enumerate() {
            for _ in 0..times {
                let start = mark(&vcpu)?;
                let events = run_at(&mut vcpu, regs_for(&machine), *rip)?;
                expect_eq!(events, slice::from_ref(exit), "instruction {n} at {rip:#x}");
                delta(&start, &vcpu)?
                    .expect_ext("fast", (!refused).into())?
                    .expect_ext("refused_insn", (*refused).into())?;
            }
        }
    }
    Ok(())
}

/// One page of code is mapped several times, so that its instruction has the same place in the
/// cache each time.
fn same_bytes() -> Result<()> {
    const TIMES: u64 = 4;
    let _switch = Switch::on()?;
    let (machine, mut vcpu) = warm()?;
    two_pages(&machine);
    let rips = (0..TIMES).map(|n| CODE + n * PAGE);
    rips.clone()
        .for_each(|rip| machine.tables().map(rip, code_page(0), SUPERVISOR));
    let start = mark(&vcpu)?;
    for round in 0..ROUNDS {
        for rip in rips.clone() {
            let events = run_at(&mut vcpu, regs_for(&machine), rip)?;
            expect_eq!(events, stored(&machine, 0), "at {rip:#x}, round {round}");
            let end = vcpu.fd().get_regs()?.rip;
            expect_eq!(end / PAGE, rip / PAGE, "at {rip:#x}, round {round}");
        }
    }
    delta(&start, &vcpu)?.expect_ext("fast", ROUNDS * TIMES)?;
    Ok(())
}

/// As many as there are places in the cache, so that most have one that another takes if its own is
/// taken.
fn same_page() -> Result<()> {
    let _switch = Switch::on()?;
    let (machine, mut vcpu) = warm()?;
    let code = ending(STORES[0].0);
    machine.tables().map(CODE, code_page(0), SUPERVISOR);
    let offsets = (0..PAGE).step_by(code.len());
    for offset in offsets.clone() {
        machine.ram().write(code_page(0) + offset, &code);
    }
    let mut first = None;
    for offset in offsets {
        let rip = CODE + offset;
        let events = run_at(&mut vcpu, regs_for(&machine), rip)?;
        expect_eq!(events, stored(&machine, 0), "at {rip:#x}");
        let length = vcpu.fd().get_regs()?.rip.wrapping_sub(rip);
        expect_eq!(length, *first.get_or_insert(length), "at {rip:#x}");
    }
    Ok(())
}

/// Neighbours for the guest are apart in its memory; behind the first page is other code.
fn page_end() -> Result<()> {
    let _switch = Switch::on()?;
    let (machine, mut vcpu) = warm()?;
    let (first, decoy, second) = (code_page(0), code_page(1), code_page(4));
    machine.tables().map(CODE, first, SUPERVISOR);
    machine.tables().map(CODE + PAGE, second, SUPERVISOR);
    let (gpa, value) = (machine.gpa(1), regs_for(&machine).rax);
    // mov [rdi + 0x11], rax: 4 bytes; 0x22 in the decoy.
    let code = ending(&[0x48, 0x89, 0x47, 0x11]);
    let false_code = ending(&[0x48, 0x89, 0x47, 0x22]);

    let start = mark(&vcpu)?;
    let mut accesses = 0;
    for before in 1..=20u64 {
        for (n, byte) in code.iter().enumerate() {
            let offset = PAGE - before + n as u64;
            if offset < PAGE {
                machine.ram().write(first + offset, &[*byte]);
            } else {
                machine.ram().write(second + offset - PAGE, &[*byte]);
                machine
                    .ram()
                    .write(decoy + offset - PAGE, &false_code[n..=n]);
            }
        }
        // The last byte is where, and it changes.
        for displacement in [0x11, 0x11, 0x33, 0x33] {
            let last = PAGE - before + 3;
            let page = if last < PAGE { first } else { second - PAGE };
            machine.ram().write(page + last, &[displacement]);
            let events = run_at(&mut vcpu, regs_for(&machine), CODE + PAGE - before)?;
            let want = [Event::write(gpa + u64::from(displacement), 8, value)];
            expect_eq!(events, want, "{before} bytes before the end of the page");
            accesses += 1;
        }
    }
    let delta = delta(&start, &vcpu)?;
    let refused = delta.ext("refused_fetch")?.unwrap_or(0);
    delta.expect_ext("fast", accesses - refused)?;
    // Those that are in both pages. Where the processor tells some of the bytes, the page of the
    // code is not looked for at once.
    let is_cut = silicon().is_some_and(|mask| mask & silicon::CUT != 0);
    let most = if is_cut { accesses - 1 } else { 3 * 4 };
    ensure!(refused <= most, "{refused} of {accesses} were refused");
    Ok(())
}
