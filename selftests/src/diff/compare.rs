// SPDX-License-Identifier: GPL-2.0
//! Running each program both ways, and the smallest program that shows a difference.

use anyhow::{Context, Result, bail, ensure};

use super::machine::{Bench, Trace};
use super::program::{Step, assemble, generate, listing};
use super::random::Random;
use crate::guest::PAGE;
use crate::guest::layout::{code, code_end};
use crate::host;
use crate::stats::Mark;

/// How much to do.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub seed: u64,
    pub programs: u64,
    /// Accesses in a program.
    pub length: usize,
    /// Every so many programs, compare with the extension switched off as well; 0: never.
    pub switch_every: u64,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    pub programs: u64,
    pub runs: u64,
    pub accesses: u64,
    pub fast: u64,
    pub refused: u64,
}

/// How a program runs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Emulated,
    Fast,
    /// Fast, with everything cached.
    Again,
    SwitchedOff,
}

/// A program at its place.
struct Placed {
    address: u64,
    rflags: u64,
}

/// The status flags; DF stays clear, IF means nothing without interrupts.
const STATUS: u64 = 0x8d5;

impl Placed {
    fn choose(random: &mut Random, longest: u64) -> Self {
        let (first, end) = (code(0), code_end(0) - longest);
        // Pages end everywhere in a program.
        let address = first + random.below(end - first);
        Self {
            address,
            rflags: random.next() & STATUS,
        }
    }
}

fn run_as(bench: &mut Bench, placed: &Placed, way: Way) -> Result<Trace> {
    host::set_fast_path(way != Way::Emulated).context("the parameter `fast`")?;
    if way == Way::SwitchedOff {
        host::set_extension(false).context("the parameter `enabled`")?;
    }
    let trace = bench.run(placed.address, placed.rflags);
    if way == Way::SwitchedOff {
        host::set_extension(true).context("the parameter `enabled`")?;
    }
    trace
}

/// Runs a program in all ways; returns the traces, the emulator's first.
fn run_all(bench: &mut Bench, placed: &Placed, code: &[u8], switch: bool) -> Result<Vec<Trace>> {
    bench.place(placed.address, code);
    let mut ways = vec![Way::Emulated, Way::Fast, Way::Again];
    if switch {
        ways.extend([Way::SwitchedOff, Way::Fast]);
    }
    ways.into_iter()
        .map(|way| run_as(bench, placed, way))
        .collect()
}

fn differs(traces: &[Trace]) -> Option<String> {
    let (first, rest) = traces.split_first()?;
    rest.iter()
        .zip(1..)
        .find(|(trace, _)| *trace != first)
        .map(|(trace, n)| format!("run {n}: {}", first.difference(trace)))
}

/// Drops whatever does not matter for the difference.
fn shrink(bench: &mut Bench, placed: &Placed, mut steps: Vec<Step>) -> Result<Vec<Step>> {
    let mut n = 0;
    while n < steps.len() {
        let mut fewer = steps.clone();
        fewer.remove(n);
        let code = assemble(&fewer, placed.address);
        if differs(&run_all(bench, placed, &code, true)?).is_some() {
            steps = fewer;
        } else {
            n += 1;
        }
    }
    Ok(steps)
}

fn report(bench: &mut Bench, placed: &Placed, steps: Vec<Step>, what: &str) -> Result<String> {
    let steps = shrink(bench, placed, steps)?;
    let code = assemble(&steps, placed.address);
    let now = differs(&run_all(bench, placed, &code, true)?)
        .unwrap_or_else(|| "not seen again with this program alone".to_owned());
    Ok(format!(
        "{what}\nsmallest program: {now}\nrflags {:#x}\n{}",
        placed.rflags,
        listing(&code, placed.address)
    ))
}

/// Runs programs until one differs or all have run.
pub fn run(limits: &Limits) -> Result<Totals> {
    ensure!(host::fast_path().is_some(), "the extension is not loaded");
    let mut totals = Totals::default();
    let mut bench = Bench::new()?;
    let start = Mark::here(&[bench.vcpu.fd()])?;
    for number in 0..limits.programs {
        let mut random = Random::new(limits.seed.wrapping_add(number));
        let steps = generate(&mut random, limits.length);
        // The longest step is an instruction with two or three registers to load.
        let placed = Placed::choose(&mut random, limits.length as u64 * 48 + PAGE / 8);
        let switch = limits.switch_every != 0 && number % limits.switch_every == 0;
        let code = assemble(&steps, placed.address);
        let traces = run_all(&mut bench, &placed, &code, switch)?;
        if let Some(what) = differs(&traces) {
            let seed = limits.seed.wrapping_add(number);
            let report = report(&mut bench, &placed, steps, &what)?;
            bail!("--seed {seed} --programs 1: {report}");
        }
        traces[0]
            .expect_done()
            .with_context(|| listing(&code, placed.address))?;
        totals.programs += 1;
        totals.runs += traces.len() as u64;
        totals.accesses += traces[0].accesses();
    }
    let delta = start.delta(&[bench.vcpu.fd()])?;
    totals.fast = delta.ext("fast")?.unwrap_or(0);
    for reason in ["context", "fetch", "insn", "address", "access"] {
        totals.refused += delta.ext(&format!("refused_{reason}"))?.unwrap_or(0);
    }
    Ok(totals)
}
