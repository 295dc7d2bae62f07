// SPDX-License-Identifier: GPL-2.0
//! The clock of what tracepoints tell.

use rustix::time::{ClockId, clock_gettime};

use crate::reading::{Clock, ENABLED, EXACT, HEAT, TRACED};

/// Most pages that are counted for a vCPU, so that no guest can fill our memory.
pub const PAGES: usize = 4096;

/// Nanoseconds of the clock that events have.
pub fn now() -> u64 {
    nanoseconds(ClockId::Monotonic)
}

/// A clock whose cycles are nanoseconds.
pub fn clock(now: u64, lost: u64) -> Clock {
    Clock {
        boottime: nanoseconds(ClockId::Boottime),
        tsc: now,
        tsc_khz: 1_000_000,
        flags: HEAT | ENABLED | TRACED | EXACT,
        pages_per_vcpu: PAGES as u32,
        vms_kept: 0,
        lost,
    }
}

fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
