// SPDX-License-Identifier: GPL-2.0
//! Doorbells and registers that are answered before interrupts are on again.

use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use kvm_bindings::kvm_regs;

use super::program::code_page;
use super::ways::Switch;
use crate::guest::paging::SUPERVISOR;
use crate::guest::{
    Bus, Doorbell, Event, Machine, Match, Mode, PAGE, Region, Registers, Request, SlotKind, Vcpu,
    on_write,
};
use crate::host::{self, Modes, silicon};
use crate::stats::Mark;
use crate::{expect_eq, skip};

const ANSWERED: &str = "src/ring.rs: \
    a doorbell that has rung is answered before interrupts are on again";
const FORGOTTEN: &str = "src/pure/bells.rs: \
    a write signals nothing that it does not signal any more";

crate::test_table! {
    fast_irqs_off_rings: ANSWERED => rings(),
    fast_irqs_off_queues: ANSWERED => queues(),
    fast_irqs_off_address_spaces: ANSWERED => address_spaces(),
    fast_irqs_off_registers: ANSWERED => registers(),
    fast_irqs_off_protection_keys:
        "irqs-off.rst: a guest's keys deny it the early answer, and nothing else"
        => protection_keys(),
    fast_irqs_off_switched_off: ANSWERED => switched_off(),
    fast_irqs_off_memory_in_place: FORGOTTEN => memory_in_place(),
    fast_irqs_off_removed: FORGOTTEN => removed(),
    fast_irqs_off_other_value: FORGOTTEN => other_value(),
}

pub(super) const RINGS: u64 = 100;
const SLOT: u32 = 9;

/// The parameter `irqsoff`, switched on and put back at the end.
pub struct IrqsOff {
    parameter: host::Switch,
    _fast: Switch,
}

impl IrqsOff {
    pub fn on() -> Result<Self> {
        let fast = Switch::on()?;
        if !Modes::detect()?.rings_with_irqs_off() {
            skip!("shadow paging and PREEMPT_RT take the ordinary path");
        }
        let this = Self {
            parameter: host::Switch::keep("kvm_mmio_ext", "irqsoff")?,
            _fast: fast,
        };
        this.set(true)?;
        Ok(this)
    }

    pub(super) fn set(&self, on: bool) -> Result<()> {
        self.parameter.set(on)
    }
}

/// Rings that come before: one makes the MMIO SPTE, one is remembered. Where the processor tells
/// the instruction but not always all of it, the page of the code is walked to only when it first
/// does not, i.e. sooner or later.
pub fn before() -> u64 {
    match silicon() {
        Some(mask) if mask & silicon::CUT != 0 => RINGS,
        _ => 2,
    }
}

/// How many of the writes of `value` to `page`, one for each of `RINGS`, are answered so; all of
/// them ring `bell`, as do those before.
pub(super) fn answered(
    machine: &Machine,
    vcpu: &mut Vcpu,
    bell: &Doorbell,
    page: u64,
    value: u64,
) -> Result<u64> {
    for _ in 0..before() {
        expect_eq!(vcpu.write(machine.gva(page), 4, value)?, []);
    }
    expect_eq!(bell.rings()?, before(), "page {page}, before");

    let start = Mark::here(&[vcpu.fd()])?;
    for _ in 0..RINGS {
        expect_eq!(vcpu.write(machine.gva(page), 4, value)?, []);
    }
    let delta = start.delta(&[vcpu.fd()])?;
    delta.expect_kvm("mmio_exits", 0)?;
    delta.expect_ext("fast", RINGS)?;
    expect_eq!(bell.rings()?, RINGS, "page {page}");
    delta.ext("fast_irqsoff")?.context("no counters")
}

fn rings() -> Result<()> {
    let _switch = IrqsOff::on()?;
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    for (page, kind) in [
        (1, Match::Any),
        (2, Match::Len(4)),
        (3, Match::Data { len: 4, value: 5 }),
    ] {
        let bell = machine.doorbell(Bus::Mmio(machine.gpa(page)), kind)?;
        let answered = answered(&machine, &mut vcpu, &bell, page, 5)?;
        expect_eq!(answered, RINGS, "page {page}");
    }
    Ok(())
}

