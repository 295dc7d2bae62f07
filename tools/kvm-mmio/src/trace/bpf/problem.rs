// SPDX-License-Identifier: GPL-2.0
//! Why the kernel does not count, in a line.

use std::io;

use anyhow::Error;
use aya::programs::ProgramError;
use rustix::io::Errno;

use crate::device::System;
use crate::failure::Failure;
use crate::trace::rights::{self, Refused};

pub fn explain(system: &System, error: &Error) -> Failure {
    if let Some(log) = error.chain().find_map(verifier_log) {
        return Failure::Unavailable(format!("the kernel refuses the program of BPF: {log}"));
    }
    let code = error.chain().find_map(|cause| {
        let error: &io::Error = cause.downcast_ref()?;
        Errno::from_io_error(error)
    });
    match code {
        Some(Errno::PERM | Errno::ACCESS) => rights::explain(system, Refused::Bpf),
        Some(Errno::NOSYS) => Failure::Unavailable("the kernel is built without BPF".to_owned()),
        _ => Failure::Unavailable(format!("BPF cannot be used: {error:#}")),
    }
}

/// The last line of what the verifier says, which is a summary of what it has done, and the one
/// before, which is the reason.
fn verifier_log(cause: &(dyn std::error::Error + 'static)) -> Option<String> {
    let Some(ProgramError::LoadError {
        verifier_log,
        io_error,
    }) = cause.downcast_ref()
    else {
        return None;
    };
    let log = verifier_log.to_string();
    let mut lines = log.lines().map(str::trim);
    let reason = lines
        .rfind(|line| !line.is_empty() && !line.starts_with("processed "))
        .map(str::to_owned);
    // Without a log, it was no verifier.
    reason.map(|reason| format!("{reason} ({io_error})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: Errno) -> Failure {
        let error = Error::new(io::Error::from(code)).context("the map is not made");
        explain(&System::at("/"), &error)
    }

    #[test]
    fn a_line_says_why() {
        assert!(matches!(of(Errno::PERM), Failure::Denied(_)));
        assert!(matches!(of(Errno::ACCESS), Failure::Denied(_)));
        assert_eq!(
            of(Errno::NOSYS).to_string(),
            "the kernel is built without BPF"
        );
        let text = of(Errno::NOMEM).to_string();
        assert!(
            text.starts_with("BPF cannot be used: the map is not made: "),
            "{text}"
        );
    }
}
