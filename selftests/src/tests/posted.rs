// SPDX-License-Identifier: GPL-2.0
//! Registers that answer by themselves: what accesses do to their words, and how they come and go.
//!
//! Where the extension is on, all of it is done in each way: without the extension, without its
//! fast path, with it, and with writes that are answered before interrupts are on again.

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{fs, io, ptr, thread};

use anyhow::{Context, Result, bail, ensure};
use iced_x86::code_asm as asm;
use kvm_bindings::kvm_regs;
use vmm_sys_util::eventfd::EventFd;

use crate::guest::{
    Bus, Event, Machine, Match, Mode, PAGE, Place, Region, Registers, Request, SlotKind, layout,
    new_event, on_read, on_write, signal,
};
use crate::host::{self, Switch};
use crate::stats::Mark;
use crate::{expect_eq, skip};

const ACTIONS: &str = "src/pure/posted.rs: \
    an access changes the word as declared, and nothing exits to userspace";
const SIGNALS: &str = "src/pure/posted.rs: \
    exactly the writes that were declared to signal do";
const ATOMIC: &str = "rust/kvm/user_word.rs: \
    no bit is lost that a device sets while the guest clears others";
const ERRNO: &str = "src/registers.rs: \
    each field that is wrong has its errno, and leaves nothing behind";
const LIFE: &str = "rust/kvm/io_device.rs: \
    a register ends with its file and its VM, whichever goes first";

crate::test_table! {
    posted_store: ACTIONS => each_way(store),
    posted_clear_and_set: ACTIONS => each_way(clear_and_set),
    posted_reads: ACTIONS => each_way(reads),
    posted_other_accesses: ACTIONS => each_way(other_accesses),
    posted_instructions: ACTIONS => each_way(instructions),
    posted_status_and_ack: ACTIONS => each_way(status_and_ack),
    posted_in_guest_memory: ACTIONS => each_way(in_guest_memory),
    posted_read_only_slot: ACTIONS => each_way(read_only_slot),
    posted_signals: SIGNALS => each_way(signals),
    posted_word_before_signal: SIGNALS => each_way(word_before_signal),
    posted_lost_bits: ATOMIC => each_way(lost_bits),
    posted_invalid: ERRNO => invalid(),
    posted_files: ERRNO => files(),
    posted_addresses: ERRNO => addresses(),
    posted_other_process: ERRNO => other_process(),
    posted_collisions: ERRNO => collisions(),
    posted_later_ioeventfd: ERRNO => each_way(later_ioeventfd),
    posted_limit_of_a_vm: ERRNO => limit_of_a_vm(),
    posted_locked_memory: ERRNO => locked_memory(),
    posted_remove: LIFE => each_way(remove),
    posted_file_first: LIFE => each_way(file_first),
    posted_vm_first: LIFE => vm_first(),
    posted_unmapped_word: LIFE => each_way(unmapped_word),
    posted_while_running: LIFE => each_way(while_running),
    posted_module_stays: LIFE => module_stays(),
}

const VALUE: u64 = 0x8877_6655_4433_2211;
const SIZES: [u8; 4] = [1, 2, 4, 8];

fn each_way(run: impl Fn(&Bench) -> Result<()>) -> Result<()> {
    if host::extension_enabled() != Some(true) {
        return run(&Bench::new()?);
    }
    let enabled = Switch::keep("kvm_mmio_ext", "enabled")?;
    let fast = Switch::keep("kvm_mmio_ext", "fast")?;
    let irqsoff = Switch::keep("kvm_mmio_ext", "irqsoff")?;
    for ways in [
        [false, false, false],
        [true, false, false],
        [true, true, false],
        [true, true, true],
    ] {
        for (switch, on) in [&enabled, &fast, &irqsoff].into_iter().zip(ways) {
            switch.set(on)?;
        }
        run(&Bench::new()?).with_context(|| format!("enabled, fast, irqsoff: {ways:?}"))?;
    }
    Ok(())
}

/// An open file, and memory for words.
struct Bench {
    file: Registers,
    memory: Region,
}

impl Bench {
    fn new() -> Result<Self> {
        let Some(file) = Registers::open()? else {
            skip!("the extension is not loaded");
        };
        Ok(Self {
            file,
            memory: Region::new(PAGE)?,
        })
    }

    /// One that stores and returns the word at the start of the memory, to be changed as wanted.
    fn request(&self, machine: &Machine, offset: u64, len: u8) -> Request {
        Request {
            gpa: machine.gpa(1) + offset,
            user_addr: self.memory.hva(),
            len: len.into(),
            vm_fd: machine.vm().as_raw_fd(),
            event_fd: -1,
            on_write: on_write::STORE,
            on_read: on_read::RETURN,
            ..Default::default()
        }
    }

