// SPDX-License-Identifier: GPL-2.0
//! How late a timer is while a guest does one thing as fast as it can, and whether each ring of a
//! doorbell arrives.
//!
//! A thread of the highest priority sleeps until a point in time, over and over, on the processor
//! that the guest runs on. What comes in between, from the timer's interrupt to the thread, cannot
//! begin before interrupts are on: it takes the longer the longer they are off.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use iced_x86::IcedError;
use iced_x86::code_asm::{self as asm, CodeAssembler};
use kvm_bindings::kvm_regs;
use kvm_mmio_selftests::guest::layout::{STUB_SIZE, STUBS};
use kvm_mmio_selftests::guest::{Bus, Machine, Match, Mode, Vcpu, operand};
use kvm_mmio_selftests::host::{self, Modes, Switch, Vendor};
use kvm_mmio_selftests::stats::Mark;

/// Rings a doorbell as fast as a guest can, counts the rings, and measures how late a timer is
/// meanwhile on the same processor: with KVM's C code, with the extension but for what it does with
/// interrupts off, and with that; and while the guest does what KVM itself handles with interrupts
/// off, INVD, and HLT with an interrupt pending.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// Rings, and exits of other kinds
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=1 << 32))]
    rings: u64,
    /// The processor for guest and timer
    #[arg(long, default_value_t = 0)]
    processor: usize,
    /// From one point in time to the next, in microseconds
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(10..=1_000_000))]
    period: u64,
    /// Only count the rings with all of the extension on
    #[arg(long)]
    count: bool,
}

/// What the guest does.
#[derive(Clone, Copy, PartialEq)]
enum Load {
    Doorbell,
    Port,
    /// INVD, which KVM handles with interrupts off as well.
    Invd,
    /// HLT, which it handles so, too, while an interrupt waits that the guest has sent to itself.
    Halt,
}

/// How the extension is switched for it.
struct Row {
    what: &'static str,
    load: Load,
    enabled: bool,
    irqsoff: bool,
}

const ROWS: [Row; 6] = [
    Row {
        what: "doorbell, KVM's C code",
        load: Load::Doorbell,
        enabled: false,
        irqsoff: false,
    },
    Row {
        what: "doorbell, irqsoff=0",
        load: Load::Doorbell,
        enabled: true,
        irqsoff: false,
    },
    Row {
        what: "doorbell, irqsoff=1",
        load: Load::Doorbell,
        enabled: true,
        irqsoff: true,
    },
    Row {
        what: "port write, ioeventfd",
        load: Load::Port,
        enabled: true,
        irqsoff: true,
    },
    Row {
        what: "INVD, KVM's own fast path",
        load: Load::Invd,
        enabled: true,
        irqsoff: true,
    },
    Row {
        what: "HLT, KVM's own fast path",
        load: Load::Halt,
        enabled: true,
        irqsoff: true,
    },
];

const PORT: u16 = 0x510;
const PAGE: u64 = 1;

/// The interrupt that the guest sends to itself: one that has a gate already.
const VECTOR: u32 = 31;
/// Bits of the APIC base.
const X2APIC: u64 = 0b11 << 10;

/// Registers of a local APIC in x2APIC mode.
mod msr {
    pub const EOI: u32 = 0x80b;
    pub const SPURIOUS: u32 = 0x80f;
    pub const SELF_IPI: u32 = 0x83f;
}

/// WRMSR, with RAX, RCX and RDX lost.
fn write_msr(a: &mut CodeAssembler, msr: u32, value: u32) -> Result<(), IcedError> {
    a.mov(asm::ecx, msr)?;
    a.mov(asm::eax, value)?;
    a.xor(asm::edx, asm::edx)?;
    a.wrmsr()
}

