// SPDX-License-Identifier: GPL-2.0
//! How registers come and go.

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{io, ptr, thread};

use anyhow::Result;
use iced_x86::code_asm as asm;
use kvm_bindings::kvm_regs;

use super::bench::{Bench, VALUE, errno, rings};
use crate::expect_eq;
use crate::guest::{Event, Machine, Mode, PAGE, Place, Region, Request, new_event, signal};
use crate::host::locked_pages;

pub(super) fn remove(bench: &Bench) -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let (gva, gpa) = (machine.gva(1), machine.gpa(1));
    let place = bench.request(&machine, 0, 4).place();
    let gone = |bench: &Bench| errno(bench.file.remove(&place));
    expect_eq!(gone(bench), libc::ENOENT);
    for value in 1..4 {
        bench.add(&bench.request(&machine, 0, 4))?;
        bench.add(&bench.request(&machine, 4, 4))?;
        expect_eq!(vcpu.write(gva, 4, value)?, []);
        expect_eq!(bench.word(), value);
        // Only the file that it was added to removes it.
        expect_eq!(gone(&Bench::new()?), libc::ENOENT);
        bench.file.remove(&place)?;
        expect_eq!(gone(bench), libc::ENOENT);
        expect_eq!(vcpu.write(gva, 4, 9)?, [Event::write(gpa, 4, 9)]);
        vcpu.touch(gva, gpa, 4)?;
        expect_eq!(vcpu.read(gva + 4, 4)?, (value, vec![]));
        bench.file.remove(&Place {
            gpa: gpa + 4,
            ..place
        })?;
        expect_eq!(locked_pages()?, 0);
    }
    Ok(())
}

pub(super) fn file_first(_: &Bench) -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let (gva, gpa) = (machine.gva(1), machine.gpa(1));
    let bench = Bench::new()?;
    for offset in [0, 4, 8] {
        bench.add(&bench.request(&machine, offset, 4))?;
        expect_eq!(vcpu.write(gva + offset, 4, 7)?, []);
    }
    expect_eq!(locked_pages()?, 3);
    drop(bench);
    for offset in [0, 4, 8] {
        let exit = [Event::write(gpa + offset, 4, 7)];
        expect_eq!(vcpu.write(gva + offset, 4, 7)?, exit);
    }
    expect_eq!(locked_pages()?, 0);
    Ok(())
}

pub(super) fn vm_first() -> Result<()> {
    let bench = Bench::new()?;
    for round in 0..3 {
        let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
        let other = Machine::new(Mode::Long)?;
        for offset in [0, 4, 8] {
            bench.add(&bench.request(&machine, offset, 4))?;
            bench.add(&bench.request(&other, offset, 4))?;
        }
        expect_eq!(vcpu.write(machine.gva(1), 4, 7)?, []);
        expect_eq!(locked_pages()?, 6, "round {round}");
        drop(other);
        expect_eq!(locked_pages()?, 3, "round {round}");
        expect_eq!(vcpu.write(machine.gva(1), 4, 8)?, []);
        expect_eq!(bench.word(), 8);
        drop((machine, vcpu));
        expect_eq!(locked_pages()?, 0, "round {round}");
    }
    Ok(())
}

/// The register keeps the page that it was given, whatever becomes of the address.
pub(super) fn unmapped_word(bench: &Bench) -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let lost = Region::new(PAGE)?;
    let address = lost.hva();
    bench.add(&Request {
        user_addr: address,
        ..bench.request(&machine, 0, 8)
    })?;
    expect_eq!(vcpu.write(machine.gva(1), 8, VALUE)?, []);
    expect_eq!(lost.read_u64(0), VALUE);
    drop(lost);
    // Something else in its place.
    // SAFETY: the range was unmapped, so that nothing of Rust's is there.
    let new = unsafe {
        libc::mmap(
            address as *mut libc::c_void,
            PAGE as usize,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
            -1,
            0,
        )
    };
    expect_eq!(new as u64, address);
    expect_eq!(vcpu.write(machine.gva(1), 8, 5)?, []);
    expect_eq!(vcpu.read(machine.gva(1), 8)?, (5, vec![]));
    // SAFETY: the page was mapped above.
    let there = unsafe { ptr::read_volatile(new.cast::<u64>()) };
    expect_eq!(there, 0);
    // SAFETY: and nothing refers to it.
    unsafe { libc::munmap(new, PAGE as usize) };
    Ok(())
}

/// Registers come and go while the guest writes: each write is stored or exits, none is lost.
pub(super) fn while_running(bench: &Bench) -> Result<()> {
    const WRITES: u64 = 3000;
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let event = new_event()?;
    let request = Request {
        signal: signal::ALWAYS,
        event_fd: event.as_raw_fd(),
        ..bench.request(&machine, 0, 4)
    };
    let place = request.place();
    let regs = kvm_regs {
        rdi: machine.gva(1),
        rcx: WRITES,
        ..Default::default()
    };
    let ended = &AtomicU64::new(0);
    let (run, turns) = thread::scope(|scope| -> Result<_> {
        let changer = scope.spawn(move || -> Result<u64> {
            let mut turns = 0;
            while ended.load(Ordering::Acquire) == 0 {
                bench.add(&request)?;
                thread::yield_now();
                bench.file.remove(&place)?;
                turns += 1;
            }
            Ok(turns)
        });
        let run = vcpu.exec(regs, |a| {
            let mut again = a.create_label();
            a.set_label(&mut again)?;
            a.mov(asm::dword_ptr(asm::rdi), asm::ecx)?;
            a.dec(asm::rcx)?;
            a.jnz(again)
        });
        ended.store(1, Ordering::Release);
        let turns = changer.join().map_err(|_| anyhow::anyhow!("a panic"))?;
        Ok((run?, turns?))
    })?;
    let exits = run.done()?.len() as u64;
    expect_eq!(
        rings(&event) + exits,
        WRITES,
        "{exits} exits, {turns} turns"
    );
    Ok(())
}

/// The module cannot be removed as long as there is a register, or a file for them.
pub(super) fn module_stays() -> Result<()> {
    // SAFETY: the name ends in a zero byte.
    let remove = || match unsafe {
        libc::syscall(
            libc::SYS_delete_module,
            c"kvm_mmio_ext".as_ptr(),
            libc::O_NONBLOCK,
        )
    } {
        0 => 0,
        _ => io::Error::last_os_error().raw_os_error().unwrap_or(-1),
    };
    let bench = Bench::new()?;
    expect_eq!(remove(), libc::EWOULDBLOCK, "with a file");
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    bench.add(&bench.request(&machine, 0, 4))?;
    expect_eq!(remove(), libc::EWOULDBLOCK, "with a register");
    expect_eq!(vcpu.write(machine.gva(1), 4, 7)?, []);
    drop(bench);
    expect_eq!(remove(), libc::EWOULDBLOCK, "with the VM that had one");
    expect_eq!(
        vcpu.write(machine.gva(1), 4, 7)?,
        [Event::write(machine.gpa(1), 4, 7)]
    );
    Ok(())
}
