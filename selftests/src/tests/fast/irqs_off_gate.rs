// SPDX-License-Identifier: GPL-2.0
//! Doorbells that could be answered before interrupts are on again, but for what else is going on:
//! traps, events, and all that has to stop a guest that rings as fast as it can.

use std::ffi::CStr;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use iced_x86::code_asm as asm;
use kvm_bindings::{
    KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP, kvm_guest_debug, kvm_regs,
};
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::debug::{Watch, is_debugged, set_breakpoint};
use super::event::{Kind, exit, wait_for_window};
use super::irqs_off::{IrqsOff, RINGS, before};
use super::pending::complete;
use super::program::{STORE, delta, ending, finish, mark, prepared, regs_for, run_at, start_with};
use super::ways::needs_trap_flag;
use crate::guest::layout::{RAM_SIZE, SCRATCH, TABLES, TABLES_END, VCPU_AREA_SIZE, code};
use crate::guest::{
    Bus, Doorbell, Event, Fault, Machine, Match, Mode, PAGE, Region, SlotKind, Vcpu,
};
use crate::kick::Kick;
use crate::stats::{Delta, Mark};
use crate::{expect_eq, host};

const GATE: &str = "src/ring.rs: a doorbell ends as with the emulator, whatever else is to happen";
const STOP: &str =
    "src/ring.rs: a guest that only rings is stopped as any other, and every ring counts";

crate::test_table! {
    fast_irqs_off_trap_flag: GATE => trap_flag(),
    fast_irqs_off_guest_debug: GATE => guest_debug(),
    fast_irqs_off_resume_flag: GATE => resume_flag(),
    fast_irqs_off_window: GATE => window(),
    fast_irqs_off_delivery: GATE => delivery(),
    fast_irqs_off_signal: STOP => signal(),
    fast_irqs_off_immediate_exit: STOP => immediate_exit(),
    fast_irqs_off_disturbed: STOP => disturbed(),
    fast_irqs_off_absent_memory: STOP => absent_memory(),
    fast_irqs_off_dirty_log: "fast-path.rst: memory is logged as dirty, whatever rings meanwhile"
        => dirty_log(),
    fast_irqs_off_stack_pointer: "src/ring.rs: an address that depends on RSP, which KVM may not \
        have read yet, takes the ordinary path"
        => stack_pointer(),
}

const TF: u64 = 1 << 8;
const IF: u64 = 1 << 9;
const RF: u64 = 1 << 16;

/// A guest that has rung so often that it is answered early.
struct Remembered {
    switch: IrqsOff,
    machine: Machine,
    vcpu: Vcpu,
    bell: Doorbell,
    regs: kvm_regs,
    at: u64,
}

impl Remembered {
    /// `code` stores to `offset` of page 1, where RDI is told to be, and rings there.
    fn new(code: &[u8], offset: u64, kind: Match) -> Result<Self> {
        let switch = IrqsOff::on()?;
        let (machine, mut vcpu, at) = prepared(code)?;
        let bell = machine.doorbell(Bus::Mmio(machine.gpa(1) + offset), kind)?;
        let mut regs = regs_for(&machine);
        regs.rdi += offset;
        for _ in 0..before() {
            expect_eq!(run_at(&mut vcpu, regs, at)?, []);
        }
        let start = mark(&vcpu)?;
        expect_eq!(run_at(&mut vcpu, regs, at)?, []);
        delta(&start, &vcpu)?.expect_ext("fast_irqsoff", 1)?;
        bell.rings()?;
        Ok(Self {
            switch,
            machine,
            vcpu,
            bell,
            regs,
            at,
        })
    }

    fn store() -> Result<Self> {
        Self::new(&STORE, 0, Match::Len(4))
    }

    /// All exits, as `event::wait_for_window()` tells them, while userspace waits to inject an interrupt; so many rings are
    /// answered early.
    fn wait_for_window(&mut self, rings: u64) -> Result<Vec<(String, u8)>> {
        self.vcpu.start(self.regs, self.at)?;
        let start = mark(&self.vcpu)?;
        let seen = wait_for_window(&mut self.vcpu)?;
        delta(&start, &self.vcpu)?.expect_ext("fast_irqsoff", rings)?;
        Ok(seen)
    }
}

/// The trap comes behind the store.
fn trap_flag() -> Result<()> {
    needs_trap_flag()?;
    let mut it = Remembered::store()?;
    start_with(&mut it.vcpu, it.regs, it.at, TF)?;
    let start = mark(&it.vcpu)?;
    let events = finish(&mut it.vcpu)?;
    delta(&start, &it.vcpu)?.expect_ext("fast_irqsoff", 0)?;
    let [Event::Fault(Fault { vector: 1, .. })] = events[..] else {
        bail!("{events:?}: wanted a trap");
    };
    let regs = it.vcpu.fd().get_regs().context("KVM_GET_REGS")?;
    expect_eq!(
        it.machine.ram().read_u64(regs.rsp),
        it.at + STORE.len() as u64
    );
    expect_eq!(it.bell.rings()?, 1);
    Ok(())
}

