// SPDX-License-Identifier: GPL-2.0
//! What can be compared on a machine, and what cannot because KVM or the machine is wrong there.

use anyhow::Result;

use super::switch::Switch;
use crate::guest::{Machine, Mode, Svm};
use crate::host::{Modes, is_qemu};

/// Guests of one mode, with one switch off and on.
#[derive(Clone, Copy, Debug)]
pub struct Comparison {
    pub switch: Switch,
    pub mode: Mode,
    /// Whether memslots and page tables may change in one program.
    pub mixed: bool,
    /// How guests can have guests of their own; None: they have none.
    pub svm: Option<Svm>,
    /// Why it says nothing here.
    pub left_out: Option<&'static str>,
}

/// What is compared on this machine: the extension off and on in every mode, its fast path off and
/// on if there are programs in which that is the only way, and what that does with interrupts off.
pub fn plan(host: &Modes) -> Result<Vec<Comparison>> {
    let svm = Machine::svm()?;
    let enabled = |mode| Comparison {
        switch: Switch::Enabled,
        mode,
        // With shadow paging C's sync_mmio_spte() makes MMIO SPTEs that are older than a memslot
        // valid again if the guest changes its page tables; the extension does not.
        mixed: host.tdp || !mode.is_paged(),
        svm: svm.filter(|_| mode.is_long()),
        left_out: (mode == Mode::Pae && host.tdp && is_qemu()).then_some(
            "QEMU with NPT writes to the entries that CR3 points to, at no certain time",
        ),
    };
    let fast = |mode| Comparison {
        switch: Switch::Fast,
        mixed: true,
        ..enabled(mode)
    };
    let irqs_off = Comparison {
        switch: Switch::Irqsoff,
        ..enabled(Mode::Long)
    };
    let paged = Mode::ALL
        .into_iter()
        .filter(|mode| mode.is_paged() && !host.tdp);
    Ok(Mode::ALL
        .into_iter()
        .map(enabled)
        .chain(paged.map(fast))
        .chain(host.rings_with_irqs_off().then_some(irqs_off))
        .collect())
}
