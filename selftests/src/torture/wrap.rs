// SPDX-License-Identifier: GPL-2.0
//! The generation in MMIO SPTEs comes round.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result};
use kvm_bindings::KVM_CAP_MULTI_ADDRESS_SPACE;

use crate::expect_eq;
use crate::guest::{Machine, Mode, PAGE, Region, SlotKind, Vcpu};
use crate::tap::note;

pub const PROVES: &str = "generation_wrapped: when the generation comes round no older MMIO SPTE \
    matches again, and the vCPUs go on meanwhile";

/// Bits of the generation in an MMIO SPTE.
const GENERATION_BITS: u32 = 18;

const SLOT: u32 = 1;
const OTHER: u32 = 2;

/// An MMIO SPTE, then RAM at its page that nobody touches, then as many changes of another slot as
/// it takes for the generation to be that of the SPTE again. A second vCPU does MMIO all the time.
pub fn generation_wrap() -> Result<()> {
    let mut machine = Machine::new(Mode::Long)?;
    let (mut vcpu, busy) = (machine.add_vcpu()?, machine.add_vcpu()?);
    let (memory, elsewhere) = (Region::new(PAGE)?, Region::new(PAGE)?);
    memory.write_u64(0, 0x77);
    machine.set_slot(OTHER, machine.gpa(100), &elsewhere, SlotKind::Ram)?;

    // KVM advances the generation by the number of address spaces (normal and SMM).
    let spaces = machine
        .vm()
        .check_extension_raw(KVM_CAP_MULTI_ADDRESS_SPACE.into())
        .max(1);
    let changes = (1u64 << GENERATION_BITS) / spaces as u64;
    let end = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        let busy = scope.spawn(|| hammer(&machine, busy, &end));
        vcpu.touch(machine.gva(1), machine.gpa(1), 4)?;
        machine.set_slot(SLOT, machine.gpa(1), &memory, SlotKind::Ram)?;
        let changed = (1..changes).try_for_each(|change| {
            // Changes of flags zap nothing.
            let kinds = [SlotKind::Ram, SlotKind::LogDirty];
            machine.set_slot(
                OTHER,
                machine.gpa(100),
                &elsewhere,
                kinds[change as usize % 2],
            )
        });
        end.store(true, Ordering::SeqCst);
        let touched = busy.join().expect("the vCPU's thread panicked")?;
        note(format!(
            "{changes} changes of memslots, {touched} accesses meanwhile"
        ));
        changed
    })?;
    expect_eq!(vcpu.read(machine.gva(1), 4)?, (0x77, vec![]));
    Ok(())
}

fn hammer(machine: &Machine, mut vcpu: Vcpu, end: &AtomicBool) -> Result<u64> {
    let mut touched = 0;
    while !end.load(Ordering::SeqCst) {
        vcpu.touch(machine.gva(2), machine.gpa(2), 4)
            .context("meanwhile")?;
        touched += 1;
    }
    Ok(touched)
}
