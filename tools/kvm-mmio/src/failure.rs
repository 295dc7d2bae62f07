// SPDX-License-Identifier: GPL-2.0
//! How the program fails, and its exit status then.

use std::fmt;
use std::io::{self, Write};

use thiserror::Error;

/// What the caller of the program can tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    Ok = 0,
    Failed = 1,
    /// As clap has it.
    Usage = 2,
    Unavailable = 3,
    Denied = 4,
    Damaged = 5,
    /// As env(1), timeout(1) and others that run a command have it.
    NotRun = 125,
    NotExecutable = 126,
    NotFound = 127,
}

/// The section of the help and of the man page.
pub const HELP: &str = "\
Exit status:
  0    done
  1    something failed; the message says what
  2    wrong use
  3    the extension is not there, or not usable as it is; `kvm-mmio status` says
       what is missing
  4    not permitted: root is needed, or for the module the group kvm-mmio
  5    a recording is damaged; what precedes the damage has been shown

`stat` and `record` with a COMMAND have its exit status, 128+N if signal N killed
it, 125 if kvm-mmio itself failed, 126 if COMMAND cannot be run, 127 if there is
no such command.";

/// A failure with a status of its own.
#[derive(Debug, Error)]
pub enum Failure {
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Unavailable(String),
    #[error("{0}")]
    Denied(String),
    #[error("{0}")]
    Damaged(String),
    /// The message has been printed, or there is none: the status of a command that was run.
    #[error("exit status {0}")]
    Silent(u8),
    /// Of a command that could not be run.
    #[error("cannot run {0}: {1}")]
    Command(String, io::Error),
}

impl Failure {
    pub fn status(&self) -> u8 {
        match self {
            Self::Usage(_) => Status::Usage as u8,
            Self::Unavailable(_) => Status::Unavailable as u8,
            Self::Denied(_) => Status::Denied as u8,
            Self::Damaged(..) => Status::Damaged as u8,
            Self::Silent(status) => *status,
            Self::Command(_, error) if error.kind() == io::ErrorKind::NotFound => {
                Status::NotFound as u8
            }
            Self::Command(..) => Status::NotExecutable as u8,
        }
    }
}

/// Which status an error has.
pub fn status_of(error: &anyhow::Error) -> u8 {
    error
        .downcast_ref()
        .map_or(Status::Failed as u8, Failure::status)
}

/// Whether the reader of our output has gone: no failure, and nobody to tell.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref()
        .is_some_and(|error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// A message on standard error. If nobody reads that, there is nobody to tell.
pub fn warn(message: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "kvm-mmio: {message}");
}
