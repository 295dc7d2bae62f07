// SPDX-License-Identifier: GPL-2.0
//! Runs a test program to its end, or until somebody asks to stop.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};

use super::stop::{self, Stopped};

/// Lines of standard error that are kept.
const KEPT: usize = 5;

/// How a program has ended.
pub struct End {
    pub status: ExitStatus,
    pub output: String,
    /// The last lines of standard error, which is also passed on.
    pub errors: Vec<String>,
}

impl End {
    pub fn describe(&self) -> String {
        match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("exit status {code}"),
            (None, Some(signal)) => format!("killed by signal {signal}"),
            (None, None) => "ended".into(),
        }
    }
}

pub fn run(program: &Path, arguments: &[&str]) -> Result<End> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A group of its own: what it starts ends with it, and Ctrl-C is for this program.
        .process_group(0)
        .spawn()
        .with_context(|| {
            program
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned()
        })?;
    let output = read_all(child.stdout.take().context("standard output")?);
    let errors = pass_on(child.stderr.take().context("standard error")?);
    let status = wait(&mut child)?;
    Ok(End {
        status,
        output: output.join().expect("reading does not panic"),
        errors: errors.join().expect("reading does not panic"),
    })
}

fn wait(child: &mut Child) -> Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait().context("waiting")? {
            return Ok(status);
        }
        if let Some(signal) = stop::asked() {
            // SAFETY: a group of processes that this program has started; its leader was not
            // waited for, so that nobody else has the number.
            unsafe { libc::kill(-(child.id() as i32), libc::SIGKILL) };
            child.wait().context("waiting")?;
            return Err(Stopped(signal).into());
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn read_all(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read until an error is what there is.
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn pass_on(from: impl Read + Send + 'static) -> JoinHandle<Vec<String>> {
    thread::spawn(move || {
        let mut kept = Vec::new();
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            eprintln!("  {line}");
            kept.push(line);
            if kept.len() > KEPT {
                kept.remove(0);
            }
        }
        kept
    })
}