/// Userspace single-steps, or waits for what is next.
fn guest_debug() -> Result<()> {
    needs_trap_flag()?;
    stops_behind(KVM_GUESTDBG_SINGLESTEP)?;
    stops_behind(KVM_GUESTDBG_USE_HW_BP)
}

/// A store that userspace debugs takes the ordinary path, behind which it stops.
fn stops_behind(control: u32) -> Result<()> {
    let mut it = Remembered::store()?;
    start_with(&mut it.vcpu, it.regs, it.at, 0)?;
    let mut debug = kvm_guest_debug {
        control: KVM_GUESTDBG_ENABLE | control,
        ..Default::default()
    };
    let (next, dr7) = Watch::Next.registers(&it.machine, it.at);
    debug.arch.debugreg[0] = next;
    debug.arch.debugreg[7] = dr7;
    let fd = it.vcpu.fd();
    fd.set_guest_debug(&debug).context("KVM_SET_GUEST_DEBUG")?;
    let start = mark(&it.vcpu)?;
    let stopped = exit(&mut it.vcpu)?;
    delta(&start, &it.vcpu)?.expect_ext("fast_irqsoff", 0)?;
    let rip = format!(", rip {:#x}", it.at + STORE.len() as u64);
    ensure!(
        stopped.starts_with("Debug") && stopped.ends_with(&rip),
        "{stopped}"
    );
    expect_eq!(it.bell.rings()?, 1);
    Ok(())
}

/// The flag is for the store alone: a breakpoint at what is next is hit.
fn resume_flag() -> Result<()> {
    let mut it = Remembered::store()?;
    let (dr0, dr7) = Watch::Next.registers(&it.machine, it.at);
    set_breakpoint(&it.vcpu, dr0, dr7)?;
    start_with(&mut it.vcpu, it.regs, it.at, RF)?;
    let start = mark(&it.vcpu)?;
    let events = finish(&mut it.vcpu)?;
    delta(&start, &it.vcpu)?.expect_ext("fast_irqsoff", 1)?;
    expect_eq!(is_debugged(&events), true, "{events:?}");
    expect_eq!(it.bell.rings()?, 1);
    Ok(())
}

/// The store is in STI's shadow: the window for an interrupt opens behind it, as with the ordinary
/// path.
fn window() -> Result<()> {
    const STI: u8 = 0xfb;
    let mut it = Remembered::new(&[&[STI], &STORE[..]].concat(), 0, Match::Len(4))?;
    let early = it.wait_for_window(1)?;
    it.switch.set(false)?;
    expect_eq!(it.wait_for_window(0)?, early);
    Ok(())
}

/// An interrupt whose delivery writes to where the doorbell is, while RIP is at the store that
/// would ring it: KVM cannot deliver through MMIO, and nothing has rung.
fn delivery() -> Result<()> {
    // mov [rdi], rax
    const STORE_8: [u8; 3] = [0x48, 0x89, 0x07];
    const STACK: u64 = 0x100;
    let mut it = Remembered::new(&STORE_8, STACK - 8, Match::Len(8))?;
    let regs = kvm_regs {
        rsp: it.machine.gva(1) + STACK,
        ..it.regs
    };
    start_with(&mut it.vcpu, regs, it.at, IF)?;
    Kind::Interrupt.inject(&it.vcpu)?;
    let start = mark(&it.vcpu)?;
    let seen = exit(&mut it.vcpu)?;
    delta(&start, &it.vcpu)?.expect_ext("fast_irqsoff", 0)?;
    // KVM_INTERNAL_ERROR_DELIVERY_EV.
    ensure!(seen.starts_with("internal error 3 "), "{seen}");
    expect_eq!(it.bell.rings()?, 0);
    Ok(())
}

/// A store, and its count in RCX, for ever.
const FOREVER: [u8; 7] = [STORE[0], STORE[1], 0x48, 0xff, 0xc1, 0xeb, 0xf9];

/// Where RIP is between the store and its count.
const UNCOUNTED: u64 = STORE.len() as u64;

impl Remembered {
    /// One that will not end by itself.
    fn forever() -> Result<Self> {
        let mut it = Self::store()?;
        it.machine.ram().write(it.at, &ending(&FOREVER));
        it.regs.rcx = 0;
        // As guests run. Bochs leaves no other for the host's interrupts, see silicon-exits.rst.
        start_with(&mut it.vcpu, it.regs, it.at, IF)?;
        Ok(it)
    }

