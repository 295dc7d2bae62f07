// SPDX-License-Identifier: GPL-2.0
//! Getting a thread out of KVM_RUN.

use std::io;
use std::ptr;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};

extern "C" fn nothing(_: libc::c_int) {}

/// Interrupts the calling thread by a signal when the time is up, and again each time it is, unless it
/// is dropped before: a signal that comes before a system call does not end it.
pub struct Kick {
    cancel: Option<Sender<()>>,
    timer: Option<JoinHandle<()>>,
}

impl Kick {
    pub fn after(limit: Duration) -> Result<Self> {
        // SAFETY: an all-zero action is a valid one, without flags: system calls do not restart.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = nothing as *const () as usize;
        // SAFETY: the handler does nothing, which it may do at any time.
        if unsafe { libc::sigaction(libc::SIGUSR1, &action, ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error()).context("sigaction");
        }
        // SAFETY: the function has no preconditions.
        let target = unsafe { libc::pthread_self() };
        let (cancel, cancelled) = mpsc::channel();
        let timer = thread::spawn(move || {
            while cancelled.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                // SAFETY: the target joins this thread before it ends, see `drop`.
                unsafe { libc::pthread_kill(target, libc::SIGUSR1) };
            }
        });
        Ok(Self {
            cancel: Some(cancel),
            timer: Some(timer),
        })
    }
}

impl Drop for Kick {
    fn drop(&mut self) {
        self.cancel.take();
        if let Some(timer) = self.timer.take() {
            let _ = timer.join();
        }
    }
}
