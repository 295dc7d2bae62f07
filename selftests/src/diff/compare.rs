// SPDX-License-Identifier: GPL-2.0
//! Running each program both ways, and the smallest program that shows a difference.

use std::iter;
use std::ops::{AddAssign, Range};

use anyhow::{Context, Result, bail, ensure};

use super::machine::Bench;
use super::plan::Comparison;
use super::program::{Changes, Guest, Program, Step, generate};
use super::trace::Trace;
use crate::guest::layout::{code, code_end};
use crate::random::Random;
use crate::stats::{Delta, Mark};

/// How much to do.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub seed: u64,
    pub programs: u64,
    /// Steps in a program.
    pub length: usize,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    pub programs: u64,
    /// Accesses of the programs that their host could see, each counted once for off and on.
    pub accesses: u64,
    /// Of these, those that rang doorbells.
    pub rings: u64,
    /// MMIO faults that the extension handled.
    pub faults: u64,
    pub fast: u64,
    /// Of these, doorbells that were answered with interrupts off.
    pub early: u64,
    pub refused: u64,
    pub smis: u64,
    /// Nested guests that came to their end.
    pub l2s: u64,
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.programs += other.programs;
        self.accesses += other.accesses;
        self.rings += other.rings;
        self.faults += other.faults;
        self.fast += other.fast;
        self.early += other.early;
        self.refused += other.refused;
        self.smis += other.smis;
        self.l2s += other.l2s;
    }
}

/// A program at its place.
#[derive(Clone, Copy)]
struct Place {
    address: u64,
    rflags: u64,
}

/// The status flags; DF stays clear, IF means nothing without interrupts.
const STATUS: u64 = 0x8d5;

impl Place {
    fn choose(random: &mut Random, length: u64) -> Self {
        let (first, end) = (code(0), code_end(0) - length);
        // Pages end everywhere in a program.
        let address = first + random.below(end - first);
        Self {
            address,
            rflags: random.next() & STATUS,
        }
    }
}

/// Part of the programs are accesses only; a change of a memslot makes KVM forget all it knew.
const PERCENT: [u64; 4] = [0, 0, 3, 12];

/// Programs that run one after another before the switch changes, which takes long.
const BATCH: u64 = 50;

/// Runs of a program that is looked at alone, off and on.
const ALONE: usize = 2;

/// A program and where it goes.
struct Placed {
    seed: u64,
    steps: Vec<Step>,
    place: Place,
    program: Program,
}

/// What is compared, and the machine for it.
struct Pair {
    what: Comparison,
    bench: Bench,
}

impl Pair {
    fn new(what: Comparison) -> Result<Self> {
        Ok(Self {
            what,
            bench: Bench::new(what.mode, what.svm)?,
        })
    }

    fn generate(&self, seed: u64, length: usize) -> Placed {
        let mode = self.what.mode;
        let mut random = Random::new(seed);
        let percent = random.pick(&PERCENT);
        let mixed = self.what.mixed;
        let slots = mixed || random.percent(50);
        let changes = Changes {
            slots,
            tables: mixed || !slots,
        };
        let guest = Guest::new(mode, self.bench.roots(), self.bench.hypervisor());
        let steps = generate(&mut random, guest, length, percent, changes);
        let longest = Program::assemble(&steps, mode, 0).code.len();
        let place = Place::choose(&mut random, longest as u64);
        let program = Program::assemble(&steps, mode, place.address);
        Placed {
            seed,
            steps,
            place,
            program,
        }
    }

    fn run(&mut self, program: &Program, place: Place) -> Result<Trace> {
        let trace = self.bench.run(program, place.address, place.rflags)?;
        if !trace.is_done() {
            *self = Self::new(self.what)?;
        }
        Ok(trace)
    }

    /// Runs a program off, then on, and again each time, with everything cached; what differs between
    /// runs of the same number.
    fn difference(&mut self, program: &Program, place: Place) -> Result<Option<String>> {
        let mut run_all = |on| -> Result<Vec<Trace>> {
            self.what.switch.set(on)?;
            (0..ALONE).map(|_| self.run(program, place)).collect()
        };
        let (off, on) = (run_all(false)?, run_all(true)?);
        Ok(iter::zip(off, on)
            .zip(1..)
            .find(|((off, on), _)| off != on)
            .map(|((off, on), n)| format!("run {n}: {}", off.difference(&on))))
    }

