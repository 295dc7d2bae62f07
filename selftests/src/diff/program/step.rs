// SPDX-License-Identifier: GPL-2.0
//! What programs are made of, and what has to be known to make it.

use crate::diff::nested::{Entry, Hypervisor};
use crate::diff::slots::HostOp;
use crate::diff::space::Root;
use crate::guest::Mode;
use crate::guest::layout::{MMIO_GPA, MMIO_GVA};
use crate::random::Random;

/// One or a few instructions, and what has to be in registers before them.
#[derive(Clone, Default)]
pub struct Step {
    pub registers: Vec<(u8, u64)>,
    pub bytes: Vec<u8>,
    /// The offset of a 32-bit displacement from the next instruction, and where it leads.
    pub relative: Option<(usize, u64)>,
    /// What a nested guest does at the start of the step.
    pub l2: Option<L2>,
    /// What the host does at the end of the step.
    pub host: Option<HostOp>,
    /// What the guest does at the end of the program, to leave all as it was.
    pub undo: Option<Box<Self>>,
}

/// What an L2 does, and how it is entered.
#[derive(Clone)]
pub struct L2 {
    pub steps: Vec<Step>,
    pub entry: Entry,
}

impl L2 {
    /// Another one, entered in the same way.
    pub fn with_steps(&self, steps: &[Step]) -> Self {
        Self {
            steps: steps.to_vec(),
            ..*self
        }
    }
}

/// The guest as a program finds it at some point.
pub struct Guest<'a> {
    mode: Mode,
    paged: bool,
    roots: &'a [Root],
    hypervisor: Option<&'a Hypervisor>,
}

impl<'a> Guest<'a> {
    pub fn new(mode: Mode, roots: &'a [Root], hypervisor: Option<&'a Hypervisor>) -> Self {
        Self {
            mode,
            paged: mode.is_paged(),
            roots,
            hypervisor,
        }
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// One of the page tables that it can choose from.
    pub fn pick_root(&self, random: &mut Random) -> &'a Root {
        &self.roots[random.below(self.roots.len() as u64) as usize]
    }

    /// What it has for guests of its own, if it can have some.
    pub fn hypervisor(&self) -> Option<&'a Hypervisor> {
        self.hypervisor
    }

    pub fn is_long(&self) -> bool {
        self.mode.is_long()
    }

    pub fn is_paged(&self) -> bool {
        self.paged
    }

    pub fn switch_paging(&mut self) {
        self.paged = !self.paged;
    }

    /// General registers.
    pub fn registers(&self) -> u64 {
        if self.is_long() { 16 } else { 8 }
    }

    /// The linear address of the MMIO window.
    pub fn window(&self) -> u64 {
        if self.paged { MMIO_GVA } else { MMIO_GPA }
    }
}
