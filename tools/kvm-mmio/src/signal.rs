// SPDX-License-Identifier: GPL-2.0
//! Being interrupted, without losing what has to be put back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

/// How soon a signal is noticed.
const STEP: Duration = Duration::from_millis(20);

/// The time after another at intervals; if that is over, as something took long, a whole interval
/// from now on.
pub fn next_after(time: Instant, interval: Duration) -> Instant {
    let now = Instant::now();
    let next = time + interval;
    if next < now { now + interval } else { next }
}

/// Which signal has come, if any.
#[derive(Clone, Debug)]
pub struct Stop(Arc<AtomicUsize>);

impl Stop {
    /// From now on these signals do not end the program.
    pub fn on_signals() -> Result<Self> {
        let signal = Arc::new(AtomicUsize::new(0));
        for number in [SIGINT, SIGTERM, SIGHUP, SIGQUIT] {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_not_made_up_for() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        assert_eq!(next_after(now, second), now + second);
        let late = now.checked_sub(second * 5).unwrap();
        assert!(next_after(late, second) >= now + second);
    }
}