    /// Drops whatever does not matter for the difference: steps, then those of nested guests.
    fn shrink(&mut self, place: Place, steps: Vec<Step>) -> Result<Vec<Step>> {
        let mut steps = self.shrink_part(place, steps, <[Step]>::to_vec)?;
        for n in 0..steps.len() {
            let Some(l2) = &steps[n].l2 else { continue };
            let with = |part: &[Step]| {
                let mut all = steps.clone();
                all[n].l2 = Some(l2.with_steps(part));
                all
            };
            let part = self.shrink_part(place, l2.steps.clone(), with)?;
            steps = with(&part);
        }
        Ok(steps)
    }

    /// Drops steps out of a part of a program.
    fn shrink_part(
        &mut self,
        place: Place,
        mut part: Vec<Step>,
        all: impl Fn(&[Step]) -> Vec<Step>,
    ) -> Result<Vec<Step>> {
        let mut n = 0;
        while n < part.len() {
            let mut fewer = part.clone();
            fewer.remove(n);
            let program = Program::assemble(&all(&fewer), self.what.mode, place.address);
            if self.difference(&program, place)?.is_some() {
                part = fewer;
            } else {
                n += 1;
            }
        }
        Ok(part)
    }

    fn report(&mut self, placed: &Placed, what: &str) -> Result<String> {
        let (mode, place) = (self.what.mode, placed.place);
        let steps = self.shrink(place, placed.steps.clone())?;
        let program = Program::assemble(&steps, mode, place.address);
        let now = self
            .difference(&program, place)?
            .unwrap_or_else(|| "not seen again with this program alone".to_owned());
        Ok(format!(
            "{what}\nsmallest program: {now}\nrflags {:#x}\n{}",
            place.rflags,
            program.listing(mode, place.address)
        ))
    }

    /// Runs all programs off, then all on, each as often as it takes, and compares.
    fn check(&mut self, seeds: Range<u64>, length: usize, totals: &mut Totals) -> Result<()> {
        let Comparison { switch, mode, .. } = self.what;
        let again = |seed| {
            format!("--switch {switch} --mode {mode} --length {length} --seed {seed} --programs 1")
        };
        let batch: Vec<_> = seeds.map(|seed| self.generate(seed, length)).collect();
        let runs = batch
            .iter()
            .flat_map(|placed| iter::repeat_n(placed, switch.runs()));
        let mut run_all = |on| -> Result<Vec<Trace>> {
            switch.set(on)?;
            runs.clone()
                .map(|placed| self.run(&placed.program, placed.place))
                .collect()
        };
        let (off, on) = (run_all(false)?, run_all(true)?);
        totals.programs += batch.len() as u64;
        for ((placed, off), on) in runs.zip(off).zip(on) {
            let seed = placed.seed;
            totals.accesses += off.accesses();
            totals.rings += off.rung();
            totals.smis += off.smis;
            totals.l2s += off.l2s;
            off.expect_done().with_context(|| {
                let listing = placed.program.listing(mode, placed.place.address);
                format!("{}: {listing}", again(seed))
            })?;
            if off != on {
                let report = self.report(placed, &off.difference(&on))?;
                bail!("{}: {report}", again(seed));
            }
        }
        Ok(())
    }
}

fn add_counters(totals: &mut Totals, delta: &Delta) -> Result<()> {
    let count = |name: &str| -> Result<u64> { Ok(delta.ext(name)?.unwrap_or(0)) };
    totals.faults = count("faults")?;
    totals.fast = count("fast")?;
    totals.early = count("fast_irqsoff")?;
    for reason in ["context", "fetch", "insn", "address", "access"] {
        totals.refused += count(&format!("refused_{reason}"))?;
    }
    Ok(())
}

/// Runs programs until one differs or all have run.
pub fn run(what: Comparison, limits: &Limits) -> Result<Totals> {
    ensure!(what.switch.get().is_some(), "the extension is not loaded");
    let mut totals = Totals::default();
    let mut pair = Pair::new(what)?;
    let start = Mark::here(&[])?;
    let end = limits.seed + limits.programs;
    for first in (limits.seed..end).step_by(BATCH as usize) {
        let seeds = first..end.min(first + BATCH);
        pair.check(seeds, limits.length, &mut totals)?;
    }
    add_counters(&mut totals, &start.delta(&[])?)?;
    Ok(totals)
}