    /// How many stores it has made.
    fn stores(&self) -> Result<u64> {
        let regs = self.vcpu.fd().get_regs().context("KVM_GET_REGS")?;
        Ok(regs.rcx + u64::from(regs.rip == self.at + UNCOUNTED))
    }
}

/// What a run ended with.
#[derive(Debug, PartialEq)]
enum End {
    Signal,
    Write,
}

fn run(fd: &mut VcpuFd) -> Result<End> {
    match fd.run() {
        Ok(VcpuExit::MmioWrite(..)) => Ok(End::Write),
        Ok(other) => bail!("unexpected exit {other:?}"),
        Err(e) if e.errno() == libc::EINTR => Ok(End::Signal),
        Err(e) => Err(e).context("KVM_RUN"),
    }
}

/// A signal ends KVM_RUN soon, and all that was stored has rung.
fn signal() -> Result<()> {
    const AFTER: Duration = Duration::from_millis(50);
    let mut it = Remembered::forever()?;
    for _ in 0..10 {
        let start = mark(&it.vcpu)?;
        let before = it.stores()?;
        {
            let _kick = Kick::after(AFTER)?;
            expect_eq!(run(it.vcpu.fd_mut())?, End::Signal);
        }
        let stores = it.stores()? - before;
        expect_eq!(it.bell.rings()?, stores);
        let early = delta(&start, &it.vcpu)?.ext("fast_irqsoff")?;
        // The first stores take the ordinary path.
        ensure!(early.context("no counters")? > 0, "{stores} stores");
    }
    Ok(())
}

/// Nothing is run, so nothing rings.
fn immediate_exit() -> Result<()> {
    let mut it = Remembered::forever()?;
    complete(&mut it.vcpu)?;
    expect_eq!((it.stores()?, it.bell.rings()?), (0, 0));
    Ok(())
}

