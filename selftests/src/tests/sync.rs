// SPDX-License-Identifier: GPL-2.0
//! Shadow page tables that went out of sync are synced again, MMIO SPTEs included.

use anyhow::Result;
use iced_x86::code_asm as asm;
use kvm_bindings::kvm_regs;

use crate::expect_eq;
use crate::guest::layout::SCRATCH;
use crate::guest::paging::{DIRTY, SUPERVISOR};
use crate::guest::vcpu::{load_cr3, store_entry};
use crate::guest::{Event, Machine, Mode, PAGE, Region, SlotKind, Vcpu, operand};
use crate::host::Modes;
use crate::stats::{Delta, Mark, with_sptes};

const PROVES: &str = "sync_mmio_spte: on INVLPG and CR3 reload an MMIO SPTE is kept when its PTE \
    names the same gfn, and dropped when it does not";

crate::test_table! {
    sync_long: PROVES => sync(Mode::Long),
    sync_pae: PROVES => sync(Mode::Pae),
    sync_legacy: PROVES => sync(Mode::Legacy),
    sync_new_slot_long: NEW_SLOT => new_slot(Mode::Long),
    sync_new_slot_legacy: NEW_SLOT => new_slot(Mode::Legacy),
    sync_behind_kvm_long: BEHIND_KVM => behind_kvm(Mode::Long),
    sync_behind_kvm_pae: BEHIND_KVM => behind_kvm(Mode::Pae),
    sync_behind_kvm_legacy: BEHIND_KVM => behind_kvm(Mode::Legacy),
}

const BEHIND_KVM: &str = "mark_mmio_spte: a present SPTE is dropped for an MMIO SPTE when the host \
    has changed a page table that KVM shadows (CVE-2026-23401)";

const NEW_SLOT: &str = "sync_mmio_spte: an MMIO SPTE that is older than a memslot does not come \
    to life again when its table is synced";

/// Pages of the window, all in one last-level table.
const PAGES: u64 = 8;

/// How the guest makes its change of a PTE known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flush {
    Invlpg,
    Cr3,
}

fn sync(mode: Mode) -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(mode)?;
    let shadow = !Modes::detect()?.tdp;
    // Which MMIO page each page of the window is mapped to.
    let mut target: Vec<u64> = (0..PAGES).collect();

    let touch_all = |vcpu: &mut Vcpu, target: &[u64]| -> Result<()> {
        (0..)
            .zip(target)
            .try_for_each(|(page, target)| vcpu.touch(machine.gva(page), machine.gpa(*target), 4))
    };
    touch_all(&mut vcpu, &target)?;

    let mut change = |page: u64, to: u64, flush: Flush| -> Result<Delta> {
        let regs = kvm_regs {
            rdi: machine.gva(page),
            rsi: machine.tables().root(),
            rdx: machine.tables().pte(machine.gva(page)),
            rcx: machine.gpa(to) | SUPERVISOR,
            ..Default::default()
        };
        let start = Mark::here(&[vcpu.fd()])?;
        let run = vcpu.exec(regs, |a| {
            store_entry(a, mode, asm::ecx)?;
            match flush {
                Flush::Invlpg => a.invlpg(asm::byte_ptr(operand(mode, 0)))?,
                Flush::Cr3 => load_cr3(a, mode)?,
            }
            // Something after the flush, so that it is over when the counters are read.
            a.nop()
        })?;
        expect_eq!(run.done()?, [] as [Event; 0]);
        let delta = start.delta(&[vcpu.fd()])?;
        target[page as usize] = to;
        touch_all(&mut vcpu, &target)?;
        Ok(delta)
    };

    for round in 0..2 {
        let away = 8 + round;
        // One entry is synced: the one that INVLPG names.
        let dropped = change(2, away, Flush::Invlpg)?;
        // All entries of the table are synced: one changed, the others did not.
        let reloaded = change(3, away, Flush::Cr3)?;
        if shadow {
            dropped
                .expect_ext("spte_sync_dropped", with_sptes(1)?)?
                .expect_ext("spte_synced", 0)?;
            reloaded
                .expect_ext("spte_sync_dropped", with_sptes(1)?)?
                .expect_ext("spte_synced", with_sptes(PAGES - 1)?)?;
        } else {
            for delta in [dropped, reloaded] {
                delta
                    .expect_ext("spte_sync_dropped", 0)?
                    .expect_ext("spte_synced", 0)?;
            }
        }
    }
    Ok(())
}

/// A page becomes RAM while its MMIO SPTE exists, and the next that happens is a sync.
fn new_slot(mode: Mode) -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(mode)?;
    let (page, other) = (2, 3);
    for n in [page, other] {
        vcpu.touch(machine.gva(n), machine.gpa(n), 4)?;
    }

    let ram = Region::new(PAGE)?;
    ram.write(0, &0x1234_5678u32.to_le_bytes());
    machine.set_slot(1, machine.gpa(page), &ram, SlotKind::Ram)?;

    let regs = kvm_regs {
        rsi: machine.tables().root(),
        rdx: machine.tables().pte(machine.gva(other)),
        rcx: machine.gpa(9) | SUPERVISOR,
        ..Default::default()
    };
    let run = vcpu.exec(regs, |a| {
        store_entry(a, mode, asm::ecx)?;
        load_cr3(a, mode)?;
        a.nop()
    })?;
    expect_eq!(run.done()?, [] as [Event; 0]);

    expect_eq!(vcpu.read(machine.gva(page), 4)?, (0x1234_5678, vec![]));
    Ok(())
}

/// The host maps MMIO where there was memory; KVM, which protects page tables against the guest
/// only, finds out when it is about to make the page writable.
fn behind_kvm(mode: Mode) -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(mode)?;
    for page in 1..=3 {
        let (gva, gpa) = (machine.gva(page), machine.gpa(page));
        machine.ram().write_u64(SCRATCH, 0x7777);
        // What is clean is mapped for reading until it is written to.
        machine.tables().map(gva, SCRATCH, SUPERVISOR & !DIRTY);
        expect_eq!(vcpu.read(gva, 4)?, (0x7777, vec![]), "page {page}");

        machine.tables().map(gva, gpa, SUPERVISOR);
        let events = vcpu.write(gva, 4, 0x1234)?;
        expect_eq!(events, [Event::write(gpa, 4, 0x1234)], "page {page}");
        vcpu.touch(gva, gpa, 4)?;
        expect_eq!(machine.ram().read_u64(SCRATCH), 0x7777, "page {page}");
    }
    // Nothing of it is left where KVM would warn of it.
    machine.delete_slot(0)
}
