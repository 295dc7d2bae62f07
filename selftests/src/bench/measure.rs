// SPDX-License-Identifier: GPL-2.0
//! Measures accesses by the time-stamp counter: from before the first to after the last, less the
//! same loop without accesses.

use std::thread;

use anyhow::{Context, Result, ensure};
use iced_x86::IcedError;
use iced_x86::code_asm::{self as asm, CodeAssembler};
use kvm_bindings::kvm_regs;
use serde::Serialize;

use super::row::{Fixture, Kind, Row, Space};
use super::sample::Sample;
use super::state::{Restore, State};
use super::turn::Loop;
use crate::guest::layout::port;
use crate::guest::{Machine, Mode, Vcpu};
use crate::host;
use crate::perf::Instructions;
use crate::stats::Mark;

/// Before each measurement at least so many accesses, and turns of the loop: the first ones fill
/// caches, KVM's and the processor's.
const WARM_UP: u64 = 64;
const WARM_UP_TURNS: u64 = 2;

/// How often the loop without accesses is run again if it has taken longer than that with them.
const RETRIES: u32 = 3;

/// Instructions of a turn of the loop without accesses.
pub const EMPTY_TURN: f64 = 2.0;

/// The result of one row.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    pub name: &'static str,
    pub description: String,
    /// The port row to compare with.
    pub port: Option<&'static str>,
    /// What one instruction does: reads and writes.
    pub accesses_each: u64,
    pub space: Space,
    /// What takes the accesses.
    pub receiver: &'static str,
    /// Of the processor, in the guest.
    pub mode: String,
    /// Whether there is memory to read in place of a hole.
    pub read_only: bool,
    pub vcpus: u64,
    /// Extension off, or not loaded.
    pub off: Sample,
    /// Extension on without its fast path, and with it; absent when it is not loaded.
    pub seed: Option<Sample>,
    pub on: Option<Sample>,
    /// What happened while the extension was on, in both of these states and with warm-up.
    pub counts: Option<Counts>,
    /// Instructions of the host per access, of a run of its own in each state; absent unless they
    /// were asked for and the machine counts them.
    pub host_instructions: Option<HostInstructions>,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct HostInstructions {
    pub off: f64,
    pub seed: Option<f64>,
    pub on: Option<f64>,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Counts {
    pub accesses: u64,
    /// MMIO faults that the extension took.
    pub faults: u64,
    /// Of these, accesses that the fast path completed, and that the emulator got.
    pub fast: u64,
    pub emulated: u64,
    /// MMIO SPTEs that it made.
    pub spte_made: u64,
}

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Accesses of one measurement, by each vCPU.
    pub iterations: u64,
    /// Measurements in each state of the extension.
    pub repetitions: u64,
    /// Whether to count the host's instructions as well.
    pub host_instructions: bool,
}

/// EDX:EAX := the time-stamp counter.
fn read_tsc(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.lfence()?;
    a.rdtsc()
}

