// SPDX-License-Identifier: GPL-2.0
//! Guests that do MMIO on several vCPUs while everything that can change changes.
//!
//! Each vCPU thread makes *visits*: it runs a program of a few accesses and compares all that came
//! of it with what must come of it ([`visit`]). Meanwhile other threads, the *actors*, change
//! memslots ([`slots`]), ioeventfds ([`bells`]) and switches ([`switches`]). A [`truth::Truth`]
//! tells a visit whether something has changed in its course: if not, there is exactly one right
//! outcome, and otherwise each access must have had one of the two.
//!
//! Work is counted in rounds, so that a slow machine does as much as a fast one.

mod bells;
mod slots;
mod switches;
mod truth;
mod visit;
mod world;
mod wrap;

use std::sync::OnceLock;

use crate::guest::{Mode, Zap};
use crate::tap::Test;

/// How much to do.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub seed: u64,
    pub vcpus: u64,
    /// Turns of the switch `enabled`.
    pub switches: u64,
    /// Changes of each memslot, and of each ioeventfd.
    pub changes: u64,
}

static LIMITS: OnceLock<Limits> = OnceLock::new();

/// Sets the limits, before the first test runs.
pub fn set_limits(limits: Limits) {
    LIMITS.set(limits).expect("the limits are set once");
}

fn limits() -> Limits {
    *LIMITS.get().expect("the limits have been set")
}

const PROVES: &str = "after an ioctl has returned each access sees what it made; \
    no access is lost or doubled, whatever changes meanwhile";

pub const TESTS: &[Test] = &[
    Test {
        name: "torture_long",
        proves: PROVES,
        run: || world::torture(Mode::Long, Zap::All, limits()),
    },
    Test {
        name: "torture_pae",
        proves: PROVES,
        run: || world::torture(Mode::Pae, Zap::All, limits()),
    },
    Test {
        name: "torture_legacy",
        proves: PROVES,
        run: || world::torture(Mode::Legacy, Zap::All, limits()),
    },
    Test {
        name: "torture_flat",
        proves: PROVES,
        run: || world::torture(Mode::Flat, Zap::All, limits()),
    },
    Test {
        name: "torture_no_zap_all",
        proves: PROVES,
        run: || world::torture(Mode::Long, Zap::Slot, limits()),
    },
    Test {
        name: "generation_wrap",
        proves: wrap::PROVES,
        run: wrap::generation_wrap,
    },
];