/// Queues that share an address, as with virtio-mmio.
fn queues() -> Result<()> {
    let _switch = IrqsOff::on()?;
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let (gva, gpa) = (machine.gva(1), machine.gpa(1));
    let bells = (0..8)
        .map(|value| machine.doorbell(Bus::Mmio(gpa), Match::Data { len: 4, value }))
        .collect::<Result<Vec<_>>>()?;
    let rounds = before();
    for value in (0..8).cycle().take(8 * rounds as usize) {
        vcpu.write(gva, 4, value)?;
    }
    let start = Mark::here(&[vcpu.fd()])?;
    for value in (0..8).cycle().take(80) {
        expect_eq!(vcpu.write(gva, 4, value)?, [], "queue {value}");
    }
    start.delta(&[vcpu.fd()])?.expect_ext("fast_irqsoff", 80)?;
    for (queue, bell) in bells.iter().enumerate() {
        expect_eq!(bell.rings()?, rounds + 10, "queue {queue}");
    }
    Ok(())
}

/// A driver that many processes call: each has a root of its own, with the same tables below.
fn address_spaces() -> Result<()> {
    const ROOTS: u64 = 96;
    const FIRST: u64 = 8;
    let _switch = IrqsOff::on()?;
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let bell = machine.doorbell(Bus::Mmio(machine.gpa(1)), Match::Len(4))?;
    answered(&machine, &mut vcpu, &bell, 1, 5)?;
    let start = Mark::here(&[vcpu.fd()])?;
    for n in 0..ROOTS {
        let root = code_page(FIRST + n);
        machine.copy_root(root);
        vcpu.change_sregs(|sregs| sregs.cr3 = root)?;
        expect_eq!(vcpu.write(machine.gva(1), 4, 5)?, [], "root {n}");
    }
    let delta = start.delta(&[vcpu.fd()])?;
    delta.expect_ext("fast_irqsoff", ROOTS)?;
    expect_eq!(bell.rings()?, ROOTS);
    Ok(())
}

/// A register of 4 bytes, whose word is the first of the memory.
pub(super) fn register(machine: &Machine, gpa: u64, memory: &Region, on_write: u8) -> Request {
    Request {
        gpa,
        user_addr: memory.hva(),
        len: 4,
        vm_fd: machine.vm().as_raw_fd(),
        event_fd: -1,
        on_write,
        ..Default::default()
    }
}

/// Registers, as long as they are there.
fn registers() -> Result<()> {
    let _switch = IrqsOff::on()?;
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let (gva, gpa) = (machine.gva(1), machine.gpa(1));
    let file = Registers::open()?.context("the extension is loaded")?;
    let memory = Region::new(PAGE)?;
    for on_write in [on_write::STORE, on_write::CLEAR, on_write::SET] {
        let request = register(&machine, gpa, &memory, on_write);
        file.add(&request)?;
        for _ in 0..before() {
            vcpu.write(gva, 4, 0)?;
        }

        let start = Mark::here(&[vcpu.fd()])?;
        for i in 0..RINGS {
            memory.write_u64(0, 0xff00);
            expect_eq!(vcpu.write(gva, 4, i)?, []);
            let expected = match on_write {
                on_write::STORE => i,
                on_write::CLEAR => 0xff00 & !i,
                _ => 0xff00 | i,
            };
            expect_eq!(memory.read_u64(0), expected, "{on_write} {i}");
        }
        let delta = start.delta(&[vcpu.fd()])?;
        delta.expect_kvm("mmio_exits", 0)?;
        delta.expect_ext("fast", RINGS)?;
        delta.expect_ext("fast_irqsoff", RINGS)?;
        delta.expect_ext("fast_kernel", RINGS)?;

        file.remove(&request.place())?;
        expect_eq!(vcpu.write(gva, 4, 7)?, [Event::write(gpa, 4, 7)]);
    }
    Ok(())
}

