// SPDX-License-Identifier: GPL-2.0
//! Measures in the guest, by its own time-stamp counter: from before the first access to after the
//! last, less the same loop without accesses.

use anyhow::{Context, Result, ensure};
use iced_x86::IcedError;
use iced_x86::code_asm::{self as asm, CodeAssembler};
use kvm_bindings::kvm_regs;
use serde::Serialize;

use super::row::Row;
use crate::guest::layout::port;
use crate::guest::{Machine, Mode, Vcpu};
use crate::host;
use crate::stats::Mark;

/// Accesses before each measurement: the first ones fill caches, KVM's and the processor's.
const WARM_UP: u64 = 64;

/// Instructions of a turn of the loop without accesses.
pub const EMPTY_TURN: f64 = 2.0;

/// Figures of repeated measurements of the same thing, in ticks per access.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    pub median: f64,
    pub min: f64,
    pub max: f64,
    /// (max - min) / median, in percent.
    pub spread_percent: f64,
}

impl Sample {
    fn of(mut values: Vec<f64>) -> Self {
        assert!(!values.is_empty());
        values.sort_by(f64::total_cmp);
        let (min, max) = (values[0], values[values.len() - 1]);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            (values[middle - 1] + values[middle]) / 2.0
        };
        let spread_percent = if median > 0.0 {
            (max - min) / median * 100.0
        } else {
            0.0
        };
        Self {
            median,
            min,
            max,
            spread_percent,
        }
    }
}

/// The result of one row.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    pub name: &'static str,
    pub description: String,
    /// Extension off, or not loaded.
    pub off: Sample,
    /// Extension on; absent when it is not loaded.
    pub on: Option<Sample>,
    /// on / off, of the medians.
    pub ratio: Option<f64>,
    /// Accesses made with the extension on, warm-up included.
    pub accesses_on: Option<u64>,
    /// MMIO faults that the extension took in this row.
    pub faults: Option<u64>,
    /// MMIO SPTEs that it made in this row.
    pub spte_made: Option<u64>,
}

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Accesses of one measurement.
    pub iterations: u64,
    /// Measurements with the extension off, and as many with it on.
    pub repetitions: u64,
}

/// RAX := the time-stamp counter; RDX is lost.
fn read_tsc(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.lfence()?;
    a.rdtsc()?;
    a.shl(asm::rdx, 32)?;
    a.or(asm::rax, asm::rdx)
}

