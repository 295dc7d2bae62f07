// SPDX-License-Identifier: GPL-2.0
//! A command that runs while we count.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::process::{Pid, Signal, kill_process};

use crate::failure::{Failure, Status, is_broken_pipe, warn};
use crate::signal::Stop;

/// A command that has been started. Its end is waited for.
pub struct Running {
    child: Child,
}

impl Running {
    pub fn start(command: &[OsString]) -> Result<Self> {
        let (program, arguments) = command.split_first().ok_or(Failure::Silent(2))?;
        let child = Command::new(program)
            .args(arguments)
            .spawn()
            .map_err(|error| Failure::Command(program.to_string_lossy().into_owned(), error))?;
        Ok(Self { child })
    }

    /// Its status, once it has ended.
    pub fn poll(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for the end. It gets the signals of the terminal as we do; those that end us only
    /// are passed on.
    pub fn wait(&mut self, stop: &Stop) -> Result<ExitStatus> {
        loop {
            if let Some(status) = self.poll()? {
                return Ok(status);
            }
            if stop.take_termination() {
                kill_process(Pid::from_child(&self.child), Signal::TERM)?;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Nothing is left running behind a failure of ours.
impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
            let start = Instant::now();
            while let Ok(None) = self.child.try_wait() {
                if start.elapsed() > Duration::from_secs(2) {
                    let _ = self.child.kill();
                    let _ = self.child.wait();
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

/// The status to exit with for that of a command.
pub fn result(status: ExitStatus) -> Result<()> {
    match status.code() {
        Some(0) => Ok(()),
        Some(code) => Err(Failure::Silent(code as u8).into()),
        None => Err(Failure::Silent(128 + status.signal().unwrap_or(0) as u8).into()),
    }
}

/// Of a run with a command: our own failures must not look like its status.
pub fn with_own_status(result: Result<()>) -> Result<()> {
    result.map_err(|error| match error.downcast_ref() {
        Some(Failure::Silent(_) | Failure::Command(..)) => error,
        _ => {
            if !is_broken_pipe(&error) {
                warn(format_args!("{error:#}"));
            }
            Failure::Silent(Status::NotRun as u8).into()
        }
    })
}
