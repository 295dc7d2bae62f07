// SPDX-License-Identifier: GPL-2.0
//! What a vCPU does, and what must come of it.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use iced_x86::code_asm::{self as asm, CodeAssembler};
use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_regs};

use super::bell::{Bell, VALUE};
use super::slot::{Page, Slot, is_magic, own_word};
use super::tally::count;
use super::world::{ALIAS, HOLE_PAGE, SLOTS, World};
use crate::expect_eq;
use crate::guest::cpu::{CR0_WP, CR4_PGE};
use crate::guest::vcpu::load_cr3;
use crate::guest::{Event, Vcpu, operand, pattern_value};
use crate::random::Random;

/// Writes that ring a doorbell in one visit.
const RINGS: u64 = 4;

/// A few instructions that take so long hang. On a host that is busy with three machines 17 seconds
/// were seen.
const STALL: Duration = Duration::from_secs(60);

/// Visits between two reloads of registers.
const RELOAD_EVERY: u64 = 32;

/// A vCPU with its thread's state.
pub struct Visitor {
    id: u64,
    vcpu: Vcpu,
    random: Random,
    /// The last number that was written to memory.
    value: u32,
}

impl Visitor {
    pub fn new(id: u64, vcpu: Vcpu, seed: u64) -> Self {
        Self {
            id,
            vcpu,
            random: Random::new(seed << 8 | id),
            value: 0,
        }
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    /// Makes visits until all is over.
    pub fn run(mut self, world: &World) -> Result<()> {
        let programs = Programs::load(&mut self.vcpu, self.id)?;
        for visit in 1u64.. {
            if world.is_over() {
                break;
            }
            match self.random.below(8) {
                0..=3 => self.visit_slot(world, &programs)?,
                4..=5 => self.visit_bell(world, &programs)?,
                6 => self.visit_hole(world, &programs)?,
                _ => self.visit_alias(world, &programs)?,
            }
            if visit % RELOAD_EVERY == 0 {
                self.reload().context("reloading registers")?;
                count(&world.tally.reloads, 1);
            }
            world.visited(self.id);
        }
        Ok(())
    }

    /// Runs until the next event, which comes soon: nothing that others do may hold up a vCPU.
    fn step(&mut self, world: &World) -> Result<Option<Event>> {
        let start = Instant::now();
        let event = self.vcpu.step()?;
        let taken = start.elapsed();
        world
            .tally
            .longest_run
            .fetch_max(taken.as_millis() as u64, Ordering::Relaxed);
        ensure!(taken < STALL, "{event:?} came after {taken:?} only");
        Ok(event)
    }

    /// Runs a program and returns what came of it.
    fn run_program(
        &mut self,
        world: &World,
        program: u64,
        regs: kvm_regs,
    ) -> Result<(Vec<Event>, kvm_regs)> {
        self.vcpu.start(regs, program)?;
        let mut events = Vec::new();
        while let Some(event) = self.step(world)? {
            ensure!(event.is_mmio(), "{event:?} after {events:?}");
            events.push(event);
        }
        let regs = self.vcpu.fd().get_regs().context("KVM_GET_REGS")?;
        Ok((events, regs))
    }

    /// A read and a write of a page that may be a hole, RAM or read-only.
    fn visit_slot(&mut self, world: &World, programs: &Programs) -> Result<()> {
        let page = self.random.below(2 * SLOTS as u64);
        let (slot, truth) = Slot::of_page(&world.slots, page);
        let gpa = world.machine.gpa(page);
        self.value += 1;

        let before = truth.look();
        let (events, regs) = self.run_program(
            world,
            programs.slot,
            kvm_regs {
                rdi: world.machine.gva(page),
                rsi: self.value.into(),
                ..Default::default()
            },
        )?;
        let seen = before
            .filter(|view| truth.still(view))
            .map(|view| view.value);
        count(&world.tally.accesses, 2);

        let read_exit = Event::read(gpa, 4);
        let write_exit = Event::write(gpa + own_word(self.id), 4, self.value.into());
        let mut rest = events.as_slice();
        let mut exited = |exit: &Event| match rest {
            [first, after @ ..] if first == exit => {
                rest = after;
                true
            }
            _ => false,
        };
        let (read_exited, write_exited) = (exited(&read_exit), exited(&write_exit));
        let (read, stored) = (regs.rax as u32, slot.holds(self.id, self.value));
        let all = format!(
            "page {page} is {seen:x?}; exits {events:?}, read {read:#x}, stored {stored}, \
             value {:#x}",
            self.value
        );
        ensure!(rest.is_empty(), "exits that no access accounts for: {all}");
        ensure!(
            write_exited != stored,
            "the write was lost or doubled: {all}"
        );
        let right_read = if read_exited {
            u64::from(read) == pattern_value(gpa, 4)
        } else {
            is_magic(read)
        };
        ensure!(right_read, "the read got something else: {all}");
        let (right, counter) = match seen {
            None => (true, &world.tally.saw_change),
            Some(Page::Hole) => (read_exited && write_exited, &world.tally.saw_hole),
            Some(Page::Ram(magic)) => (
                !read_exited && !write_exited && read == magic,
                &world.tally.saw_ram,
            ),
            Some(Page::ReadOnly(magic)) => (
                !read_exited && write_exited && read == magic,
                &world.tally.saw_read_only,
            ),
        };
        ensure!(right, "nothing has changed meanwhile: {all}");
        count(counter, 1);
        Ok(())
    }

    /// Writes that ring a doorbell, or none.
    fn visit_bell(&mut self, world: &World, programs: &Programs) -> Result<()> {
        let bell: &Bell = &world.bells[self.random.below(world.bells.len() as u64) as usize];
        let before = bell.truth.look();
        let (events, _) = self.run_program(
            world,
            programs.bell,
            kvm_regs {
                rdi: world.machine.gva(bell.page),
                rsi: VALUE.into(),
                ..Default::default()
            },
        )?;
        let seen = before
            .filter(|view| bell.truth.still(view))
            .map(|view| view.value);
        count(&world.tally.accesses, RINGS);

        let exits = events.len() as u64;
        bell.written.fetch_add(RINGS, Ordering::SeqCst);
        bell.exited.fetch_add(exits, Ordering::SeqCst);
        let exit = Event::write(world.machine.gpa(bell.page), 4, VALUE.into());
        ensure!(
            events.iter().all(|event| *event == exit),
            "other exits: {events:?}"
        );
        let (right, counter) = match seen {
            None => (exits <= RINGS, &world.tally.saw_change),
            Some(true) => (exits == 0, &world.tally.saw_bell),
            Some(false) => (exits == RINGS, &world.tally.saw_no_bell),
        };
        ensure!(right, "{exits} exits, and the doorbell was there: {seen:?}");
        count(counter, 1);
        Ok(())
    }

    /// A read of a page that is always a hole, and a write of what was read.
    fn visit_hole(&mut self, world: &World, programs: &Programs) -> Result<()> {
        let gpa = world.machine.gpa(HOLE_PAGE);
        let (events, _) = self.run_program(
            world,
            programs.hole,
            kvm_regs {
                rdi: world.machine.gva(HOLE_PAGE),
                ..Default::default()
            },
        )?;
        count(&world.tally.accesses, 2);
        expect_eq!(
            events,
            [
                Event::read(gpa, 4),
                Event::write(gpa + 8, 4, pattern_value(gpa, 4))
            ]
        );
        Ok(())
    }

    /// The same address in two sets of page tables, a hole and RAM.
    fn visit_alias(&mut self, world: &World, programs: &Programs) -> Result<()> {
        let (Some(program), Some(second)) = (programs.alias, &world.second) else {
            return Ok(());
        };
        let gpa = world.machine.gpa(HOLE_PAGE);
        let (events, regs) = self.run_program(
            world,
            program,
            kvm_regs {
                rdi: world.machine.gva(HOLE_PAGE),
                rsi: second.root(),
                rdx: world.machine.tables().root(),
                ..Default::default()
            },
        )?;
        count(&world.tally.accesses, 2);
        expect_eq!(events, [Event::read(gpa, 4)]);
        expect_eq!(regs.rax as u32, ALIAS);
        Ok(())
    }

    /// CPUID as it is, and control registers that make KVM set up its MMU anew.
    fn reload(&mut self) -> Result<()> {
        let fd = self.vcpu.fd();
        let cpuid = fd
            .get_cpuid2(KVM_MAX_CPUID_ENTRIES)
            .context("KVM_GET_CPUID2")?;
        fd.set_cpuid2(&cpuid).context("KVM_SET_CPUID2")?;
        self.vcpu.change_sregs(|sregs| {
            sregs.cr0 ^= CR0_WP;
            sregs.cr4 ^= CR4_PGE;
        })
    }
}

/// Where the programs are.
struct Programs {
    slot: u64,
    bell: u64,
    hole: u64,
    /// None without paging.
    alias: Option<u64>,
}

impl Programs {
    fn load(vcpu: &mut Vcpu, id: u64) -> Result<Self> {
        let mode = vcpu.mode();
        let at = |offset: u64| asm::dword_ptr(operand(mode, offset as i32));
        let alias = |a: &mut CodeAssembler| {
            a.mov(asm::eax, at(0))?;
            load_cr3(a, mode)?;
            a.mov(asm::eax, at(0))?;
            a.mov(asm::esi, asm::edx)?;
            load_cr3(a, mode)
        };
        Ok(Self {
            slot: vcpu.load(|a| {
                a.mov(asm::eax, at(0))?;
                a.mov(at(own_word(id)), asm::esi)
            })?,
            bell: vcpu.load(|a| (0..RINGS).try_for_each(|_| a.mov(at(0), asm::esi)))?,
            hole: vcpu.load(|a| {
                a.mov(asm::eax, at(0))?;
                a.mov(at(8), asm::eax)
            })?,
            alias: match mode.is_paged() {
                true => Some(vcpu.load(alias)?),
                false => None,
            },
        })
    }
}
