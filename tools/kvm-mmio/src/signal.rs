// SPDX-License-Identifier: GPL-2.0
//! Being interrupted, without losing what has to be put back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// How soon a signal is noticed.
const STEP: Duration = Duration::from_millis(20);

/// Which signal has come, if any.
#[derive(Clone, Debug)]
pub struct Stop(Arc<AtomicUsize>);

impl Stop {
    /// From now on these signals do not end the program.
    pub fn on_signals() -> Result<Self> {
        let signal = Arc::new(AtomicUsize::new(0));
        for number in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register_usize(number, Arc::clone(&signal), number as usize)?;
        }
        Ok(Self(signal))
    }

    pub fn requested(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }

    /// Takes a request to end that a child of ours has not got from the terminal, too.
    pub fn take_termination(&self) -> bool {
        let term = SIGTERM as usize;
        self.0
            .compare_exchange(term, 0, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    /// Sleeps until a time, or a signal, or until `done`. Whether to go on.
    pub fn sleep_until(
        &self,
        time: Instant,
        mut done: impl FnMut() -> Result<bool>,
    ) -> Result<bool> {
        loop {
            if self.requested() || done()? {
                return Ok(false);
            }
            let rest = time.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return Ok(true);
            }
            thread::sleep(rest.min(STEP));
        }
    }
}
