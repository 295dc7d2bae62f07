// SPDX-License-Identifier: GPL-2.0
//! An ioeventfd that comes and goes.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;

use super::truth::Truth;
use crate::expect_eq;
use crate::guest::{Bus, Doorbell, Machine, Match};

/// What is written to all of them.
pub const VALUE: u32 = 0x1234_5678;

/// One of each.
pub const KINDS: &[Match] = &[
    Match::Data {
        len: 4,
        value: VALUE as u64,
    },
    Match::Len(4),
    Match::Any,
];

/// A doorbell at the start of a page, or none.
pub struct Bell {
    pub page: u64,
    kind: Match,
    /// Whether there is one.
    pub truth: Truth<bool>,
    /// Writes that guests have made, and how many of them came to userspace.
    pub written: AtomicU64,
    pub exited: AtomicU64,
    rung: AtomicU64,
    registered: Mutex<Option<Doorbell>>,
}

impl Bell {
    pub fn new(page: u64, kind: Match) -> Self {
        Self {
            page,
            kind,
            truth: Truth::new(false),
            written: AtomicU64::new(0),
            exited: AtomicU64::new(0),
            rung: AtomicU64::new(0),
            registered: Mutex::new(None),
        }
    }

    /// Adds the doorbell, or removes it.
    pub fn toggle(&self, machine: &Machine) -> Result<()> {
        let mut registered = self.registered.lock().expect("no thread panics meanwhile");
        self.truth.begin();
        match registered.take() {
            Some(mut bell) => {
                bell.remove(machine.vm())?;
                self.rung.fetch_add(bell.rings()?, Ordering::SeqCst);
            }
            None => {
                *registered = Some(machine.doorbell(Bus::Mmio(machine.gpa(self.page)), self.kind)?)
            }
        }
        self.truth.end(registered.is_some());
        Ok(())
    }

    /// Each write has come to userspace or has rung, once.
    pub fn check_sum(&self) -> Result<()> {
        let registered = self.registered.lock().expect("no thread panics any more");
        let last = registered.as_ref().map_or(Ok(0), Doorbell::rings)?;
        let rung = self.rung.load(Ordering::SeqCst) + last;
        let written = self.written.load(Ordering::SeqCst);
        let exited = self.exited.load(Ordering::SeqCst);
        expect_eq!(
            rung,
            written - exited,
            "{:?}: {written} writes, {exited} exits",
            self.kind
        );
        Ok(())
    }
}
