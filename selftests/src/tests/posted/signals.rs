// SPDX-License-Identifier: GPL-2.0
//! Which writes to registers signal, and what is atomic.

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::{Result, bail, ensure};
use iced_x86::code_asm as asm;
use kvm_bindings::kvm_regs;
use vmm_sys_util::eventfd::EventFd;

use super::bench::{Bench, SIZES, rings};
use crate::expect_eq;
use crate::guest::{Machine, Mode, Request, new_event, on_read, on_write, signal};
use crate::host;

pub(super) fn signals(bench: &Bench) -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let event = new_event()?;
    for size in SIZES {
        let top = 1 << (8 * u32::from(size) - 1);
        for on_write in [on_write::STORE, on_write::CLEAR, on_write::SET] {
            for kind in [signal::NEVER, signal::ALWAYS, signal::VALUE, signal::CHANGE] {
                let n = u64::from(size) << 8 | u64::from(on_write) << 6 | u64::from(kind) << 3;
                let request = Request {
                    on_write,
                    signal: kind,
                    datamatch: if kind == signal::VALUE { top } else { 0 },
                    event_fd: match kind {
                        signal::NEVER => -1,
                        _ => event.as_raw_fd(),
                    },
                    ..bench.request(&machine, n, size)
                };
                bench.add(&request)?;
                let mut word = 0;
                for value in [top, 0, top, top | 1, 1, 0, 0] {
                    bench.set_word(word);
                    expect_eq!(vcpu.write(machine.gva(1) + n, size, value)?, []);
                    let new = match on_write {
                        on_write::STORE => value,
                        on_write::CLEAR => word & !value,
                        _ => word | value,
                    };
                    let wanted = match kind {
                        signal::NEVER => false,
                        signal::ALWAYS => true,
                        signal::VALUE => value == top,
                        _ => new != word,
                    };
                    expect_eq!(
                        (bench.word(), rings(&event)),
                        (new, wanted.into()),
                        "{value:#x} to {word:#x}, {request:x?}"
                    );
                    // Now and then as if a device had changed it.
                    word = if value == 1 { top | 1 } else { new };
                }
                // Reads never do.
                expect_eq!(vcpu.read(machine.gva(1) + n, size)?.1, []);
                expect_eq!(rings(&event), 0);
            }
        }
    }
    Ok(())
}

/// Whoever is woken by the eventfd sees the value: no value is older than its signal.
pub(super) fn word_before_signal(bench: &Bench) -> Result<()> {
    const WRITES: u64 = 2000;
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    // A blocking one: the thread is woken by the write itself.
    let event = EventFd::new(0)?;
    bench.add(&Request {
        signal: signal::ALWAYS,
        event_fd: event.as_raw_fd(),
        ..bench.request(&machine, 0, 8)
    })?;
    let address = bench.memory.hva();
    let thread = thread::spawn(move || -> Result<u64> {
        // SAFETY: the memory is kept until the thread has ended, and changed by the kernel only.
        let word = unsafe { AtomicU64::from_ptr(address as *mut u64) };
        let mut signals = 0;
        while signals < WRITES {
            signals += event.read()?;
            // The guest counts up.
            let value = word.load(Ordering::Acquire);
            ensure!(
                value >= signals,
                "signalled {signals} times, and the word is {value}"
            );
        }
        Ok(signals)
    });
    let regs = kvm_regs {
        rdi: machine.gva(1),
        rcx: WRITES,
        ..Default::default()
    };
    let run = vcpu.exec(regs, |a| {
        let mut again = a.create_label();
        a.xor(asm::eax, asm::eax)?;
        a.set_label(&mut again)?;
        a.inc(asm::rax)?;
        a.mov(asm::qword_ptr(asm::rdi), asm::rax)?;
        a.dec(asm::rcx)?;
        a.jnz(again)
    })?;
    expect_eq!(run.done()?, []);
    let Ok(signals) = thread.join() else {
        bail!("the thread has panicked");
    };
    expect_eq!(signals?, WRITES);
    Ok(())
}

/// A device sets bits that are clear; the guest counts and clears those that it sees.
pub(super) fn lost_bits(bench: &Bench) -> Result<()> {
    let bits: u64 = if host::is_qemu() { 100_000 } else { 10_000 };
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    bench.add(&Request {
        on_write: on_write::CLEAR,
        on_read: on_read::EXIT,
        ..bench.request(&machine, 0x08, 8)
    })?;
    bench.add(&Request {
        on_write: on_write::EXIT,
        ..bench.request(&machine, 0x00, 8)
    })?;
    let address = bench.memory.hva();
    let device = thread::spawn(move || {
        // SAFETY: the memory is kept until the thread has ended; all change it atomically.
        let word = unsafe { AtomicU64::from_ptr(address as *mut u64) };
        for n in 0..bits {
            let bit = 1 << (n * 7 % 64);
            while word.fetch_or(bit, Ordering::AcqRel) & bit != 0 {
                thread::yield_now();
            }
        }
    });
    // rdx: bits wanted, rcx: bits seen, rbx: turns in a row without any, which end it.
    let regs = kvm_regs {
        rdi: machine.gva(1),
        rdx: bits,
        ..Default::default()
    };
    let run = vcpu.exec(regs, |a| {
        let mut again = a.create_label();
        let mut end = a.create_label();
        a.set_label(&mut again)?;
        a.inc(asm::rbx)?;
        a.cmp(asm::rbx, 1_000_000)?;
        a.ja(end)?;
        a.mov(asm::rax, asm::qword_ptr(asm::rdi))?;
        a.test(asm::rax, asm::rax)?;
        a.jz(again)?;
        a.xor(asm::ebx, asm::ebx)?;
        a.mov(asm::qword_ptr(asm::rdi + 8), asm::rax)?;
        a.popcnt(asm::rax, asm::rax)?;
        a.add(asm::rcx, asm::rax)?;
        a.cmp(asm::rcx, asm::rdx)?;
        a.jb(again)?;
        a.set_label(&mut end)?;
        a.nop()
    })?;
    let seen = run.regs.rcx;
    expect_eq!(run.done()?, []);
    expect_eq!((seen, bench.word()), (bits, 0));
    ensure!(device.join().is_ok(), "the device has panicked");
    Ok(())
}