/// A program that does `turn` ECX times, and ends with the ticks that this took in RAX. `turn`
/// finds R9D in EAX, R10W in DX, and RDI.
fn timed_loop(
    turn: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError> {
    |a| {
        read_tsc(a)?;
        a.mov(asm::r8, asm::rax)?;
        a.mov(asm::eax, asm::r9d)?;
        a.mov(asm::edx, asm::r10d)?;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        turn(a)?;
        a.dec(asm::ecx)?;
        a.jne(again)?;
        read_tsc(a)?;
        a.sub(asm::rax, asm::r8)
    }
}

/// A guest that is ready for one row.
struct Bench {
    vcpu: Vcpu,
    regs: kvm_regs,
    /// Address of the program with accesses, and of that without.
    full: u64,
    empty: u64,
    pages: u64,
}

impl Bench {
    fn ticks(&mut self, program: u64, turns: u64) -> Result<u64> {
        self.vcpu.start(
            kvm_regs {
                rcx: turns,
                ..self.regs
            },
            program,
        )?;
        self.vcpu.run_to_end()?;
        Ok(self.vcpu.fd().get_regs().context("KVM_GET_REGS")?.rax)
    }

    /// Accesses that are not measured; returns how many.
    fn warm_up(&mut self) -> Result<u64> {
        let turns = WARM_UP.div_ceil(self.pages);
        self.ticks(self.full, turns)?;
        Ok(turns * self.pages)
    }

    /// Ticks per access, over about `iterations` accesses; and how many accesses that were.
    fn measure(&mut self, iterations: u64) -> Result<(f64, u64)> {
        let warm_up = self.warm_up()?;
        let turns = iterations.div_ceil(self.pages);
        let full = self.ticks(self.full, turns)?;
        let empty = self.ticks(self.empty, turns)?;
        ensure!(full > empty, "{full} ticks with accesses, {empty} without");
        let accesses = turns * self.pages;
        Ok(((full - empty) as f64 / accesses as f64, accesses + warm_up))
    }
}

/// Ticks of one turn of a loop of two instructions: where it is exactly [`EMPTY_TURN`], the clock
/// counts instructions.
pub fn ticks_per_empty_turn() -> Result<f64> {
    const TURNS: u64 = 10_000;
    let (_machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let empty = vcpu.load(timed_loop(|_| Ok(())))?;
    let mut bench = Bench {
        vcpu,
        regs: kvm_regs::default(),
        full: empty,
        empty,
        pages: 1,
    };
    let mut least = u64::MAX;
    for _ in 0..5 {
        // What surrounds the loop is in both, and an interrupt of the host in few.
        let (short, long) = (bench.ticks(empty, TURNS)?, bench.ticks(empty, 2 * TURNS)?);
        least = least.min(long.saturating_sub(short));
    }
    Ok(least as f64 / TURNS as f64)
}

/// Measures one row: alternately off and on, so that whatever drifts meets both.
pub fn measure(row: &Row, effort: Effort) -> Result<Measured> {
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let _doorbells = row.doorbells(&machine)?;
    let full = vcpu.load(timed_loop(|a| row.accesses(a)))?;
    let empty = vcpu.load(timed_loop(|_| Ok(())))?;
    let regs = kvm_regs {
        rdi: machine.gva(0),
        r9: row.value().into(),
        r10: port::BENCH.into(),
        ..Default::default()
    };
    let mut bench = Bench {
        vcpu,
        regs,
        full,
        empty,
        pages: row.pages,
    };

    let before = host::extension_enabled();
    let (mut off, mut on) = (Vec::new(), Vec::new());
    // The counters stand still while the extension is off, so they are read only at the ends:
    // reading them leaves work behind that would fall into a measurement.
    let start = Mark::here(&[bench.vcpu.fd()])?;
    let mut accesses = 0;
    if before.is_some() {
        // The pages are faulted in with the extension on: it makes the MMIO SPTEs.
        host::set_extension(true).context("turning the extension on")?;
        accesses += bench.warm_up()?;
    }
    for _ in 0..effort.repetitions {
        if before.is_some() {
            host::set_extension(false).context("turning the extension off")?;
        }
        off.push(bench.measure(effort.iterations)?.0);
        if before.is_some() {
            host::set_extension(true).context("turning the extension on")?;
            let (ticks, count) = bench.measure(effort.iterations)?;
            on.push(ticks);
            accesses += count;
        }
    }
    let delta = start.delta(&[bench.vcpu.fd()])?;
    if let Some(before) = before {
        host::set_extension(before).context("restoring the extension's switch")?;
    }

    let off = Sample::of(off);
    let on = before.map(|_| Sample::of(on));
    Ok(Measured {
        name: row.name,
        description: row.describe(),
        ratio: on.as_ref().map(|on| on.median / off.median),
        off,
        on,
        accesses_on: before.map(|_| accesses),
        faults: delta.ext("faults")?,
        spte_made: delta.ext("spte_made")?,
    })
}

#[cfg(test)]
mod tests {
    use super::Sample;

    #[test]
    fn median_and_spread() {
        let odd = Sample::of(vec![3.0, 1.0, 2.0]);
        assert_eq!(
            (odd.median, odd.min, odd.max, odd.spread_percent),
            (2.0, 1.0, 3.0, 100.0)
        );
        assert_eq!(Sample::of(vec![4.0, 2.0]).median, 3.0);
    }
}
