// SPDX-License-Identifier: GPL-2.0
//! Memslot changes: what was MMIO is RAM as soon as the ioctl returns, and the reverse.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use iced_x86::code_asm as asm;
use kvm_bindings::kvm_regs;

use crate::guest::{Event, Machine, Mode, PAGE, Region, SlotKind, Vcpu, Zap, pattern_value};
use crate::host::Modes;
use crate::stats::{Mark, with_sptes};
use crate::{expect_eq, host, skip};

const HOLE_AND_RAM: &str = "is_mmio_spte with the generation, the info cache: \
    after the ioctl has returned no vCPU uses what it knew about the page";
const STALE: &str = "check of the generation in handle_mmio_page_fault_common: \
    after a slot change one refault for each page, then hits";
const ZAP: &str = "the zap of MMIO SPTEs with their page: each is cleared and counted once";
const NO_ZAP_ALL: &str = "the same where the deletion of a slot leaves the MMIO SPTEs of other \
    pages in place (KVM_X86_QUIRK_SLOT_ZAP_ALL disabled): they are stale";
const READ_ONLY: &str = "no MMIO SPTE for a write to a read-only slot: reads stay RAM";

crate::test_table! {
    slots_alternate_long: HOLE_AND_RAM => alternate(Mode::Long, Zap::All),
    slots_alternate_legacy: HOLE_AND_RAM => alternate(Mode::Legacy, Zap::All),
    slots_alternate_flat: HOLE_AND_RAM => alternate(Mode::Flat, Zap::All),
    slots_hole_to_ram_running: HOLE_AND_RAM => hole_to_ram_running(),
    slots_ram_to_hole_running: HOLE_AND_RAM => ram_to_hole_running(Zap::All),
    slots_stale_long: STALE => stale(Mode::Long, Zap::All),
    slots_stale_pae: STALE => stale(Mode::Pae, Zap::All),
    slots_stale_flat: STALE => stale(Mode::Flat, Zap::All),
    slots_zap_long: ZAP => zap(Mode::Long, Zap::All),
    slots_zap_legacy: ZAP => zap(Mode::Legacy, Zap::All),
    slots_read_only: READ_ONLY => read_only(),
    slots_alternate_long_no_zap_all: NO_ZAP_ALL => alternate(Mode::Long, Zap::Slot),
    slots_alternate_legacy_no_zap_all: NO_ZAP_ALL => alternate(Mode::Legacy, Zap::Slot),
    slots_alternate_flat_no_zap_all: NO_ZAP_ALL => alternate(Mode::Flat, Zap::Slot),
    slots_stale_long_no_zap_all: NO_ZAP_ALL => stale(Mode::Long, Zap::Slot),
    slots_stale_pae_no_zap_all: NO_ZAP_ALL => stale(Mode::Pae, Zap::Slot),
    slots_stale_flat_no_zap_all: NO_ZAP_ALL => stale(Mode::Flat, Zap::Slot),
    slots_zap_long_no_zap_all: NO_ZAP_ALL => zap(Mode::Long, Zap::Slot),
    slots_zap_legacy_no_zap_all: NO_ZAP_ALL => zap(Mode::Legacy, Zap::Slot),
    slots_ram_to_hole_no_zap_all: NO_ZAP_ALL => ram_to_hole_running(Zap::Slot),
}

/// Number of a slot that tests create and delete.
const SLOT: u32 = 1;
const VCPUS: usize = 2;

fn two_vcpus(mode: Mode, zap: Zap) -> Result<(Machine, [Vcpu; VCPUS])> {
    let mut machine = Machine::new(mode)?;
    machine.zap(zap)?;
    let vcpus = [machine.add_vcpu()?, machine.add_vcpu()?];
    Ok((machine, vcpus))
}

fn alternate(mode: Mode, zap: Zap) -> Result<()> {
    let (machine, mut vcpus) = two_vcpus(mode, zap)?;
    let memory = Region::new(PAGE)?;
    let (gva, gpa) = (machine.gva(3), machine.gpa(3));
    for round in 1..=4u64 {
        for vcpu in &mut vcpus {
            vcpu.touch(gva, gpa, 4)?;
            vcpu.touch(gva, gpa, 4)?;
        }
        let value = 0x1000 * round;
        memory.write_u64(0, value);
        machine.set_slot(SLOT, gpa, &memory, SlotKind::Ram)?;
        for (id, vcpu) in vcpus.iter_mut().enumerate() {
            expect_eq!(
                vcpu.read(gva, 4)?,
                (value, vec![]),
                "vCPU {id}, round {round}"
            );
            let written = value + 1 + id as u64;
            expect_eq!(
                vcpu.write(gva + 8, 4, written)?,
                [],
                "vCPU {id}, round {round}"
            );
            expect_eq!(memory.read_u64(8), written, "vCPU {id}, round {round}");
        }
        let last = memory.read_u64(8);
        machine.delete_slot(SLOT)?;
        for (id, vcpu) in vcpus.iter_mut().enumerate() {
            vcpu.touch(gva, gpa, 4)
                .with_context(|| format!("vCPU {id}, round {round}"))?;
            expect_eq!(
                vcpu.write(gva + 8, 4, 7)?,
                [Event::write(gpa + 8, 4, 7)],
                "vCPU {id}, round {round}"
            );
            expect_eq!(memory.read_u64(8), last, "vCPU {id}, round {round}");
        }
    }
    Ok(())
}