/// A machine whose guest can interrupt itself.
fn interruptible() -> Result<(Machine, Vcpu)> {
    let mut machine = Machine::with_irqchip(Mode::Long)?;
    let vcpu = machine.add_vcpu()?;
    vcpu.change_sregs(|sregs| sregs.apic_base |= X2APIC)?;
    let mut a = CodeAssembler::new(64)?;
    write_msr(&mut a, msr::EOI, 0)?;
    a.iretq()?;
    let handler = STUBS + u64::from(VECTOR) * STUB_SIZE;
    let code = a.assemble(handler)?;
    ensure!(code.len() as u64 <= STUB_SIZE, "{} bytes", code.len());
    machine.ram().write(handler, &code);
    Ok((machine, vcpu))
}

impl Load {
    /// `rcx` times.
    fn program(self, a: &mut CodeAssembler) -> Result<(), IcedError> {
        let mut again = a.create_label();
        a.mov(asm::rbx, asm::rcx)?;
        if self == Load::Halt {
            // On, and with the spurious vector of a reset.
            write_msr(a, msr::SPURIOUS, 0x1ff)?;
        }
        // As guests run. Bochs leaves no other for the host's interrupts, see silicon-exits.rst.
        a.sti()?;
        a.set_label(&mut again)?;
        match self {
            Load::Doorbell => a.mov(operand(Mode::Long, 0), asm::eax)?,
            Load::Port => {
                a.mov(asm::dx, i32::from(PORT))?;
                a.out(asm::dx, asm::eax)?;
            }
            Load::Invd => a.invd()?,
            Load::Halt => {
                // The interrupt is not taken before HLT.
                a.cli()?;
                write_msr(a, msr::SELF_IPI, VECTOR)?;
                a.sti()?;
                a.hlt()?;
            }
        }
        a.dec(asm::rbx)?;
        a.jnz(again)
    }

    fn bus(self, machine: &Machine) -> Option<Bus> {
        match self {
            Load::Doorbell => Some(Bus::Mmio(machine.gpa(PAGE))),
            Load::Port => Some(Bus::Pio(PORT)),
            Load::Invd | Load::Halt => None,
        }
    }

    fn machine(self) -> Result<(Machine, Vcpu)> {
        match self {
            Load::Halt => interruptible(),
            _ => Machine::with_vcpu(Mode::Long),
        }
    }

    /// Why this cannot be measured here.
    fn missing(self) -> Result<Option<&'static str>> {
        let host = Modes::detect()?;
        let fast = host.vendor == Vendor::Intel || host.nrips;
        Ok(match self {
            Load::Invd | Load::Halt if !fast => {
                Some("KVM has no fast path for it without a next RIP")
            }
            Load::Halt if !Machine::offers_irqchip()? => Some("this KVM has no I/O APIC"),
            _ => None,
        })
    }
}

/// The extension's, put back at the end.
struct Switches {
    enabled: Switch,
    irqsoff: Switch,
}

impl Switches {
    fn keep() -> Result<Self> {
        Ok(Self {
            enabled: Switch::keep("kvm_mmio_ext", "enabled")?,
            irqsoff: Switch::keep("kvm_mmio_ext", "irqsoff")?,
        })
    }
}

/// Nanoseconds that each wake-up was late, sorted.
struct Late(Vec<u64>);

impl Late {
    fn at(&self, percent: usize) -> u64 {
        self.0[(self.0.len() - 1) * percent / 100]
    }
}

fn now() -> Result<u64> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: only writes to `time`.
    if unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) } != 0 {
        return Err(io::Error::last_os_error()).context("clock_gettime");
    }
    Ok(time.tv_sec as u64 * NS_PER_S + time.tv_nsec as u64)
}

const NS_PER_S: u64 = 1_000_000_000;

/// Sleeps until a point in time.
fn sleep_until(when: u64) -> Result<()> {
    let time = libc::timespec {
        tv_sec: (when / NS_PER_S) as i64,
        tv_nsec: (when % NS_PER_S) as i64,
    };
    // SAFETY: only reads `time`; no remainder is asked for, as the time is absolute.
    match unsafe {
        libc::clock_nanosleep(
            libc::CLOCK_MONOTONIC,
            libc::TIMER_ABSTIME,
            &time,
            std::ptr::null_mut(),
        )
    } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)).context("clock_nanosleep"),
    }
}

