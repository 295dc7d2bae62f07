// SPDX-License-Identifier: GPL-2.0
//! All that can be seen of a run.

use anyhow::{Result, ensure};
use kvm_bindings::kvm_regs;

use super::slots::Contents;
use crate::guest::Event;

/// All that a run shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    pub exits: Vec<Event>,
    /// How it ended.
    pub end: String,
    pub regs: kvm_regs,
    /// CR0 and CR3.
    pub control: [u64; 2],
    pub xmm: [[u8; 16]; 16],
    pub ram: Vec<u8>,
    pub slots: Contents,
    pub rings: Vec<u64>,
    /// Handlers that ran in SMM.
    pub smis: u64,
    /// Nested guests that came to their end.
    pub l2s: u64,
}

impl Trace {
    /// Accesses to MMIO that are seen from outside.
    pub fn accesses(&self) -> u64 {
        self.exits.len() as u64 + self.rung()
    }

    /// Those that have rung.
    pub fn rung(&self) -> u64 {
        self.rings.iter().sum()
    }

    /// The first thing in which the other is different.
    pub fn difference(&self, other: &Self) -> String {
        let first = (0..self.exits.len().max(other.exits.len()))
            .find(|n| self.exits.get(*n) != other.exits.get(*n));
        if let Some(n) = first {
            let (a, b) = (self.exits.get(n), other.exits.get(n));
            // With what came before: the instruction may have been another one.
            let before = &self.exits[n.saturating_sub(3)..n];
            return format!("exit {n}, after {before:?}: {a:?} became {b:?}");
        }
        if self.end != other.end {
            return format!("end: {} became {}", self.end, other.end);
        }
        if self.regs != other.regs {
            return format!("registers: {:x?}\nbecame {:x?}", self.regs, other.regs);
        }
        if self.rings != other.rings {
            return format!("rings: {:?} became {:?}", self.rings, other.rings);
        }
        if self.control != other.control {
            return format!("CR0, CR3: {:x?} became {:x?}", self.control, other.control);
        }
        if self.xmm != other.xmm {
            return format!("XMM: {:x?} became {:x?}", self.xmm, other.xmm);
        }
        if self.slots != other.slots {
            return self.slots.difference(&other.slots);
        }
        if self.smis != other.smis {
            return format!("SMIs: {} became {}", self.smis, other.smis);
        }
        if self.l2s != other.l2s {
            return format!("ends of L2: {} became {}", self.l2s, other.l2s);
        }
        let at = self.ram.iter().zip(&other.ram).position(|(a, b)| a != b);
        format!("RAM at offset {at:x?}")
    }

    /// Whether the program came to its end, and so has left the guest as it was.
    pub fn is_done(&self) -> bool {
        self.end == "done"
    }

    /// Fails unless the program came to its end. What is in it cannot fail.
    pub fn expect_done(&self) -> Result<()> {
        ensure!(
            self.is_done(),
            "a program ends with {}, {:x?}",
            self.end,
            self.regs
        );
        Ok(())
    }
}
