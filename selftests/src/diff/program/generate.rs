// SPDX-License-Identifier: GPL-2.0
//! Random programs.

use super::control::Changes;
use super::step::{Guest, Step};
use super::{access, control};
use crate::random::Random;

/// A program of `length` steps, about `percent` of which are no accesses.
pub fn generate(
    random: &mut Random,
    mut guest: Guest<'_>,
    length: usize,
    percent: u64,
    changes: Changes,
) -> Vec<Step> {
    (0..length)
        .map(|_| {
            if random.percent(percent) {
                control::step(random, &mut guest, changes)
            } else {
                access::access(random, &guest)
            }
        })
        .collect()
}
