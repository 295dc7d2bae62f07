// SPDX-License-Identifier: GPL-2.0
//! Two vCPUs clear bits of a word while a thread sets them: an interrupt status that each
//! acknowledges a half of.

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use anyhow::{Context, Result, bail};
use iced_x86::IcedError;
use iced_x86::code_asm::{self as asm, CodeAssembler};
use kvm_bindings::kvm_regs;

use super::Limits;
use crate::guest::{Machine, Mode, PAGE, Region, Registers, Request, Vcpu, on_read, on_write};
use crate::{expect_eq, skip, tap};

pub const PROVES: &str = "rust/kvm/user_word.rs: \
    of a word that a device and two vCPUs change at once no bit is lost, nor seen twice";

/// Which bits are each vCPU's.
const HALVES: [u64; 2] = [0xffff_ffff, 0xffff_ffff << 32];

/// Two of a turn: a read, and a write if there was a bit.
const ACCESSES: u64 = 2;

pub fn run(limits: Limits) -> Result<()> {
    let Some(file) = Registers::open()? else {
        skip!("the extension is not loaded");
    };
    let memory = Region::new(PAGE)?;
    let mut machine = Machine::new(Mode::Long)?;
    for (offset, on_write, on_read) in [
        (0, on_write::EXIT, on_read::RETURN),
        (8, on_write::CLEAR, on_read::EXIT),
    ] {
        file.add(&Request {
            gpa: machine.gpa(1) + offset,
            user_addr: memory.hva(),
            len: 8,
            vm_fd: machine.vm().as_raw_fd(),
            event_fd: -1,
            on_write,
            on_read,
            ..Default::default()
        })?;
    }

    let vcpus = [machine.add_vcpu()?, machine.add_vcpu()?];
    let gva = machine.gva(1);
    let turns = limits.accesses / ACCESSES / vcpus.len() as u64;
    // SAFETY: the memory is kept until all threads have ended; all change it atomically.
    let word = unsafe { AtomicU64::from_ptr(memory.hva() as *mut u64) };
    let is_over = AtomicBool::new(false);
    let (set, seen) = thread::scope(|scope| {
        let device = scope.spawn(|| set_bits(word, &is_over));
        let guests = vcpus.into_iter().zip(HALVES);
        let guests = guests.map(|(vcpu, half)| scope.spawn(move || clear(vcpu, gva, half, turns)));
        let guests: Vec<_> = guests.collect();
        let seen: Vec<_> = guests.into_iter().map(|guest| guest.join()).collect();
        is_over.store(true, Ordering::Relaxed);
        (device.join(), seen)
    });
    let Ok(set) = set else {
        bail!("the device has panicked");
    };
    let mut cleared = [0; 2];
    for (cleared, seen) in cleared.iter_mut().zip(seen) {
        let Ok(seen) = seen else {
            bail!("a vCPU's thread has panicked");
        };
        *cleared = seen?;
    }

    let left = word.load(Ordering::Relaxed);
    for (half, (set, cleared)) in HALVES.into_iter().zip(set.into_iter().zip(cleared)) {
        let left = u64::from((left & half).count_ones());
        expect_eq!(set, cleared + left, "half {half:#x}, {left} left");
    }
    let turns = 2 * turns;
    tap::note(format!(
        "{turns} reads, {set:?} bits set and {cleared:?} cleared of the two halves"
    ));
    Ok(())
}

/// Sets bits that are clear, and counts those of each half.
fn set_bits(word: &AtomicU64, is_over: &AtomicBool) -> [u64; 2] {
    let mut set = [0; 2];
    for n in 0.. {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let number = n * 7 % 64;
        let bit = 1 << number;
        if word.fetch_or(bit, Ordering::AcqRel) & bit == 0 {
            set[usize::from(number >= 32)] += 1;
        } else {
            thread::yield_now();
        }
    }
    set
}

/// Counts and clears the bits of a half, so many times.
fn clear(mut vcpu: Vcpu, gva: u64, half: u64, turns: u64) -> Result<u64> {
    let regs = kvm_regs {
        rdi: gva,
        rdx: half,
        rbx: turns,
        ..Default::default()
    };
    let run = vcpu.exec(regs, program)?;
    let cleared = run.regs.rcx;
    expect_eq!(run.done().context("clearing bits")?, []);
    Ok(cleared)
}

/// rdx: which bits, rbx: turns, rcx: bits seen.
fn program(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut turn = a.create_label();
    let mut next = a.create_label();
    a.set_label(&mut turn)?;
    a.mov(asm::rax, asm::qword_ptr(asm::rdi))?;
    a.and(asm::rax, asm::rdx)?;
    a.jz(next)?;
    a.mov(asm::qword_ptr(asm::rdi + 8), asm::rax)?;
    a.popcnt(asm::rax, asm::rax)?;
    a.add(asm::rcx, asm::rax)?;
    a.set_label(&mut next)?;
    a.dec(asm::rbx)?;
    a.jnz(turn)
}