/// Unloads a module unless it is in use.
fn unload(module: &CStr) -> io::Result<()> {
    // SAFETY: the name is a terminated string; with O_NONBLOCK a module in use is left alone.
    match unsafe { libc::syscall(libc::SYS_delete_module, module.as_ptr(), libc::O_NONBLOCK) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What waits for a guest to leave, or changes what it needs, does not wait long, and no store is
/// lost.
fn disturbed() -> Result<()> {
    /// None of the changes takes so long.
    const LIMIT: Duration = Duration::from_secs(20);
    const OTHER_SLOT: u32 = 9;
    let memory = Region::new(PAGE)?;
    let enabled = host::Switch::keep("kvm_mmio_ext", "enabled")?;
    ring_while(|machine, bell, switch| {
        let change = |what: &str, change: &mut dyn FnMut() -> Result<()>| -> Result<()> {
            thread::sleep(Duration::from_millis(20));
            let start = Instant::now();
            change().with_context(|| what.to_owned())?;
            ensure!(start.elapsed() < LIMIT, "{what}: {:?}", start.elapsed());
            Ok(())
        };
        (0..3).try_for_each(|_| {
            change("a memslot elsewhere", &mut || {
                machine.set_slot(OTHER_SLOT, machine.gpa(3), &memory, SlotKind::Ram)
            })?;
            change("no memslot elsewhere", &mut || {
                machine.delete_slot(OTHER_SLOT)
            })?;
            for kind in [SlotKind::LogDirty, SlotKind::Ram] {
                change("the dirty log of the code", &mut || {
                    machine.set_slot(0, 0, machine.ram(), kind)
                })?;
            }
            change("no ioeventfd", &mut || bell.remove(machine.vm()))?;
            change("the ioeventfd", &mut || bell.add(machine.vm()))?;
            for on in [false, true] {
                change("irqsoff", &mut || switch.set(on))?;
                change("fast", &mut || {
                    host::set_fast_path(on).context("the parameter `fast`")
                })?;
                change("enabled", &mut || enabled.set(on))?;
            }
            change("unloading", &mut || {
                let error = unload(c"kvm_mmio_ext").expect_err("the VM holds it");
                ensure!(error.kind() == io::ErrorKind::WouldBlock, "{error}");
                Ok(())
            })
        })
    })
    .map(drop)
}

/// Lets a guest ring for ever while something goes on. Each store must have rung, or be an exit, and
/// some be answered early. Returns what was counted.
fn ring_while(
    something: impl FnOnce(&Machine, &mut Doorbell, &IrqsOff) -> Result<()>,
) -> Result<Delta> {
    let mut it = Remembered::forever()?;
    let start = mark(&it.vcpu)?;
    let done = AtomicBool::new(false);
    let vcpu = &mut it.vcpu;
    let exits = thread::scope(|scope| -> Result<u64> {
        let guest = scope.spawn(|| -> Result<u64> {
            let mut exits = 0;
            while !done.load(Ordering::Relaxed) {
                let _kick = Kick::after(Duration::from_millis(20))?;
                exits += u64::from(run(vcpu.fd_mut())? == End::Write);
            }
            Ok(exits)
        });
        let changed = something(&it.machine, &mut it.bell, &it.switch);
        done.store(true, Ordering::Relaxed);
        let exits = guest.join().expect("the guest's thread does not panic");
        changed.and(exits)
    })?;
    // A store that userspace was asked about is done when the vCPU runs again.
    complete(&mut it.vcpu)?;
    let (stores, rings) = (it.stores()?, it.bell.rings()?);
    expect_eq!(stores, rings + exits, "{rings} rings, {exits} exits");
    let delta = delta(&start, &it.vcpu)?;
    let early = delta.ext("fast_irqsoff")?;
    ensure!(early.context("no counters")? > 0, "{stores} stores");
    Ok(delta)
}

/// The pages of code and page tables go again and again. The vCPU is waited for when they do, and
/// finds them again in its own time, where that may sleep.
fn absent_memory() -> Result<()> {
    const ROUNDS: u64 = 300;
    let counted = ring_while(|machine, _, _| {
        let ram = machine.ram();
        (0..ROUNDS).try_for_each(|_| {
            ram.take_out(code(0), VCPU_AREA_SIZE)?;
            ram.take_out(TABLES, TABLES_END - TABLES)?;
            thread::sleep(Duration::from_micros(500));
            Ok(())
        })
    })?;
    // Else they have never been away.
    let faults = counted.kvm("pf_taken")?;
    ensure!(faults >= ROUNDS / 4, "{faults} page faults");
    Ok(())
}

/// A write to a page, and a ring, page by page: more than what a processor logs by itself before it
/// exits (512 of Intel's page-modification log).
fn dirty_log() -> Result<()> {
    const PAGES: u64 = (RAM_SIZE - SCRATCH) / PAGE;
    const ROUNDS: u64 = 2;
    let _switch = IrqsOff::on()?;
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let bell = machine.doorbell(Bus::Mmio(machine.gpa(1)), Match::Len(4))?;
    let regs = kvm_regs {
        rdi: machine.gva(1),
        rsi: SCRATCH,
        rcx: PAGES,
        ..Default::default()
    };
    let mut write_and_ring = || -> Result<()> {
        let run = vcpu.exec(regs, |a| {
            let mut again = a.create_label();
            a.set_label(&mut again)?;
            a.mov(asm::dword_ptr(asm::rsi), asm::ecx)?;
            a.mov(asm::dword_ptr(asm::rdi), asm::ecx)?;
            a.add(asm::rsi, PAGE as i32)?;
            a.dec(asm::rcx)?;
            a.jnz(again)
        })?;
        expect_eq!(run.done()?, []);
        expect_eq!(bell.rings()?, PAGES);
        Ok(())
    };
    machine.set_slot(0, 0, machine.ram(), SlotKind::LogDirty)?;
    write_and_ring()?;
    let log = || machine.vm().get_dirty_log(0, RAM_SIZE as usize);
    log().context("KVM_GET_DIRTY_LOG")?;
    for round in 0..ROUNDS {
        let start = Mark::here(&[])?;
        write_and_ring()?;
        start.delta(&[])?.expect_ext("fast_irqsoff", PAGES)?;
        let log = log().context("KVM_GET_DIRTY_LOG")?;
        let first = SCRATCH / PAGE;
        let is_logged = |page: &u64| log[*page as usize / 64] >> (page % 64) & 1 != 0;
        let logged = (first..first + PAGES).filter(is_logged).count() as u64;
        expect_eq!(logged, PAGES, "round {round}");
    }
    Ok(())
}

fn stack_pointer() -> Result<()> {
    // mov [rsp + 8], eax
    const CODE: [u8; 4] = [0x89, 0x44, 0x24, 0x08];
    let _switch = IrqsOff::on()?;
    let (machine, mut vcpu, at) = prepared(&CODE)?;
    let bell = machine.doorbell(Bus::Mmio(machine.gpa(1) + 8), Match::Len(4))?;
    let regs = kvm_regs {
        rsp: machine.gva(1),
        ..regs_for(&machine)
    };
    for _ in 0..before() {
        expect_eq!(run_at(&mut vcpu, regs, at)?, []);
    }
    let start = mark(&vcpu)?;
    for _ in 0..RINGS {
        expect_eq!(run_at(&mut vcpu, regs, at)?, []);
    }
    delta(&start, &vcpu)?
        .expect_ext("fast", RINGS)?
        .expect_ext("fast_irqsoff", 0)?;
    expect_eq!(bell.rings()?, before() + RINGS);
    Ok(())
}