    fn add(&self, request: &Request) -> Result<()> {
        self.file
            .add(request)
            .with_context(|| format!("{request:x?}"))
    }

    /// The word at the start of the memory.
    fn word(&self) -> u64 {
        self.memory.read_u64(0)
    }

    fn set_word(&self, value: u64) {
        self.memory.write_u64(0, value);
    }
}

fn mask(size: u8) -> u64 {
    u64::MAX >> (64 - 8 * u32::from(size))
}

fn rings(event: &EventFd) -> u64 {
    event.read().unwrap_or(0)
}

fn errno(result: io::Result<()>) -> i32 {
    result.map_or_else(|e| e.raw_os_error().unwrap_or(-1), |()| 0)
}

fn store(bench: &Bench) -> Result<()> {
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

fn clear_and_set(bench: &Bench) -> Result<()> {
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

fn reads(bench: &Bench) -> Result<()> {
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
fn other_accesses(bench: &Bench) -> Result<()> {
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
fn instructions(bench: &Bench) -> Result<()> {
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
fn status_and_ack(bench: &Bench) -> Result<()> {
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
fn in_guest_memory(bench: &Bench) -> Result<()> {
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
fn read_only_slot(bench: &Bench) -> Result<()> {
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

fn signals(bench: &Bench) -> Result<()> {
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
fn word_before_signal(bench: &Bench) -> Result<()> {
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
fn lost_bits(bench: &Bench) -> Result<()> {
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
        let mut count = a.create_label();
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
        a.set_label(&mut count)?;
        a.inc(asm::rcx)?;
        a.lea(asm::rsi, asm::qword_ptr(asm::rax - 1))?;
        a.and(asm::rax, asm::rsi)?;
        a.jnz(count)?;
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

fn invalid() -> Result<()> {
    let bench = Bench::new()?;
    let machine = Machine::new(Mode::Long)?;
    let event = new_event()?;
    let good = Request {
        signal: signal::VALUE,
        event_fd: event.as_raw_fd(),
        ..bench.request(&machine, 0x10, 4)
    };
    let quiet = bench.request(&machine, 0x10, 4);
    let (gpa, user_addr) = (good.gpa, good.user_addr);
    let mut bad = vec![
        Request {
            gpa: gpa + 1,
            ..good
        },
        Request {
            gpa: gpa + 2,
            ..good
        },
        Request {
            gpa: u64::MAX - 3,
            ..good
        },
        Request {
            user_addr: user_addr + 1,
            ..good
        },
        Request {
            user_addr: user_addr + 2,
            ..good
        },
        Request { len: 0, ..good },
        Request { len: 3, ..good },
        Request { len: 16, ..good },
        Request {
            len: 1 << 8 | 4,
            ..good
        },
        Request {
            datamatch: 1 << 32,
            ..good
        },
        Request {
            on_write: 4,
            ..good
        },
        Request { on_read: 3, ..good },
        Request { signal: 4, ..good },
        Request {
            event_fd: -1,
            ..good
        },
        Request {
            on_write: on_write::EXIT,
            ..good
        },
        Request {
            datamatch: 1,
            ..quiet
        },
        Request {
            event_fd: event.as_raw_fd(),
            ..quiet
        },
        Request {
            on_write: on_write::EXIT,
            on_read: on_read::EXIT,
            ..quiet
        },
    ];
    for i in 0..good.reserved.len() {
        let mut request = good;
        request.reserved[i] = 1;
        bad.push(request);
    }
    for request in bad {
        let got = errno(bench.file.add(&request));
        expect_eq!(got, libc::EINVAL, "{request:x?}");
    }
    let at = Place {
        gpa,
        vm_fd: good.vm_fd,
        reserved: 1,
    };
    expect_eq!(errno(bench.file.remove(&at)), libc::EINVAL);
    expect_eq!(errno(bench.file.none()), libc::ENOTTY);
    expect_eq!(errno(bench.file.add_at(0)), libc::EFAULT);
    // All but one field was right.
    bench.add(&good)
}

fn files() -> Result<()> {
    const CLOSED: i32 = 1000;
    let bench = Bench::new()?;
    let (machine, vcpu) = Machine::with_vcpu(Mode::Long)?;
    let event = new_event()?;
    let good = Request {
        signal: signal::ALWAYS,
        event_fd: event.as_raw_fd(),
        ..bench.request(&machine, 0, 4)
    };
    for (vm_fd, wanted) in [
        (-1, libc::EBADF),
        (CLOSED, libc::EBADF),
        (event.as_raw_fd(), libc::EINVAL),
        (vcpu.fd().as_raw_fd(), libc::EINVAL),
    ] {
        let got = errno(bench.file.add(&Request { vm_fd, ..good }));
        expect_eq!(got, wanted, "VM {vm_fd}");
        let place = Place {
            gpa: good.gpa,
            vm_fd,
            reserved: 0,
        };
        expect_eq!(errno(bench.file.remove(&place)), wanted, "VM {vm_fd}");
    }
    for (event_fd, wanted) in [(CLOSED, libc::EBADF), (good.vm_fd, libc::EINVAL)] {
        let got = errno(bench.file.add(&Request { event_fd, ..good }));
        expect_eq!(got, wanted, "eventfd {event_fd}");
    }
    expect_eq!(locked_pages()?, 0);
    bench.add(&good)
}

fn addresses() -> Result<()> {
    let bench = Bench::new()?;
    let machine = Machine::new(Mode::Long)?;
    let good = bench.request(&machine, 0, 4);
    let read_only = Region::new(PAGE)?;
    // SAFETY: the whole of a mapping that nobody writes to.
    let protected = unsafe {
        libc::mprotect(
            read_only.hva() as *mut libc::c_void,
            PAGE as usize,
            libc::PROT_READ,
        )
    };
    expect_eq!(protected, 0);
    let unmapped = Region::new(PAGE)?.hva();
    for user_addr in [0, unmapped, read_only.hva(), 1 << 63, u64::MAX - 3] {
        let got = errno(bench.file.add(&Request { user_addr, ..good }));
        expect_eq!(got, libc::EFAULT, "{user_addr:#x}");
    }
    expect_eq!(locked_pages()?, 0);
    bench.add(&good)
}

/// As for KVM's own ioctls, a VM is only for the process that has made it.
fn other_process() -> Result<()> {
    let bench = Bench::new()?;
    let machine = Machine::new(Mode::Long)?;
    let request = bench.request(&machine, 0, 4);
    let place = Place {
        gpa: request.gpa,
        vm_fd: request.vm_fd,
        reserved: 0,
    };
    bench.add(&request)?;
    // SAFETY: there is no other thread, and the child makes two system calls and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let add = errno(bench.file.add(&Request {
            gpa: request.gpa + 8,
            ..request
        }));
        let remove = errno(bench.file.remove(&place));
        let status = if (add, remove) == (libc::EIO, libc::EIO) {
            0
        } else {
            1
        };
        // SAFETY: ends the process, without any of the parent's destructors.
        unsafe { libc::_exit(status) };
    }
    let mut status = 0;
    // SAFETY: `status` is what the call fills in.
    let waited = unsafe { libc::waitpid(child, &mut status, 0) };
    expect_eq!(waited, child);
    expect_eq!(status, 0);
    bench.file.remove(&place).context("removing")
}

fn collisions() -> Result<()> {
    let bench = Bench::new()?;
    let machine = Machine::new(Mode::Long)?;
    let gpa = machine.gpa(1);
    bench.add(&bench.request(&machine, 0x10, 4))?;
    let mut bell = machine.doorbell(Bus::Mmio(gpa + 0x20), Match::Data { len: 2, value: 1 })?;
    let _any = machine.doorbell(Bus::Mmio(gpa + 0x34), Match::Any)?;
    machine.coalesce(Bus::Mmio(gpa + 0x40), 0x10)?;
    let add = |offset, len| errno(bench.file.add(&bench.request(&machine, offset, len)));
    let taken = [
        (0x10, 4),
        (0x10, 1),
        (0x12, 2),
        (0x10, 8),
        (0x20, 2),
        (0x20, 4),
        (0x21, 1),
        (0x30, 8),
        (0x34, 1),
        (0x40, 1),
        (0x48, 8),
    ];
    for (offset, len) in taken {
        expect_eq!(add(offset, len), libc::EEXIST, "{offset:#x}+{len}");
    }
    // Another file's are no different.
    let other = Bench::new()?;
    let got = errno(other.file.add(&other.request(&machine, 0x10, 4)));
    expect_eq!(got, libc::EEXIST);
    for (offset, len) in [(0x0c, 4), (0x14, 4), (0x22, 2), (0x35, 1), (0x50, 8)] {
        expect_eq!(add(offset, len), 0, "{offset:#x}+{len}");
    }
    bell.remove(machine.vm())?;
    machine.no_coalesce(Bus::Mmio(gpa + 0x40), 0x10)?;
    for (offset, len) in [(0x20, 2), (0x48, 8)] {
        expect_eq!(add(offset, len), 0, "{offset:#x}+{len}");
    }
    // Neither another VM nor ports are the same place.
    let another = Machine::new(Mode::Long)?;
    bench.add(&bench.request(&another, 0x10, 4))
}

/// KVM does not look at devices of other kinds when it adds an ioeventfd: at the same address and
/// of the same length it comes later, and gets what the register declines.
fn later_ioeventfd(bench: &Bench) -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    bench.add(&Request {
        on_write: on_write::EXIT,
        ..bench.request(&machine, 0, 4)
    })?;
    bench.add(&bench.request(&machine, 8, 4))?;
    let declined = machine.doorbell(Bus::Mmio(machine.gpa(1)), Match::Data { len: 4, value: 7 })?;
    let shadowed = machine.doorbell(Bus::Mmio(machine.gpa(1) + 8), Match::Len(4))?;
    for _ in 0..3 {
        bench.set_word(5);
        expect_eq!(vcpu.write(machine.gva(1), 4, 7)?, []);
        expect_eq!((declined.rings()?, bench.word()), (1, 5));
        expect_eq!(
            vcpu.write(machine.gva(1), 4, 8)?,
            [Event::write(machine.gpa(1), 4, 8)]
        );
        expect_eq!(vcpu.read(machine.gva(1), 4)?, (5, vec![]));
        expect_eq!(vcpu.write(machine.gva(1) + 8, 4, 9)?, []);
        expect_eq!((shadowed.rings()?, bench.word()), (0, 9));
    }
    Ok(())
}

fn limit_of_a_vm() -> Result<()> {
    /// `NR_IOBUS_DEVS`
    const LIMIT: u64 = 1000;
    let bench = Bench::new()?;
    let machine = Machine::new(Mode::Long)?;
    let request = |n: u64| bench.request(&machine, 8 * n, 8);
    let added = (0..=LIMIT)
        .find_map(|n| bench.file.add(&request(n)).err().map(|e| (n, e)))
        .context("no limit")?;
    expect_eq!(
        (added.0, added.1.raw_os_error()),
        (LIMIT, Some(libc::ENOSPC))
    );
    expect_eq!(locked_pages()?, LIMIT);
    let place = Place {
        gpa: request(500).gpa,
        vm_fd: machine.vm().as_raw_fd(),
        reserved: 0,
    };
    bench.file.remove(&place)?;
    bench.add(&request(LIMIT))?;
    // Another VM has its own.
    bench.add(&bench.request(&Machine::new(Mode::Long)?, 0, 8))
}

/// Pages that count as locked memory of this process.
fn locked_pages() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let kilobytes: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmLck:")?.strip_suffix("kB"))
        .context("no VmLck in /proc/self/status")?
        .trim()
        .parse()?;
    Ok(kilobytes * 1024 / PAGE)
}

fn locked_memory() -> Result<()> {
    const NOBODY: u32 = 65534;
    let bench = Bench::new()?;
    let machine = Machine::new(Mode::Long)?;
    expect_eq!(locked_pages()?, 0);
    let limit = libc::rlimit {
        rlim_cur: 2 * PAGE,
        rlim_max: 2 * PAGE,
    };
    // SAFETY: the structure is only read.
    let limited = unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit) };
    expect_eq!(limited, 0);
    // SAFETY: changes the rights of this process, which is one test.
    let set = unsafe { libc::setresuid(NOBODY, NOBODY, NOBODY) };
    expect_eq!(set, 0);
    let request = |n: u64| bench.request(&machine, 8 * n, 8);
    bench.add(&request(0))?;
    bench.add(&request(1))?;
    expect_eq!(errno(bench.file.add(&request(2))), libc::ENOMEM);
    // What fails for another reason takes nothing.
    expect_eq!(errno(bench.file.add(&request(0))), libc::ENOMEM);
    let place = Place {
        gpa: request(1).gpa,
        vm_fd: machine.vm().as_raw_fd(),
        reserved: 0,
    };
    bench.file.remove(&place)?;
    expect_eq!(errno(bench.file.add(&request(0))), libc::EEXIST);
    bench.add(&request(2))?;
    Ok(())
}

fn remove(bench: &Bench) -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let (gva, gpa) = (machine.gva(1), machine.gpa(1));
    let place = Place {
        gpa,
        vm_fd: machine.vm().as_raw_fd(),
        reserved: 0,
    };
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

fn file_first(_: &Bench) -> Result<()> {
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

fn vm_first() -> Result<()> {
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
fn unmapped_word(bench: &Bench) -> Result<()> {
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
fn while_running(bench: &Bench) -> Result<()> {
    const WRITES: u64 = 3000;
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let event = new_event()?;
    let request = Request {
        signal: signal::ALWAYS,
        event_fd: event.as_raw_fd(),
        ..bench.request(&machine, 0, 4)
    };
    let place = Place {
        gpa: request.gpa,
        vm_fd: request.vm_fd,
        reserved: 0,
    };
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
fn module_stays() -> Result<()> {
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
