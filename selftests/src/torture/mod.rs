// SPDX-License-Identifier: GPL-2.0
//! Guests that do MMIO on several vCPUs while everything that can change changes.
//!
//! Each vCPU thread makes *visits*: it runs a program of a few accesses and compares all that came
//! of it with what must come of it ([`visit`]). Meanwhile other threads, the *actors*, change
//! memslots, ioeventfds and switches ([`actors`]), all of one [`world`]. A [`truth::Truth`]
//! tells a visit whether something has changed in its course: if not, there is exactly one right
//! outcome, and otherwise each access must have had one of the two.
//!
//! Work is counted in rounds, so that a slow machine does as much as a fast one.

mod actors;
mod bell;
mod limits;
mod run;
mod slot;
mod tally;
mod truth;
mod visit;
mod world;
mod wrap;

use crate::guest::{Mode, Zap};

pub use limits::{LIMITS, Limits};

const PROVES: &str = "after an ioctl has returned each access sees what it made; \
    no access is lost or doubled, whatever changes meanwhile";

crate::test_table! {
    torture_long: PROVES => run::torture(Mode::Long, Zap::All, LIMITS.get()),
    torture_pae: PROVES => run::torture(Mode::Pae, Zap::All, LIMITS.get()),
    torture_legacy: PROVES => run::torture(Mode::Legacy, Zap::All, LIMITS.get()),
    torture_flat: PROVES => run::torture(Mode::Flat, Zap::All, LIMITS.get()),
    torture_no_zap_all: PROVES => run::torture(Mode::Long, Zap::Slot, LIMITS.get()),
    generation_wrap: wrap::PROVES => wrap::generation_wrap(),
}