/// Two vCPU threads and the one that changes slots need more than one processor: on Bochs, which
/// has one, a vCPU that spins without exits was seen to starve all else, its own alarm included.
/// `alternate` shows the same there, with the vCPUs taking turns.
fn need_processors() -> Result<()> {
    match host::cpus()? {
        1 => skip!("only one processor"),
        _ => Ok(()),
    }
}

/// Both vCPUs read the hole all the time while it becomes RAM.
fn hole_to_ram_running() -> Result<()> {
    need_processors()?;
    let (machine, vcpus) = two_vcpus(Mode::Long, Zap::All)?;
    let memory = Region::new(PAGE)?;
    let (gva, gpa) = (machine.gva(3), machine.gpa(3));
    // Never what an MMIO read returns.
    let magic = !pattern_value(gpa, 8);
    memory.write_u64(0, magic);

    let is_ram = Arc::new(AtomicBool::new(false));
    let exits: Arc<[AtomicU64; VCPUS]> = Arc::default();
    let mut threads = Vec::new();
    for (id, mut vcpu) in vcpus.into_iter().enumerate() {
        let (is_ram, exits) = (is_ram.clone(), exits.clone());
        threads.push(thread::spawn(move || -> Result<()> {
            let program = vcpu.load(|a| {
                let mut again = a.create_label();
                a.set_label(&mut again)?;
                a.mov(asm::rax, asm::qword_ptr(asm::rdi))?;
                a.cmp(asm::rax, asm::rsi)?;
                a.jne(again)
            })?;
            vcpu.start(
                kvm_regs {
                    rdi: gva,
                    rsi: magic,
                    ..Default::default()
                },
                program,
            )?;
            loop {
                // An exit is too late only if the guest was entered after the change.
                let late = is_ram.load(Ordering::SeqCst);
                match vcpu.step()? {
                    None => return Ok(()),
                    Some(event) if event == Event::read(gpa, 8) && !late => {
                        exits[id].fetch_add(1, Ordering::SeqCst);
                    }
                    // The exit that was under way completes a read; the next one must not come.
                    Some(event) => bail!("{event:?} on vCPU {id}, the page is RAM: {late}"),
                }
            }
        }));
    }
    wait_until(|| exits.iter().all(|n| n.load(Ordering::SeqCst) >= 20));
    machine.set_slot(SLOT, gpa, &memory, SlotKind::Ram)?;
    is_ram.store(true, Ordering::SeqCst);
    for thread in threads {
        thread.join().expect("vCPU thread panicked")?;
    }
    Ok(())
}

/// Both vCPUs write RAM all the time while it becomes a hole.
fn ram_to_hole_running(zap: Zap) -> Result<()> {
    need_processors()?;
    let (machine, vcpus) = two_vcpus(Mode::Long, zap)?;
    let memory = Region::new(PAGE)?;
    let (gva, gpa) = (machine.gva(3), machine.gpa(3));
    machine.set_slot(SLOT, gpa, &memory, SlotKind::Ram)?;

    let mut threads = Vec::new();
    for (id, mut vcpu) in vcpus.into_iter().enumerate() {
        let offset = 8 * id as u64;
        threads.push(thread::spawn(move || -> Result<()> {
            let program = vcpu.load(|a| {
                let mut again = a.create_label();
                a.set_label(&mut again)?;
                a.inc(asm::rax)?;
                a.mov(asm::qword_ptr(asm::rdi), asm::rax)?;
                a.jmp(again)
            })?;
            vcpu.start(
                kvm_regs {
                    rdi: gva + offset,
                    ..Default::default()
                },
                program,
            )?;
            match vcpu.step()? {
                Some(Event::Write { gpa: at, .. }) if at == gpa + offset => Ok(()),
                other => bail!(
                    "{other:?} on vCPU {id}, wanted a write at {:#x}",
                    gpa + offset
                ),
            }
        }));
    }
    wait_until(|| (0..VCPUS as u64).all(|id| memory.read_u64(8 * id) >= 1000));
    machine.delete_slot(SLOT)?;
    let written: Vec<u64> = (0..VCPUS as u64)
        .map(|id| memory.read_u64(8 * id))
        .collect();
    for thread in threads {
        thread.join().expect("vCPU thread panicked")?;
    }
    let later: Vec<u64> = (0..VCPUS as u64)
        .map(|id| memory.read_u64(8 * id))
        .collect();
    expect_eq!(
        later,
        written,
        "the old page was written after the ioctl had returned"
    );
    Ok(())
}

/// The alarm of the test ends a wait that never ends.
fn wait_until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        thread::sleep(Duration::from_millis(1));
    }
}

