// SPDX-License-Identifier: GPL-2.0
//! The fast path, where a shortcut around the emulator could go wrong.

mod apic;
mod code;
mod context;
mod debug;
mod dispatch;
mod event;
mod flat;
mod flat_code;
mod flush;
mod hole;
pub(super) mod irqs_off;
mod irqs_off_gate;
mod pending;
mod program;
mod read_only;
mod roots;
mod silicon;
mod smm;
mod split;
mod waiters;
mod ways;

use crate::tap::Test;

pub fn tests() -> impl Iterator<Item = &'static Test> {
    [
        code::TESTS,
        context::TESTS,
        flat::TESTS,
        flat_code::TESTS,
        debug::TESTS,
        event::TESTS,
        smm::TESTS,
        dispatch::TESTS,
        apic::TESTS,
        pending::TESTS,
        split::TESTS,
        hole::TESTS,
        silicon::TESTS,
        flush::TESTS,
        irqs_off::TESTS,
        irqs_off_gate::TESTS,
        waiters::TESTS,
        read_only::TESTS,
        roots::TESTS,
    ]
    .into_iter()
    .flatten()
}
