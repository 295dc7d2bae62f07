// SPDX-License-Identifier: GPL-2.0
//! A page that the info cache knows as MMIO becomes one that KVM protects against writing.

use anyhow::Result;
use iced_x86::code_asm as asm;
use kvm_bindings::kvm_regs;

use crate::expect_eq;
use crate::guest::paging::SUPERVISOR;
use crate::guest::vcpu::{mov_to_memory, store_entry};
use crate::guest::{Event, Machine, Mode, PAGE};

const PROVES: &str = "98a69b96caca: a virtual address that is cached as MMIO and that the guest \
    maps to a page table without INVLPG is no reason to warn";

crate::test_table! {
    write_protected_long: PROVES => cached(Mode::Long),
    write_protected_pae: PROVES => cached(Mode::Pae),
    write_protected_legacy: PROVES => cached(Mode::Legacy),
}

/// Where in the table there is no entry that is used.
const UNUSED: u64 = 0x800;

/// No entry: it is not present.
const VALUE: u64 = 0x1234_5678;

fn cached(mode: Mode) -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(mode)?;
    let (gva, gpa) = (machine.gva(0), machine.gpa(0));
    let entries = machine.tables().entries(gva);
    // A table of the last level but one. KVM lets guests write to those of the last level.
    let pde = entries[entries.len() - 2];
    let table = pde & !(PAGE - 1);

    let other = machine.new_tables();
    other.map(gva, table, SUPERVISOR);
    let last_level = other.pte(gva) & !(PAGE - 1);

    vcpu.touch(gva, gpa, 4)?;
    let regs = kvm_regs {
        rdx: pde,
        rcx: last_level | SUPERVISOR,
        rdi: gva + UNUSED,
        rax: VALUE,
        ..Default::default()
    };
    let run = vcpu.exec(regs, |a| {
        store_entry(a, mode, asm::ecx)?;
        mov_to_memory(mode, 4)(a)?;
        a.nop()
    })?;
    expect_eq!(run.done()?, [] as [Event; 0]);
    expect_eq!(machine.ram().read_u64(table + UNUSED), VALUE);
    Ok(())
}
