// SPDX-License-Identifier: GPL-2.0
//! Tracepoints counted by this program, from rings of perf that hold a copy of each event.

mod follow;
mod rings;

use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};

use super::clock::{clock, now};
use super::event::Kind;
use crate::device::System;
use crate::reading::Reading;
use follow::Follower;
use rings::Rings;

/// How often the rings are emptied.
const STEP: Duration = Duration::from_millis(20);

/// Counts as long as it lives. The kernel ends it with this process.
pub struct Counter {
    requests: Sender<Sender<Reading>>,
}

impl Counter {
    pub fn start(system: &System, times: bool) -> io::Result<Self> {
        let more: &[Kind] = if times { &[Kind::Entry] } else { &[] };
        let rings = Rings::open(system, &[&Kind::COUNTED, more].concat())?;
        let (requests, received) = mpsc::channel();
        thread::Builder::new()
            .name("trace".to_owned())
            .spawn(move || follow(rings, &received))?;
        Ok(Self { requests })
    }

    /// All that has happened since the start.
    pub fn read(&self) -> Result<Reading> {
        let (answer, answered) = mpsc::channel();
        let gone = || anyhow!("the tracepoints are not followed any more");
        self.requests.send(answer).map_err(|_| gone())?;
        answered.recv().map_err(|_| gone())
    }
}

/// Opens an event as the counter does, and closes it.
pub fn try_event(system: &System) -> io::Result<()> {
    Rings::try_one(system, Kind::Exit)
}

/// Empties the rings until nobody asks any more.
fn follow(mut rings: Rings, requests: &Receiver<Sender<Reading>>) {
    let mut follower = Follower::default();
    let mut lost = 0;
    loop {
        let request = match requests.recv_timeout(STEP) {
            Ok(request) => Some(request),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let now = now();
        lost += rings.drain(now, |sample| follower.see(sample));
        if let Some(request) = request {
            // Who has asked may have gone meanwhile.
            let _ = request.send(Reading {
                clock: clock(now, lost),
                counters: Vec::new(),
                vms: follower.vms.clone(),
            });
        }
    }
}
