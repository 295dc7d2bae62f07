// SPDX-License-Identifier: GPL-2.0
//! What accesses do to the words of registers.

use std::os::fd::AsRawFd;

use anyhow::Result;
use iced_x86::code_asm as asm;
use kvm_bindings::kvm_regs;

use super::bench::{Bench, SIZES, VALUE, mask, rings};
use crate::expect_eq;
use crate::guest::{
    Event, Machine, Mode, PAGE, Region, Request, SlotKind, layout, new_event, on_read, on_write,
    signal,
};
use crate::stats::Mark;

pub(super) fn store(bench: &Bench) -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    for (page, size) in (1..).zip(SIZES) {
        let gva = machine.gva(page) + 0x20;
        bench.add(&Request {
            gpa: machine.gpa(page) + 0x20,
            ..bench.request(&machine, 0, size)
        })?;
        let start = Mark::here(&[vcpu.fd()])?;
        for value in [VALUE, 0, !VALUE, u64::MAX, 1] {
            // What is beside the word stays.
            bench.set_word(0x5555_5555_5555_5555);
            expect_eq!(vcpu.write(gva, size, value)?, [], "{size} bytes");
            let beside = 0x5555_5555_5555_5555 & !mask(size);
            expect_eq!(bench.word(), beside | value & mask(size), "{size} bytes");
            let read = vcpu.read(gva, size)?;
            expect_eq!(read, (value & mask(size), vec![]), "{size} bytes");
        }
        start.delta(&[vcpu.fd()])?.expect_kvm("mmio_exits", 0)?;
    }
    Ok(())
}

pub(super) fn clear_and_set(bench: &Bench) -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    for size in SIZES {
        let offset = 0x100 * u64::from(size);
        let clear = bench.request(&machine, offset, size);
        let set = bench.request(&machine, offset + 0x10, size);
        bench.add(&Request {
            on_write: on_write::CLEAR,
            ..clear
        })?;
        bench.add(&Request {
            on_write: on_write::SET,
            ..set
        })?;
        for (old, value) in [(VALUE, 0xff), (u64::MAX, VALUE), (0, VALUE), (VALUE, 0)] {
            let value = value & mask(size);
            bench.set_word(old);
            expect_eq!(vcpu.write(machine.gva(1) + offset, size, value)?, []);
            expect_eq!(bench.word(), old & !value, "{size} bytes, clear");
            bench.set_word(old);
            expect_eq!(vcpu.write(machine.gva(1) + offset + 0x10, size, value)?, []);
            expect_eq!(bench.word(), old | value, "{size} bytes, set");
        }
    }
    Ok(())
}

pub(super) fn reads(bench: &Bench) -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    for size in SIZES {
        let (offset, mask) = (0x100 * u64::from(size), mask(size));
        let (gva, gpa) = (machine.gva(1) + offset, machine.gpa(1) + offset);
        for (i, on_read) in [on_read::RETURN, on_read::CLEAR, on_read::EXIT]
            .into_iter()
            .enumerate()
        {
            let at = 0x10 * i as u64;
            bench.add(&Request {
                on_read,
                ..bench.request(&machine, offset + at, size)
            })?;
            bench.set_word(VALUE);
            match on_read {
                on_read::EXIT => vcpu.touch(gva + at, gpa + at, size)?,
                _ => expect_eq!(vcpu.read(gva + at, size)?, (VALUE & mask, vec![])),
            }
            let left = if on_read == on_read::CLEAR {
                VALUE & !mask
            } else {
                VALUE
            };
            expect_eq!(bench.word(), left, "{size} bytes, {on_read}");
        }
    }
    Ok(())
}

/// What is not for a register exits as if it were not there.
pub(super) fn other_accesses(bench: &Bench) -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let (gva, gpa) = (machine.gva(1), machine.gpa(1));
    bench.add(&bench.request(&machine, 0x10, 4))?;
    bench.add(&Request {
        on_write: on_write::EXIT,
        ..bench.request(&machine, 0x20, 4)
    })?;
    bench.set_word(VALUE);
    for (offset, size) in [
        (0x10, 1),
        (0x10, 2),
        (0x10, 8),
        (0x11, 1),
        (0x12, 2),
        (0x0e, 4),
        (0x12, 4),
        (0x0c, 8),
        (0x14, 4),
        (0x20, 2),
    ] {
        let exit = [Event::write(gpa + offset, size.into(), 7)];
        expect_eq!(vcpu.write(gva + offset, size, 7)?, exit);
        vcpu.touch(gva + offset, gpa + offset, size)?;
    }
    expect_eq!(
        vcpu.write(gva + 0x20, 4, 7)?,
        [Event::write(gpa + 0x20, 4, 7)]
    );
    expect_eq!(vcpu.read(gva + 0x20, 4)?, (VALUE & mask(4), vec![]));
    expect_eq!(bench.word(), VALUE);
    Ok(())
}

