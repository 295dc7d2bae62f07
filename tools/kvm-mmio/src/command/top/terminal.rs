// SPDX-License-Identifier: GPL-2.0
//! The terminal of `top`, which may go at any time.

use std::io::{self, Stdout, stdout};
use std::process;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::signal::Stop;

/// How soon a signal is noticed while no key comes.
pub const STEP: Duration = Duration::from_millis(50);

/// A screen of its own, put back as it was whatever happens.
pub struct Screen(pub Terminal<CrosstermBackend<Stdout>>);

impl Screen {
    pub fn open() -> Result<Self> {
        let open = || {
            enable_raw_mode()?;
            execute!(stdout(), EnterAlternateScreen)?;
            Terminal::new(CrosstermBackend::new(stdout()))
        };
        let terminal = open().inspect_err(|_| put_back());
        Ok(Self(
            terminal.context("cannot use the terminal; try --text")?,
        ))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        put_back();
    }
}

/// If there is no terminal any more, there is nothing to put back, and nobody to tell.
fn put_back() {
    let _ = disable_raw_mode();
    let _ = execute!(stdout(), LeaveAlternateScreen, Show);
}

/// Whether an error says that the terminal has gone.
pub fn has_gone(error: &io::Error) -> bool {
    // What Linux says of one that has hung up, and of one that was closed.
    [rustix::io::Errno::IO, rustix::io::Errno::NXIO]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Ends the program if it has not ended a while after a signal, or after the terminal has hung up:
/// crossterm then waits for a key forever.
pub fn leave_with(stop: Stop) {
    thread::spawn(move || {
        while !stop.requested() && !has_hung_up() {
            thread::sleep(STEP);
        }
        thread::sleep(20 * STEP);
        process::exit(0);
    });
}

fn has_hung_up() -> bool {
    let stdin = io::stdin();
    let mut terminal = [PollFd::new(&stdin, PollFlags::empty())];
    poll(&mut terminal, Some(&Timespec::default())).is_ok()
        && terminal[0].revents().contains(PollFlags::HUP)
}
