// SPDX-License-Identifier: GPL-2.0
//! The models, one protocol a file.

mod changed_code;
mod doorbells;
mod early;
mod fetch_order;
mod lifetime;
mod memslots;
mod nested;
mod switching;

use loom::model::Builder;
use std::sync::{
    atomic::{AtomicUsize, Ordering::Relaxed},
    Arc,
};

/// How often a thread may be interrupted where it could go on.
const PREEMPTIONS: usize = 3;

/// Runs a model in every order, with at most [`PREEMPTIONS`]. `run` tells something that must have
/// happened in one of them: else the model has not come by what it is about.
fn explore(run: impl Fn() -> bool + Sync + Send + 'static) {
    let orders = Arc::new(AtomicUsize::new(0));
    let happened = Arc::new(AtomicUsize::new(0));
    let mut builder = Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.check({
        let (orders, happened) = (orders.clone(), happened.clone());
        move || {
            orders.fetch_add(1, Relaxed);
            happened.fetch_add(usize::from(run()), Relaxed);
        }
    });
    println!("{} orders", orders.load(Relaxed));
    assert!(
        happened.load(Relaxed) > 0,
        "what it is about never happened"
    );
}