/// Instructions of all kinds, most of which only KVM's emulator knows.
pub(super) fn instructions(bench: &Bench) -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let gva = machine.gva(1);
    bench.add(&bench.request(&machine, 0, 4))?;
    for n in 1..4 {
        bench.add(&Request {
            user_addr: bench.memory.hva() + 8 * n,
            ..bench.request(&machine, 4 * n, 4)
        })?;
    }
    let words = || [0, 8, 16, 24].map(|at| bench.memory.read_u64(at));
    let regs = kvm_regs {
        rdi: gva,
        rax: 0x1234_5678,
        rcx: 3,
        ..Default::default()
    };
    let at = || asm::dword_ptr(asm::rdi);

    let run = vcpu.exec(regs, |a| a.rep().stosd())?;
    expect_eq!((run.regs.rcx, run.done()?), (0, vec![]));
    expect_eq!(words(), [0x1234_5678, 0x1234_5678, 0x1234_5678, 0]);
    expect_eq!(vcpu.exec(regs, |a| a.or(at(), 0xf))?.done()?, []);
    expect_eq!(words()[0], 0x1234_567f);
    expect_eq!(vcpu.exec(regs, |a| a.mov(at(), -2))?.done()?, []);
    expect_eq!(words()[0], 0xffff_fffe);
    let run = vcpu.exec(regs, |a| a.xchg(at(), asm::ecx))?;
    expect_eq!((run.regs.rcx, run.done()?), (0xffff_fffe, vec![]));
    expect_eq!(words()[0], 3);
    let run = vcpu.exec(regs, |a| a.add(asm::eax, at()))?;
    expect_eq!((run.regs.rax, run.done()?), (0x1234_567b, vec![]));
    let run = vcpu.exec(regs, |a| a.movzx(asm::eax, asm::byte_ptr(asm::rdi)))?;
    expect_eq!(run.done()?, [Event::read(machine.gpa(1), 1)]);
    let source = kvm_regs {
        rsi: gva,
        rdi: layout::SCRATCH,
        rcx: 4,
        ..regs
    };
    expect_eq!(vcpu.exec(source, |a| a.rep().movsd())?.done()?, []);
    let copied = [0, 8].map(|at| machine.ram().read_u64(layout::SCRATCH + at));
    expect_eq!(copied, [0x1234_5678_0000_0003, 0x1234_5678]);
    Ok(())
}

/// As virtio-mmio has InterruptStatus and InterruptACK: two registers of one word.
pub(super) fn status_and_ack(bench: &Bench) -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let (gva, gpa) = (machine.gva(1), machine.gpa(1));
    let event = new_event()?;
    bench.add(&Request {
        on_write: on_write::EXIT,
        ..bench.request(&machine, 0x60, 4)
    })?;
    bench.add(&Request {
        on_write: on_write::CLEAR,
        on_read: on_read::EXIT,
        signal: signal::CHANGE,
        event_fd: event.as_raw_fd(),
        ..bench.request(&machine, 0x64, 4)
    })?;
    bench.set_word(3);
    expect_eq!(vcpu.read(gva + 0x60, 4)?, (3, vec![]));
    expect_eq!(vcpu.write(gva + 0x64, 4, 1)?, []);
    expect_eq!(vcpu.read(gva + 0x60, 4)?, (2, vec![]));
    expect_eq!(rings(&event), 1);
    expect_eq!(vcpu.write(gva + 0x64, 4, 1)?, []);
    expect_eq!((rings(&event), bench.word()), (0, 2));
    expect_eq!(
        vcpu.write(gva + 0x60, 4, 9)?,
        [Event::write(gpa + 0x60, 4, 9)]
    );
    vcpu.touch(gva + 0x64, gpa + 0x64, 4)
}

/// The word may be memory of the guest, too.
pub(super) fn in_guest_memory(bench: &Bench) -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    bench.add(&Request {
        user_addr: machine.ram().hva() + layout::SCRATCH + 8,
        ..bench.request(&machine, 0, 8)
    })?;
    expect_eq!(vcpu.write(machine.gva(1), 8, VALUE)?, []);
    expect_eq!(vcpu.read(layout::SCRATCH + 8, 8)?, (VALUE, vec![]));
    expect_eq!(vcpu.write(layout::SCRATCH + 8, 8, 5)?, []);
    expect_eq!(vcpu.read(machine.gva(1), 8)?, (5, vec![]));
    Ok(())
}

/// In a read-only memslot reads are of memory, and writes the register's.
pub(super) fn read_only_slot(bench: &Bench) -> Result<()> {
    const SLOT: u32 = 5;
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let device = Region::new(PAGE)?;
    device.write_u64(0x40, 77);
    machine.set_slot(SLOT, machine.gpa(1), &device, SlotKind::ReadOnly)?;
    bench.add(&bench.request(&machine, 0x40, 8))?;
    for value in [VALUE, 2, 3] {
        expect_eq!(vcpu.read(machine.gva(1) + 0x40, 8)?, (77, vec![]));
        expect_eq!(vcpu.write(machine.gva(1) + 0x40, 8, value)?, []);
        expect_eq!(bench.word(), value);
    }
    machine.delete_slot(SLOT)?;
    expect_eq!(vcpu.read(machine.gva(1) + 0x40, 8)?, (3, vec![]));
    Ok(())
}
