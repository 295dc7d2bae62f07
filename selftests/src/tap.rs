// SPDX-License-Identifier: GPL-2.0
//! Runs tests and reports them as TAP (Test Anything Protocol).
//!
//! Each test runs in a child process, so that one that panics, hangs or is killed takes no other
//! down with it.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::host;

/// A test and what it proves.
pub struct Test {
    pub name: &'static str,
    /// Functions of the seed patch that it shows at work, and what must hold.
    pub proves: &'static str,
    pub run: fn() -> Result<()>,
}

/// The error that says that a test does not apply here.
#[derive(Debug)]
pub struct Skip(pub String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// Makes the table of a subject's tests, [`Test`]s by the name `TESTS`. Each row says
/// `name: what it proves => how it runs`.
#[macro_export]
macro_rules! test_table {
    ($($name:ident: $proves:expr => $run:expr,)+) => {
        pub const TESTS: &[$crate::tap::Test] = &[$($crate::tap::Test {
            name: stringify!($name),
            proves: $proves,
            run: || $run,
        }),+];
    };
}

/// What a program tells its tests before the first one runs, as they take no arguments.
pub struct Setting<T>(OnceLock<T>);

impl<T: Copy> Setting<T> {
    #[expect(clippy::new_without_default)]
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }

    pub fn set(&self, value: T) {
        assert!(self.0.set(value).is_ok(), "it is set once");
    }

    pub fn get(&self) -> T {
        *self.0.get().expect("it has been set")
    }
}

/// Ends a test as not applicable.
#[macro_export]
macro_rules! skip {
    ($($why:tt)*) => {
        return Err($crate::tap::Skip(format!($($why)*)).into())
    };
}

/// Fails unless both are equal, and says what each was.
#[macro_export]
macro_rules! expect_eq {
    ($got:expr, $want:expr $(, $($context:tt)+)?) => {{
        let (got, want) = (&$got, &$want);
        if got != want {
            anyhow::bail!(
                concat!(stringify!($got), " is {:x?}, wanted ", stringify!($want), " = {:x?}{}"),
                got,
                want,
                String::new() $(+ "; " + &format!($($context)+))?
            );
        }
    }};
}

/// Names tests, and what each proves.
pub fn list(tests: impl IntoIterator<Item = &'static Test>) {
    for test in tests {
        println!("{:32} {}", test.name, test.proves);
    }
}

/// A line of comment that does not decide anything, e.g. a behaviour that is only recorded.
pub fn note(text: impl fmt::Display) {
    for line in text.to_string().lines() {
        println!("# {line}");
    }
}

const PASSED: i32 = 0;
const FAILED: i32 = 1;
const SKIPPED: i32 = 77;

/// How a child ended.
enum Outcome {
    Passed,
    Failed(String),
    Skipped,
}

/// In the child: runs the test, prints why it did not pass, and returns the exit status.
fn run_in_child(test: &Test) -> i32 {
    panic::set_hook(Box::new(|info| note(info)));
    match panic::catch_unwind(AssertUnwindSafe(test.run)) {
        Ok(Ok(())) => PASSED,
        Ok(Err(e)) if e.is::<Skip>() => {
            note(format!("{e}"));
            SKIPPED
        }
        Ok(Err(e)) => {
            note(format!("{e:#}"));
            FAILED
        }
        Err(_) => FAILED,
    }
}

fn run_test(test: &Test, limit: Duration) -> Result<(Outcome, String)> {
    let mut ends = [0; 2];
    // SAFETY: `ends` is what the call fills in.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error()).context("pipe2");
    }
    // SAFETY: both were just opened, and nothing else owns them.
    let [reader, writer] = ends.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    io::stdout().flush()?;

    // SAFETY: this process has one thread, so the child may do anything that the parent may.
    let child = unsafe { libc::fork() };
    match child {
        -1 => return Err(io::Error::last_os_error()).context("fork"),
        0 => {
            drop(reader);
            let writer = writer.into_raw_fd();
            // SAFETY: plain system calls on valid descriptors; the alarm's default action ends
            // the child when the time is up, also when it hangs in KVM_RUN.
            unsafe {
                libc::dup2(writer, libc::STDOUT_FILENO);
                libc::alarm(limit.as_secs().try_into().unwrap_or(u32::MAX));
            }
            let status = run_in_child(test);
            let _ = io::stdout().flush();
            // SAFETY: ends the child at once, without the parent's exit handlers.
            unsafe { libc::_exit(status) };
        }
        _ => {}
    }
    drop(writer);

    let mut text = Vec::new();
    File::from(reader)
        .read_to_end(&mut text)
        .context("reading a test's output")?;
    let mut status = 0;
    // SAFETY: `child` is a child that has not been waited for, `status` is ours.
    if unsafe { libc::waitpid(child, &mut status, 0) } != child {
        return Err(io::Error::last_os_error()).context("waitpid");
    }
    let outcome = if libc::WIFSIGNALED(status) {
        match libc::WTERMSIG(status) {
            libc::SIGALRM => Outcome::Failed(format!("not done after {} s", limit.as_secs())),
            signal => Outcome::Failed(format!("killed by signal {signal}")),
        }
    } else {
        match libc::WEXITSTATUS(status) {
            PASSED => Outcome::Passed,
            SKIPPED => Outcome::Skipped,
            FAILED => Outcome::Failed(String::new()),
            other => Outcome::Failed(format!("exit status {other}")),
        }
    };
    Ok((outcome, String::from_utf8_lossy(&text).into_owned()))
}

/// Runs the tests one after the other; returns the program's status, by whether any failed.
pub fn run(tests: &[&Test], limit: Duration) -> Result<ExitCode> {
    let enabled = host::extension_enabled();
    println!("1..{}", tests.len());
    let mut good = true;
    for (number, test) in (1..).zip(tests) {
        let (outcome, text) = run_test(test, limit)?;
        match outcome {
            Outcome::Passed => println!("ok {number} - {}", test.name),
            Outcome::Skipped => {
                let why = text.lines().last().unwrap_or("").trim_start_matches("# ");
                println!("ok {number} - {} # SKIP {why}", test.name);
            }
            Outcome::Failed(ref why) => {
                good = false;
                println!("not ok {number} - {}", test.name);
                println!("# proves: {}", test.proves);
                if !why.is_empty() {
                    println!("# {why}");
                }
            }
        }
        if !matches!(outcome, Outcome::Skipped) {
            print!("{text}");
        }
        // A test that died may have left the switch in the wrong position.
        if let Some(enabled) = enabled.filter(|_| host::extension_enabled() != enabled) {
            host::set_extension(enabled).context("restoring the extension's switch")?;
        }
    }
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
