// SPDX-License-Identifier: GPL-2.0
//! The threads: those of vCPUs, and the actors.

use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::actors::bells;
use super::actors::slots;
use super::actors::switches::{self, Switch};
use super::bell::KINDS;
use super::limits::Limits;
use super::visit::Visitor;
use super::world::{SLOTS, World};
use crate::guest::{Machine, Mode, Zap};
use crate::host::Modes;
use crate::stats::{Delta, Mark};
use crate::tap::note;

/// Runs all threads until each actor has done its share, and checks the sums.
pub fn torture(mode: Mode, zap: Zap, limits: Limits) -> Result<()> {
    let mut machine = Machine::new(mode)?;
    machine.zap(zap)?;
    let visitors = (0..limits.vcpus)
        .map(|id| Ok(Visitor::new(id, machine.add_vcpu()?, limits.seed)))
        .collect::<Result<Vec<_>>>()?;
    let switches = switches::all(limits)?;
    let turned: Vec<_> = switches.iter().map(Switch::counter).collect();
    let actors = SLOTS + KINDS.len() + switches.len();
    let world = World::new(machine, limits.vcpus, actors)?;

    let start = Mark::here(&[])?;
    let begun = Instant::now();
    let outcome = run_threads(&world, visitors, switches, limits);
    note(format!(
        "{mode}, {} s:{}",
        begun.elapsed().as_secs(),
        world.tally
    ));
    outcome?;
    for bell in &world.bells {
        bell.check_sum()?;
    }
    world.tally.check_that_all_was_seen(&turned)?;
    let delta = start.delta(&[])?;
    delta.expect_balance()?;
    check_early_answers(mode, &delta)
}

/// Doorbells are answered before interrupts are on where they can be, and nowhere else.
fn check_early_answers(mode: Mode, delta: &Delta) -> Result<()> {
    let early = delta.ext("fast_irqsoff")?.unwrap_or(0);
    note(format!("{early} doorbells answered with interrupts off"));
    let can_be = mode.is_long() && Modes::detect()?.rings_with_irqs_off();
    ensure!(
        can_be == (early > 0),
        "{early} doorbells answered with interrupts off, {mode}: {delta:?}"
    );
    Ok(())
}

type Job<'a> = Box<dyn FnOnce() -> Result<()> + Send + 'a>;

fn run_threads(
    world: &World,
    visitors: Vec<Visitor>,
    switches: Vec<Switch>,
    limits: Limits,
) -> Result<()> {
    let mut jobs: Vec<(String, Job<'_>)> = Vec::new();
    for visitor in visitors {
        let name = format!("vCPU {}", visitor.id());
        jobs.push((name, Box::new(|| visitor.run(world))));
    }
    for id in 0..SLOTS {
        let churn = move || slots::churn(world, id, limits);
        jobs.push((format!("slot {id}"), Box::new(churn)));
    }
    for id in 0..world.bells.len() {
        let churn = move || bells::churn(world, id, limits);
        jobs.push((format!("doorbell {id}"), Box::new(churn)));
    }
    for switch in switches {
        jobs.push((switch.name().to_owned(), Box::new(|| switch.turn(world))));
    }
    thread::scope(|scope| {
        let threads: Vec<_> = jobs
            .into_iter()
            .map(|(name, job)| scope.spawn(|| watch(world, job).context(name)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a thread panicked"))
            .fold(Ok(()), Result::and)
    })
}

/// Runs a thread's job; if it fails, the others need not go on.
fn watch(world: &World, job: Job<'_>) -> Result<()> {
    job().inspect_err(|_| world.fail())
}