/// Makes the calling thread come before all that are not of this kind.
fn be_first() -> Result<()> {
    let param = libc::sched_param { sched_priority: 1 };
    // SAFETY: only reads `param`.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &param) } != 0 {
        return Err(io::Error::last_os_error()).context("SCHED_FIFO");
    }
    Ok(())
}

/// Sleeps over and over until `done`.
fn measure(period: u64, processor: usize, done: &AtomicBool) -> Result<Late> {
    host::run_on(processor)?;
    be_first()?;
    let mut late = Vec::new();
    let mut next = now()? + period;
    while !done.load(Ordering::Relaxed) {
        sleep_until(next)?;
        late.push(now()? - next);
        next = now()? + period;
    }
    late.sort_unstable();
    Ok(Late(late))
}

/// Runs the guest to the end, and a timer beside it. Every ring must have arrived.
fn run(row: &Row, options: &Options, switches: &Switches) -> Result<Late> {
    switches.enabled.set(row.enabled)?;
    switches.irqsoff.set(row.irqsoff)?;
    let (machine, mut vcpu) = row.load.machine()?;
    let bell = row
        .load
        .bus(&machine)
        .map(|bus| machine.doorbell(bus, Match::Len(4)))
        .transpose()?;
    let regs = kvm_regs {
        rdi: machine.gva(PAGE),
        rcx: options.rings,
        ..Default::default()
    };
    let done = AtomicBool::new(false);
    let start = Mark::here(&[])?;
    let late = thread::scope(|scope| {
        let timer = (!options.count)
            .then(|| scope.spawn(|| measure(options.period * 1000, options.processor, &done)));
        let ran = host::run_on(options.processor)
            .and_then(|()| vcpu.exec(regs, |a| row.load.program(a))?.done());
        done.store(true, Ordering::Relaxed);
        let late = timer.map_or(Ok(Late(vec![0])), |timer| {
            timer.join().expect("the timer's thread")
        });
        ensure!(
            ran?.is_empty(),
            "{}: the guest's accesses left KVM",
            row.what
        );
        late
    })?;
    if let Some(bell) = bell {
        let rings = bell.rings()?;
        ensure!(
            rings == options.rings,
            "{}: {rings} of {} rings arrived",
            row.what,
            options.rings
        );
    }
    let early = start.delta(&[])?.ext("fast_irqsoff")?.unwrap_or(0);
    check_early(row, options.rings, early)?;
    ensure!(
        !late.0.is_empty(),
        "{}: too short, give more --rings",
        row.what
    );
    Ok(late)
}

/// Of so many rings all but the first few must have been answered with interrupts off, or none.
fn check_early(row: &Row, rings: u64, early: u64) -> Result<()> {
    /// Until doorbell and code are known.
    const FIRST: u64 = 100;
    let can_be = row.load == Load::Doorbell && row.enabled && row.irqsoff;
    let least = if can_be && Modes::detect()?.rings_with_irqs_off() {
        rings.saturating_sub(FIRST)
    } else {
        0
    };
    ensure!(
        early >= least && (can_be || early == 0),
        "{}: {early} of {rings} answered with interrupts off",
        row.what
    );
    Ok(())
}

fn main() -> Result<()> {
    let options = Options::parse();
    let switches = Switches::keep()?;
    if options.count {
        run(&ROWS[2], &options, &switches)?;
        println!("{} rings, each counted", options.rings);
        return Ok(());
    }
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED);
    table.set_header([
        "nanoseconds that a timer is late",
        "times",
        "min",
        "50 %",
        "99 %",
        "max",
    ]);
    for row in &ROWS {
        if let Some(why) = row.load.missing()? {
            println!("not measured: {}: {why}", row.what);
            continue;
        }
        eprintln!("measuring: {}", row.what);
        let late = run(row, &options, &switches)?;
        let figures = [
            late.0.len() as u64,
            late.at(0),
            late.at(50),
            late.at(99),
            late.at(100),
        ];
        table.add_row(
            [row.what.to_owned()]
                .into_iter()
                .chain(figures.map(|n| n.to_string())),
        );
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{table}");
    Ok(())
}