/// A guest that denies itself pages of users denies the kernel those of the VMM, as long as
/// interrupts are off: its code cannot be looked at. Later the VMM's keys are in force again.
fn protection_keys() -> Result<()> {
    const CR4_PKE: u64 = 1 << 22;
    const KEYS: [u32; 2] = [0, 1];
    let _switch = IrqsOff::on()?;
    if !Machine::supports_protection_keys()? {
        skip!("no protection keys: CONFIG_X86_INTEL_MEMORY_PROTECTION_KEYS");
    }
    if silicon().is_some_and(|mask| mask & silicon::BYTES != 0) {
        skip!("the processor tells what the code is");
    }
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let tables = machine.tables();
    tables.map(machine.gva(1), machine.gpa(1), SUPERVISOR);
    vcpu.change_sregs(|sregs| sregs.cr4 |= CR4_PKE)?;
    let bell = machine.doorbell(Bus::Mmio(machine.gpa(1)), Match::Len(4))?;
    for (keys, expected) in KEYS.into_iter().zip([RINGS, 0]) {
        let regs = kvm_regs {
            rax: keys.into(),
            ..Default::default()
        };
        vcpu.exec(regs, |a| a.wrpkru())?.done()?;
        let answered = answered(&machine, &mut vcpu, &bell, 1, 0)?;
        expect_eq!(answered, expected, "PKRU {keys}");
    }
    Ok(())
}

fn switched_off() -> Result<()> {
    let switch = IrqsOff::on()?;
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let bell = machine.doorbell(Bus::Mmio(machine.gpa(1)), Match::Len(4))?;
    for (on, expected) in [(true, RINGS), (false, 0), (true, RINGS)] {
        switch.set(on)?;
        let answered = answered(&machine, &mut vcpu, &bell, 1, 0)?;
        expect_eq!(answered, expected, "{on}");
    }
    Ok(())
}

/// Memory that comes to be where a doorbell was takes the writes, and the doorbell again when it
/// has gone.
fn memory_in_place() -> Result<()> {
    let _switch = IrqsOff::on()?;
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let (gva, gpa) = (machine.gva(1), machine.gpa(1));
    let bell = machine.doorbell(Bus::Mmio(gpa), Match::Len(4))?;
    let memory = Region::new(PAGE)?;
    for round in 1..=3 {
        let answered = answered(&machine, &mut vcpu, &bell, 1, round)?;
        expect_eq!(answered, RINGS, "round {round}");

        machine.set_slot(SLOT, gpa, &memory, SlotKind::Ram)?;
        expect_eq!(vcpu.write(gva, 4, 0x1000 + round)?, []);
        expect_eq!(memory.read_u64(0), 0x1000 + round);
        expect_eq!(bell.rings()?, 0, "memory is there");
        machine.delete_slot(SLOT)?;
    }
    Ok(())
}

/// Without its ioeventfd a write exits, at once.
fn removed() -> Result<()> {
    let _switch = IrqsOff::on()?;
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let (gva, gpa) = (machine.gva(1), machine.gpa(1));
    for _ in 0..3 {
        let mut bell = machine.doorbell(Bus::Mmio(gpa), Match::Len(4))?;
        expect_eq!(answered(&machine, &mut vcpu, &bell, 1, 7)?, RINGS);
        bell.remove(machine.vm())?;
        expect_eq!(vcpu.write(gva, 4, 7)?, [Event::write(gpa, 4, 7)]);
    }
    Ok(())
}

/// One value rings, another exits, in turn.
fn other_value() -> Result<()> {
    let _switch = IrqsOff::on()?;
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let (gva, gpa) = (machine.gva(1), machine.gpa(1));
    let bell = machine.doorbell(Bus::Mmio(gpa), Match::Data { len: 4, value: 1 })?;
    for _ in 0..20 {
        expect_eq!(vcpu.write(gva, 4, 1)?, []);
        expect_eq!(vcpu.write(gva, 4, 2)?, [Event::write(gpa, 4, 2)]);
        expect_eq!(vcpu.write(gva, 2, 1)?, [Event::write(gpa, 2, 1)]);
    }
    expect_eq!(bell.rings()?, 20);
    Ok(())
}
