// SPDX-License-Identifier: GPL-2.0
//! What the extension shows of MMIO: the statistics file, heat, tracepoints.

mod counts;
mod exported;
mod file;
pub mod heat;
mod instructions;
mod many;
mod programs;
mod recorded;
mod trace;
mod traced;
mod watch;

use crate::tap::Test;

pub fn tests() -> impl Iterator<Item = &'static Test> {
    [
        counts::TESTS,
        recorded::TESTS,
        file::TESTS,
        instructions::TESTS,
        trace::TESTS,
        programs::TESTS,
        traced::TESTS,
        many::TESTS,
        exported::TESTS,
    ]
    .into_iter()
    .flatten()
}