fn stale(mode: Mode, zap: Zap) -> Result<()> {
    const PAGES: u64 = 8;
    let (machine, mut vcpu) = Machine::with_vcpu(mode)?;
    machine.zap(zap)?;
    let memory = Region::new(PAGE)?;
    let elsewhere = machine.gpa(100);
    let touch_all = |vcpu: &mut Vcpu| -> Result<()> {
        (0..PAGES).try_for_each(|page| vcpu.touch(machine.gva(page), machine.gpa(page), 4))
    };
    touch_all(&mut vcpu)?;

    // A new slot and a change of its flags leave all SPTEs in place.
    for kind in [SlotKind::Ram, SlotKind::LogDirty] {
        machine.set_slot(SLOT, elsewhere, &memory, kind)?;
        let start = Mark::here(&[vcpu.fd()])?;
        touch_all(&mut vcpu)?;
        start
            .delta(&[vcpu.fd()])?
            .expect_kvm("mmio_exits", PAGES)?
            .expect_kvm("pf_mmio_spte_created", with_sptes(PAGES)?)?
            .expect_ext("faults", with_sptes(PAGES)?)?
            .expect_ext("spte_stale", with_sptes(PAGES)?)?
            .expect_ext("spte_made", with_sptes(PAGES)?)?
            .expect_ext("passed", 0)?
            .expect_hits(0)?;

        let start = Mark::here(&[vcpu.fd()])?;
        touch_all(&mut vcpu)?;
        start
            .delta(&[vcpu.fd()])?
            .expect_kvm("pf_mmio_spte_created", 0)?
            .expect_ext("faults", with_sptes(PAGES)?)?
            .expect_ext("spte_stale", 0)?
            .expect_ext("passed", 0)?
            .expect_hits(with_sptes(PAGES)?)?;
    }
    // A slot that goes away takes all SPTEs with it, or leaves them stale: right either way.
    machine.delete_slot(SLOT)?;
    let start = Mark::here(&[vcpu.fd()])?;
    touch_all(&mut vcpu)?;
    let delta = start.delta(&[vcpu.fd()])?;
    delta
        .expect_kvm("pf_mmio_spte_created", with_sptes(PAGES)?)?
        .expect_ext("spte_made", with_sptes(PAGES)?)?
        .expect_ext("passed", 0)?
        .expect_hits(0)?;
    if zap == Zap::Slot {
        delta.expect_ext("spte_stale", with_sptes(PAGES)?)?;
    }
    Ok(())
}

/// Deleting any slot zaps all page tables, unless the VM has declined. The TDP MMU drops them by
/// the page, MMIO SPTEs included, without looking at each as such.
fn zap(mode: Mode, zap: Zap) -> Result<()> {
    const PAGES: u64 = 8;
    let (machine, mut vcpu) = Machine::with_vcpu(mode)?;
    machine.zap(zap)?;
    let memory = Region::new(PAGE)?;
    machine.set_slot(SLOT, machine.gpa(100), &memory, SlotKind::Ram)?;
    for round in 0..3 {
        for page in 0..PAGES {
            vcpu.touch(machine.gva(page), machine.gpa(page), 4)?;
        }
        let start = Mark::here(&[vcpu.fd()])?;
        machine.delete_slot(SLOT)?;
        let zapped = match zap {
            Zap::All if !Modes::detect()?.tdp_mmu => with_sptes(PAGES)?,
            _ => 0,
        };
        start
            .delta(&[vcpu.fd()])?
            .expect_ext("spte_zapped", zapped)
            .with_context(|| format!("round {round}"))?;
        machine.set_slot(SLOT, machine.gpa(100), &memory, SlotKind::Ram)?;
    }
    Ok(())
}

fn read_only() -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let memory = Region::new(PAGE)?;
    let (gva, gpa) = (machine.gva(3), machine.gpa(3));
    memory.write_u64(0, 0x1234_5678);
    vcpu.touch(gva, gpa, 4)?;
    machine.set_slot(SLOT, gpa, &memory, SlotKind::ReadOnly)?;

    let start = Mark::here(&[vcpu.fd()])?;
    for round in 0..3 {
        expect_eq!(
            vcpu.write(gva, 4, 9)?,
            [Event::write(gpa, 4, 9)],
            "round {round}"
        );
        expect_eq!(vcpu.read(gva, 4)?, (0x1234_5678, vec![]), "round {round}");
    }
    expect_eq!(memory.read_u64(0), 0x1234_5678);
    start
        .delta(&[vcpu.fd()])?
        .expect_kvm("mmio_exits", 3)?
        .expect_kvm("pf_mmio_spte_created", 0)?
        .expect_ext("spte_made", 0)?
        .expect_ext("passed", 0)?;

    machine
        .set_slot(SLOT, gpa, &memory, SlotKind::Ram)
        .err()
        .context("RO cannot become RW")?;
    machine.delete_slot(SLOT)?;
    vcpu.touch(gva, gpa, 4)
}