/// A program of any width that does `turn` ECX times, and ends with the ticks that this took in
/// EDX:EAX. `turn` finds `value` in EAX, the port in DX, and DI; it keeps them, unless it sets
/// them itself each time, and SI and BP.
fn timed_loop(
    value: u32,
    turn: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError> {
    move |a| {
        read_tsc(a)?;
        a.mov(asm::esi, asm::eax)?;
        a.mov(asm::ebp, asm::edx)?;
        a.mov(asm::eax, value)?;
        a.mov(asm::edx, u32::from(port::BENCH))?;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        turn(a)?;
        a.dec(asm::ecx)?;
        a.jne(again)?;
        read_tsc(a)?;
        a.sub(asm::eax, asm::esi)?;
        a.sbb(asm::edx, asm::ebp)
    }
}

/// A vCPU with both loops.
struct Guest {
    vcpu: Vcpu,
    /// Address of the first page.
    gva: u64,
    full: u64,
    empty: u64,
    /// The last value of a row whose values change: none comes again in another run.
    last_value: u64,
}

impl Guest {
    fn new(
        mut vcpu: Vcpu,
        gva: u64,
        value: u32,
        turn: impl Fn(&mut CodeAssembler, Loop) -> Result<(), IcedError>,
    ) -> Result<Self> {
        let full = vcpu.load(timed_loop(value, |a| turn(a, Loop::Full)))?;
        let empty = vcpu.load(timed_loop(value, |a| turn(a, Loop::Empty)))?;
        Ok(Self {
            vcpu,
            gva,
            full,
            empty,
            last_value: 0,
        })
    }

    /// The ticks that the guest has counted.
    fn run(&mut self, which: Loop, turns: u64) -> Result<u64> {
        let program = match which {
            Loop::Full => self.full,
            Loop::Empty => self.empty,
        };
        self.vcpu.start(
            kvm_regs {
                rcx: turns,
                rdi: self.gva,
                r10: self.last_value,
                ..Default::default()
            },
            program,
        )?;
        self.vcpu.run_to_end()?;
        let regs = self.vcpu.fd().get_regs().context("KVM_GET_REGS")?;
        self.last_value = regs.r10;
        Ok(regs.rdx << 32 | regs.rax & u64::from(u32::MAX))
    }
}

/// The guest of one row: all its vCPUs.
struct Bench {
    guests: Vec<Guest>,
    places: u64,
    fixture: Fixture,
}

impl Bench {
    /// Ticks until all vCPUs are done: by the guest's clock if it is only one, else by the host's,
    /// with a thread and, as far as there are so many, a processor for each.
    fn ticks(&mut self, which: Loop, turns: u64) -> Result<u64> {
        if let [guest] = &mut self.guests[..] {
            return guest.run(which, turns);
        }
        let processors = host::cpus()?;
        let start = host::ticks();
        thread::scope(|scope| {
            let threads: Vec<_> = self
                .guests
                .iter_mut()
                .enumerate()
                .map(|(number, guest)| {
                    scope.spawn(move || {
                        host::run_on(number % processors)?;
                        guest.run(which, turns)
                    })
                })
                .collect();
            for thread in threads {
                thread.join().expect("a vCPU's thread panicked")?;
            }
            Ok(host::ticks() - start)
        })
    }

    fn turns(&self, accesses: u64) -> u64 {
        accesses.div_ceil(self.places)
    }

    /// Accesses of so many turns.
    fn accesses(&self, turns: u64) -> u64 {
        turns * self.places * self.guests.len() as u64
    }

    /// Accesses that are not measured; returns how many.
    fn warm_up(&mut self) -> Result<u64> {
        let turns = self.turns(WARM_UP).max(WARM_UP_TURNS);
        self.ticks(Loop::Full, turns)?;
        self.check_rings(turns)?;
        Ok(self.accesses(turns))
    }

    /// Fails unless all accesses of a row of ioeventfds have rung one.
    fn check_rings(&self, turns: u64) -> Result<()> {
        let accesses = self.accesses(turns);
        if let Some(rings) = self.fixture.rings()? {
            ensure!(rings == accesses, "{rings} rings of {accesses}");
        }
        Ok(())
    }

    /// Ticks per access, over about `iterations` accesses of each vCPU; and how many accesses that
    /// were.
    fn measure(&mut self, iterations: u64) -> Result<(f64, u64)> {
        let warm_up = self.warm_up()?;
        let turns = self.turns(iterations);
        let full = self.ticks(Loop::Full, turns)?;
        self.check_rings(turns)?;
        let mut empty = self.ticks(Loop::Empty, turns)?;
        // On a busy host something else may have had the processor.
        for _ in 0..RETRIES {
            if empty >= full {
                empty = empty.min(self.ticks(Loop::Empty, turns)?);
            }
        }
        ensure!(full > empty, "{full} ticks with accesses, {empty} without");
        let accesses = self.accesses(turns);
        Ok(((full - empty) as f64 / accesses as f64, accesses + warm_up))
    }

    /// The same in instructions of the host; None if they cannot be counted.
    fn count_instructions(&mut self, iterations: u64) -> Result<Option<(f64, u64)>> {
        let warm_up = self.warm_up()?;
        let turns = self.turns(iterations);
        let Some(counter) = Instructions::start() else {
            return Ok(None);
        };
        let start = counter.read()?;
        self.ticks(Loop::Full, turns)?;
        let full = counter.read()?;
        self.ticks(Loop::Empty, turns)?;
        let empty = counter.read()? - full;
        drop(counter);
        self.check_rings(turns)?;
        let accesses = self.accesses(turns);
        let difference = (full - start) as f64 - empty as f64;
        Ok(Some((difference / accesses as f64, accesses + warm_up)))
    }
}

/// Instructions of the host per access in each state. Not in the runs that are timed: a counter
/// that leaves out the guest makes each entry and exit longer.
fn host_instructions(
    bench: &mut Bench,
    iterations: u64,
    accesses: &mut u64,
) -> Result<Option<HostInstructions>> {
    // It counts one thread.
    if bench.guests.len() > 1 {
        return Ok(None);
    }
    let (mut off, mut seed, mut on) = (None, None, None);
    for state in State::all() {
        state.enter()?;
        let Some((instructions, count)) = bench.count_instructions(iterations)? else {
            return Ok(None);
        };
        match state {
            State::Off => off = Some(instructions),
            State::Seed => seed = Some(instructions),
            State::On => on = Some(instructions),
        }
        if *state != State::Off {
            *accesses += count;
        }
    }
    Ok(off.map(|off| HostInstructions { off, seed, on }))
}

/// Ticks of one turn of a loop of two instructions: where it is exactly [`EMPTY_TURN`], the clock
/// counts instructions.
pub fn ticks_per_empty_turn() -> Result<f64> {
    const TURNS: u64 = 10_000;
    let (_machine, vcpu) = Machine::with_vcpu(Mode::Long)?;
    let mut guest = Guest::new(vcpu, 0, 0, |_, _| Ok(()))?;
    let mut least = u64::MAX;
    for _ in 0..5 {
        // What surrounds the loop is in both, and an interrupt of the host in few.
        let short = guest.run(Loop::Empty, TURNS)?;
        let long = guest.run(Loop::Empty, 2 * TURNS)?;
        least = least.min(long.saturating_sub(short));
    }
    Ok(least as f64 / TURNS as f64)
}

/// Measures one row, in one state of the extension after the other and then again, so that
/// whatever drifts meets all.
pub fn measure(row: &Row, effort: Effort) -> Result<Measured> {
    let mut machine = Machine::new(row.mode)?;
    let fixture = row.prepare(&machine)?;
    let mut guests = Vec::new();
    for _ in 0..row.vcpus {
        let mut vcpu = machine.add_vcpu()?;
        if row.kind == Kind::Coalesced {
            vcpu.map_coalesced_ring()?;
        }
        if row.segments {
            vcpu.limit_data_segment()?;
        }
        guests.push(Guest::new(
            vcpu,
            machine.gva(0),
            row.rings(),
            |a, which| row.turn(a, which),
        )?);
    }
    let mut bench = Bench {
        guests,
        places: row.places.count,
        fixture,
    };

    let _restore = Restore::later();
    // The counters stand still while the extension is off, so they are read only at the ends:
    // reading them leaves work behind that would fall into a measurement.
    let start = Mark::here(&[])?;
    let mut accesses = 0;
    // The pages are faulted in with the extension on: it makes the MMIO SPTEs.
    State::On.enter()?;
    for guest in &mut bench.guests {
        row.begin(&machine, &mut guest.vcpu)?;
    }
    accesses += bench.warm_up()?;
    let (mut off, mut seed, mut on) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..effort.repetitions {
        for state in State::all() {
            state.enter()?;
            let (ticks, count) = bench.measure(effort.iterations)?;
            match state {
                State::Off => off.push(ticks),
                State::Seed => seed.push(ticks),
                State::On => on.push(ticks),
            }
            if *state != State::Off {
                accesses += count;
            }
        }
    }
    let host_instructions = if effort.host_instructions {
        host_instructions(&mut bench, effort.iterations, &mut accesses)?
    } else {
        None
    };
    let delta = start.delta(&[])?;
    let counts = match host::extension_enabled() {
        None => None,
        Some(_) => {
            let count = |name| Ok::<_, anyhow::Error>(delta.ext(name)?.unwrap_or(0));
            Some(Counts {
                accesses,
                faults: count("faults")?,
                fast: count("fast")?,
                emulated: count("emulated")?,
                spte_made: count("spte_made")?,
            })
        }
    };
    let sample = |values: Vec<f64>| (!values.is_empty()).then(|| Sample::of(values));
    Ok(Measured {
        name: row.name,
        description: row.describe(),
        port: row.port,
        accesses_each: row.insn.accesses(),
        space: row.space,
        receiver: row.receiver(),
        mode: row.mode.to_string(),
        read_only: row.read_only,
        vcpus: row.vcpus,
        off: Sample::of(off),
        seed: sample(seed),
        on: sample(on),
        counts,
        host_instructions,
    })
}
