// SPDX-License-Identifier: GPL-2.0
//! Instructions of the calling thread, by the machine's performance counters.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::FromRawFd;

use anyhow::{Context, Result};

/// `struct perf_event_attr` of <linux/perf_event.h>, as far as its first version went.
#[repr(C)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint: u32,
    config1: u64,
}

const HARDWARE: u32 = 0;
const INSTRUCTIONS: u64 = 1;
/// It is always counted, or never: no figure is an estimate.
const PINNED: u64 = 1 << 2;
const EXCLUDE_HV: u64 = 1 << 6;
const EXCLUDE_GUEST: u64 = 1 << 20;
/// PERF_FLAG_FD_CLOEXEC.
const CLOSE_ON_EXEC: libc::c_ulong = 1 << 3;

/// Counts while it lives what this thread executes, in the kernel too, but not in a guest.
pub struct Instructions(File);

impl Instructions {
    /// None where the machine has no such counter, or it is not for this user.
    pub fn start() -> Option<Self> {
        let attributes = Attributes {
            kind: HARDWARE,
            size: size_of::<Attributes>() as u32,
            config: INSTRUCTIONS,
            sample_period: 0,
            sample_type: 0,
            read_format: 0,
            flags: PINNED | EXCLUDE_HV | EXCLUDE_GUEST,
            wakeup_events: 0,
            breakpoint: 0,
            config1: 0,
        };
        // This thread, on whichever processor, in no group.
        let (thread, processor, group) = (0, -1, -1);
        // SAFETY: the attributes are of the size that they name, and are only read.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_perf_event_open,
                &attributes,
                thread,
                processor,
                group,
                CLOSE_ON_EXEC,
            )
        };
        let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
        // SAFETY: the kernel just returned this descriptor, and nothing else owns it.
        let counter = Self(unsafe { File::from_raw_fd(fd) });
        // A counter that others have taken can be opened, but has no value.
        counter.read().is_ok().then_some(counter)
    }

    /// Since it was started.
    pub fn read(&self) -> Result<u64> {
        let mut value = [0; size_of::<u64>()];
        match (&self.0).read(&mut value) {
            Ok(count) if count == value.len() => Ok(u64::from_ne_bytes(value)),
            Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) => Err(error),
        }
        .context("reading the counter of instructions")
    }
}

#[cfg(test)]
mod tests {
    use super::{Attributes, Instructions};

    #[test]
    fn attributes_are_of_the_first_version() {
        // PERF_ATTR_SIZE_VER0.
        assert_eq!(size_of::<Attributes>(), 64);
    }

    /// Where there is a counter; not in most machines that are emulated.
    #[test]
    fn more_work_is_more_instructions() {
        let Some(counter) = Instructions::start() else {
            return;
        };
        let mut last = counter.read().unwrap();
        let mut least = |turns: u64| {
            (0..turns).for_each(|turn| {
                std::hint::black_box(turn);
            });
            let now = counter.read().unwrap();
            assert!(now - last >= turns, "{} for {turns} turns", now - last);
            last = now;
        };
        least(1_000);
        least(100_000);
    }
}
