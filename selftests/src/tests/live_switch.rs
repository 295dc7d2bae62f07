// SPDX-License-Identifier: GPL-2.0
//! The extension is turned off and on while a VM lives.

use anyhow::{Context, Result};
use iced_x86::code_asm as asm;
use kvm_bindings::kvm_regs;

use crate::guest::layout::SCRATCH;
use crate::guest::paging::SUPERVISOR;
use crate::guest::vcpu::load_cr3;
use crate::guest::{Event, Machine, Mode, PAGE, Region, SlotKind, Vcpu, operand};
use crate::stats::{Mark, with_sptes};
use crate::{expect_eq, host, skip};

const SAME: &str = "the switch: guests see the same, and only the side that is on counts";
const STALE: &str = "the switch: what one side cached is not used after the other was on";

crate::test_table! {
    switch_counters: SAME => counters(),
    switch_cr3: STALE => cr3(Mode::Long),
    switch_cr3_legacy: STALE => cr3(Mode::Legacy),
    switch_slots: STALE => slots(),
    switch_pending_read: SAME => pending_read(),
}

/// Switches, and puts the switch back at the end.
pub(super) struct Switch {
    before: bool,
}

impl Switch {
    pub(super) fn new() -> Result<Self> {
        match host::extension_enabled() {
            Some(before) => Ok(Self { before }),
            None => skip!("the extension is not loaded"),
        }
    }

    pub(super) fn set(&self, enabled: bool) -> Result<()> {
        host::set_extension(enabled).with_context(|| format!("switching to {enabled}"))?;
        expect_eq!(host::extension_enabled(), Some(enabled));
        Ok(())
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        // `tap::run` tries again, and reports.
        let _ = host::set_extension(self.before);
    }
}

fn counters() -> Result<()> {
    const PAGES: u64 = 4;
    let switch = Switch::new()?;
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let touch_all = |vcpu: &mut Vcpu| -> Result<()> {
        (0..PAGES).try_for_each(|page| vcpu.touch(machine.gva(page), machine.gpa(page), 4))
    };
    touch_all(&mut vcpu)?;
    for enabled in [false, true, false, true, true, false, false, true] {
        switch.set(enabled)?;
        let start = Mark::here(&[vcpu.fd()])?;
        touch_all(&mut vcpu)?;
        let faults = with_sptes(PAGES)?;
        // SPTEs are the same on both sides, so none is made again. `expect_ext` wants 0 of
        // whatever is off.
        start
            .delta(&[vcpu.fd()])?
            .expect_kvm("mmio_exits", PAGES)?
            .expect_kvm("pf_mmio_spte_created", 0)?
            .expect_ext("faults", faults)?
            .expect_ext("spte_made", 0)?
            .expect_ext("spte_stale", 0)?
            .expect_ext("passed", 0)?
            .expect_hits(faults)?;
    }
    Ok(())
}

/// A CR3 switch that the side which is off does not see.
fn cr3(mode: Mode) -> Result<()> {
    let switch = Switch::new()?;
    let (machine, mut vcpu) = Machine::with_vcpu(mode)?;
    let (gva, gpa) = (machine.gva(1), machine.gpa(1));
    // RAM in the place of one page, and another MMIO page in that of the next.
    let next = [machine.gpa(2), machine.gpa(7)];
    let second = machine.new_tables();
    second.map(gva, SCRATCH, SUPERVISOR);
    second.map(gva + PAGE, next[1], SUPERVISOR);
    machine.ram().write_u64(SCRATCH, 0x99);
    let switch_root = |vcpu: &mut Vcpu, root: u64| -> Result<()> {
        let regs = kvm_regs {
            rsi: root,
            ..Default::default()
        };
        let run = vcpu.exec(regs, |a| load_cr3(a, mode))?;
        expect_eq!(run.done()?, [] as [Event; 0]);
        Ok(())
    };
    for cached_by in [true, false] {
        switch.set(cached_by)?;
        vcpu.touch(gva + PAGE, next[0], 4)?;
        vcpu.touch(gva, gpa, 4)?;
        vcpu.touch(gva, gpa, 4)?;
        switch.set(!cached_by)?;
        switch_root(&mut vcpu, second.root())?;
        switch.set(cached_by)?;
        vcpu.touch(gva + PAGE, next[1], 4)?;
        // A string move, because its translation is not that of the fault.
        let regs = kvm_regs {
            rdi: gva,
            rcx: 0x55,
            ..Default::default()
        };
        let run = vcpu.exec(regs, |a| a.mov(asm::dword_ptr(operand(mode, 8)), asm::ecx))?;
        expect_eq!(
            run.done()?,
            [] as [Event; 0],
            "cached by the extension: {cached_by}"
        );
        expect_eq!(
            vcpu.read(gva, 4)?,
            (0x99, vec![]),
            "cached by the extension: {cached_by}"
        );
        // Back, where an MMIO SPTE is, whose fault says nothing but the linear address.
        vcpu.touch(gva + PAGE, next[1], 4)?;
        switch.set(!cached_by)?;
        switch_root(&mut vcpu, machine.tables().root())?;
        switch.set(cached_by)?;
        vcpu.touch(gva + PAGE, next[0], 4)?;
        vcpu.touch(gva, gpa, 4)?;
    }
    Ok(())
}

/// Slot changes that the side which is off does not see.
fn slots() -> Result<()> {
    let switch = Switch::new()?;
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let (gva, gpa) = (machine.gva(1), machine.gpa(1));
    let memory = Region::new(PAGE)?;
    memory.write_u64(0, 0x66);
    for cached_by in [true, false, true] {
        switch.set(cached_by)?;
        vcpu.touch(gva, gpa, 4)?;
        switch.set(!cached_by)?;
        machine.set_slot(1, gpa, &memory, SlotKind::Ram)?;
        switch.set(cached_by)?;
        expect_eq!(
            vcpu.read(gva, 4)?,
            (0x66, vec![]),
            "cached by the extension: {cached_by}"
        );
        switch.set(!cached_by)?;
        machine.delete_slot(1)?;
        switch.set(cached_by)?;
        vcpu.touch(gva, gpa, 4)?;
    }
    Ok(())
}

/// A read that one side began is finished by the other.
fn pending_read() -> Result<()> {
    let switch = Switch::new()?;
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let (gva, gpa) = (machine.gva(1), machine.gpa(1));
    vcpu.touch(gva, gpa, 4)?;
    for begun_by in [true, false] {
        switch.set(begun_by)?;
        expect_eq!(vcpu.begin_read(gva, 4)?, Some(Event::read(gpa, 4)));
        switch.set(!begun_by)?;
        expect_eq!(vcpu.step()?, None);
        let regs = vcpu.fd().get_regs().context("KVM_GET_REGS")?;
        expect_eq!(regs.rax, crate::guest::pattern_value(gpa, 4));
    }
    Ok(())
}
