// SPDX-License-Identifier: GPL-2.0
//! System management mode, which has memslots of its own.

use std::slice;

use anyhow::{Context, Result};
use kvm_bindings::KVM_CAP_MULTI_ADDRESS_SPACE;

use crate::guest::layout::{SCRATCH, SMM_HANDLER};
use crate::guest::{Event, Machine, Mode, PAGE, Region, SMM_SPACE, SlotKind, pattern_value};
use crate::host::{Modes, Vendor};
use crate::stats::{Mark, with_sptes};
use crate::{expect_eq, skip};

const PROVES: &str = "the generation is that of the memslots in use: \
    what is MMIO in one address space may be RAM in the other";

crate::test_table! {
    smm_memslots_long: PROVES => memslots(Mode::Long),
    smm_memslots_flat: PROVES => memslots(Mode::Flat),
}

/// 16-bit code that copies 4 bytes, between addresses of 32 bits.
fn copy(from: u64, to: u64) -> Vec<u8> {
    let with_address = |opcode: u8, address: u64| {
        // Operand size, address size, MOV between EAX and an absolute address.
        let mut code = vec![0x66, 0x67, opcode];
        code.extend((address as u32).to_le_bytes());
        code
    };
    [with_address(0xa1, from), with_address(0xa3, to)].concat()
}

fn memslots(mode: Mode) -> Result<()> {
    const RSM: [u8; 2] = [0x0f, 0xaa];
    let (machine, mut vcpu) = Machine::with_vcpu(mode)?;
    if machine
        .vm()
        .check_extension_raw(KVM_CAP_MULTI_ADDRESS_SPACE.into())
        < 2
    {
        skip!("KVM has no SMM");
    }
    // A hole outside and RAM inside; and the reverse.
    let (hole, ram) = (1, 2);
    let (inside, outside) = (Region::new(PAGE)?, Region::new(PAGE)?);
    inside.write_u64(0, 0x5353);
    outside.write_u64(0, 0x0707);
    machine.set_slot(SMM_SPACE, 0, machine.ram(), SlotKind::Ram)?;
    machine.set_slot(SMM_SPACE | 1, machine.gpa(hole), &inside, SlotKind::Ram)?;
    machine.set_slot(1, machine.gpa(ram), &outside, SlotKind::Ram)?;
    let handler = [
        copy(machine.gpa(hole), SCRATCH),
        copy(machine.gpa(ram), SCRATCH + 8),
        RSM.to_vec(),
    ];
    machine.ram().write(SMM_HANDLER, &handler.concat());

    for round in 0..4 {
        machine.ram().write_u64(SCRATCH, 0);
        machine.ram().write_u64(SCRATCH + 8, 0);
        vcpu.touch(machine.gva(hole), machine.gpa(hole), 4)?;
        expect_eq!(
            vcpu.read(machine.gva(ram), 4)?,
            (0x0707, vec![]),
            "round {round}"
        );

        // Taken before the first instruction of what runs next.
        vcpu.fd().smi().context("KVM_SMI")?;
        let want = [
            Event::read(machine.gpa(ram), 4),
            Event::read(machine.gpa(hole), 4),
        ];
        let (value, events) = vcpu.read(machine.gva(hole), 4)?;
        expect_eq!(events, want, "round {round}");
        expect_eq!(value, pattern_value(machine.gpa(hole), 4), "round {round}");
        expect_eq!(machine.ram().read_u64(SCRATCH), 0x5353, "round {round}");
        expect_eq!(
            machine.ram().read_u64(SCRATCH + 8),
            pattern_value(machine.gpa(ram), 4),
            "round {round}"
        );
    }

    // Intel without EPT cannot run real mode, which SMM begins in: KVM emulates the handler, and
    // there are no SPTEs of its accesses.
    let modes = Modes::detect()?;
    let in_guest = modes.vendor != Vendor::Intel || modes.tdp;

    // The hole inside becomes RAM and a hole again; nothing changes outside.
    let filled = Region::new(PAGE)?;
    filled.write_u64(0, 0x3131);
    let at_hole = Event::read(machine.gpa(hole), 4);
    for round in 0..2 {
        machine.set_slot(SMM_SPACE | 2, machine.gpa(ram), &filled, SlotKind::Ram)?;
        for faults_in in [true, false] {
            let start = Mark::here(&[vcpu.fd()])?;
            vcpu.fd().smi().context("KVM_SMI")?;
            let (_, events) = vcpu.read(machine.gva(hole), 4)?;
            expect_eq!(events, slice::from_ref(&at_hole), "filled, round {round}");
            expect_eq!(machine.ram().read_u64(SCRATCH + 8), 0x3131);
            // The emulator, too, finds RAM where there is an MMIO SPTE yet; there must be none.
            let stale = u64::from(faults_in && in_guest);
            start
                .delta(&[vcpu.fd()])?
                .expect_ext("spte_stale", with_sptes(stale)?)?
                .expect_ext("faults", with_sptes(1 + stale)?)?;
        }

        machine.delete_slot(SMM_SPACE | 2)?;
        vcpu.fd().smi().context("KVM_SMI")?;
        let (_, events) = vcpu.read(machine.gva(hole), 4)?;
        let want = [Event::read(machine.gpa(ram), 4), at_hole.clone()];
        expect_eq!(events, want, "emptied, round {round}");
    }
    Ok(())
}
