// SPDX-License-Identifier: GPL-2.0
//! Steps that change what an address means: memslots, page tables, CR3, paging itself, SMM, and
//! nested guests.

use super::step::{Guest, L2, Step};
use super::{access, smi};
use crate::diff::nested::{Entry, Hypervisor};
use crate::diff::slots::{HostOp, SLOT_PAGES};
use crate::diff::space::{RAM, WINDOW, WINDOW_PAGES};
use crate::guest::{Mode, PAGE, SlotKind};
use crate::random::Random;

/// Registers that the steps here use.
const AX: u8 = 0;
const CX: u8 = 1;
const DX: u8 = 2;

/// What steps may change besides CR3 and CR0.
#[derive(Clone, Copy)]
pub struct Changes {
    pub slots: bool,
    pub tables: bool,
}

pub fn step(random: &mut Random, guest: &mut Guest<'_>, changes: Changes) -> Step {
    let hypervisor = guest.hypervisor().filter(|_| random.percent(30));
    if let Some(hypervisor) = hypervisor {
        return vmrun(random, guest, hypervisor);
    }
    match random.below(12) {
        0..3 if changes.slots => slot(random),
        5..7 if changes.tables && guest.mode().is_paged() => remap(random, guest),
        7..9 if guest.mode().is_paged() => load_cr3(random, guest),
        9 if matches!(guest.mode(), Mode::Pae | Mode::Legacy) => {
            guest.switch_paging();
            switch_paging(guest)
        }
        10.. => smi::step(random),
        _ => invlpg(random),
    }
}

/// The program enters L2, which makes one to four accesses, and goes on.
fn vmrun(random: &mut Random, guest: &Guest<'_>, hypervisor: &Hypervisor) -> Step {
    let nested_root = hypervisor.nested_root.filter(|_| random.percent(50));
    let root = guest.pick_root(random).gpa;
    let accesses = 1 + random.below(4);
    Step {
        l2: Some(L2 {
            steps: (0..accesses)
                .map(|_| access::access(random, guest))
                .collect(),
            entry: Entry {
                cr3: nested_root.filter(|_| random.percent(50)).unwrap_or(root),
                nested_paging: nested_root.is_some(),
            },
        }),
        ..Step::default()
    }
}

/// A memslot appears, moves, becomes another kind, or goes.
fn slot(random: &mut Random) -> Step {
    let slot = random.below(SLOT_PAGES.len() as u64) as usize;
    let kinds = [SlotKind::Ram, SlotKind::ReadOnly, SlotKind::LogDirty];
    let place = random
        .percent(70)
        .then(|| (random.pick(&SLOT_PAGES[slot]), random.pick(&kinds)));
    Step {
        host: Some(HostOp::Slot(slot, place)),
        ..Step::default()
    }
}

/// Mov to memory and INVLPG: the guest changes its own page tables.
fn set_pte(mode: Mode, at: u64, entry: u64, gva: u64) -> Step {
    // mov [rcx], rax; invlpg [rdx]. The high half of a PAE entry stays 0.
    let mut bytes = vec![0x89, 0x01, 0x0f, 0x01, 0x3a];
    if mode.is_long() {
        bytes.insert(0, 0x48);
    }
    Step {
        registers: vec![(AX, entry), (CX, at), (DX, gva)],
        bytes,
        ..Step::default()
    }
}

/// A page of the window gets another page frame: MMIO or RAM.
fn remap(random: &mut Random, guest: &Guest<'_>) -> Step {
    let page = random.below(WINDOW_PAGES);
    let entry = guest.pick_root(random).entries[page as usize];
    let frame = match random.below(3) {
        0 => RAM + random.below(2) * PAGE,
        _ => {
            let others = &guest.pick_root(random).entries;
            random.pick(others).value & !(PAGE - 1)
        }
    };
    let new = frame | entry.value & (PAGE - 1);
    let gva = WINDOW + page * PAGE;
    Step {
        undo: Some(Box::new(set_pte(guest.mode(), entry.gpa, entry.value, gva))),
        ..set_pte(guest.mode(), entry.gpa, new, gva)
    }
}

fn invlpg(random: &mut Random) -> Step {
    Step {
        registers: vec![(DX, WINDOW + random.below(WINDOW_PAGES) * PAGE)],
        bytes: vec![0x0f, 0x01, 0x3a],
        ..Step::default()
    }
}

fn load_cr3(random: &mut Random, guest: &Guest<'_>) -> Step {
    Step {
        registers: vec![(AX, guest.pick_root(random).gpa)],
        bytes: vec![0x0f, 0x22, 0xd8],
        ..Step::default()
    }
}

/// CR0.PG changes; the code is mapped at its own address.
fn switch_paging(guest: &Guest<'_>) -> Step {
    let mut bytes = Vec::new();
    if guest.mode() == Mode::Pae && guest.is_paged() {
        // QEMU has set the accessed bit in the entries that CR3 points to; it is reserved there,
        // and KVM looks: mov edx, cr3; and dword ptr [edx + 8 * n], ~0x20
        bytes.extend([0x0f, 0x20, 0xda]);
        for entry in 0..4 {
            bytes.extend([0x83, 0x62, 8 * entry, 0xdf]);
        }
    }
    // mov eax, cr0; btc eax, 31; mov cr0, eax
    bytes.extend([0x0f, 0x20, 0xc0, 0x0f, 0xba, 0xf8, 0x1f, 0x0f, 0x22, 0xc0]);
    Step {
        bytes,
        ..Step::default()
    }
}
