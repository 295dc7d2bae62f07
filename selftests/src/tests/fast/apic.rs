// SPDX-License-Identifier: GPL-2.0
//! Interrupt controllers in the kernel, which are MMIO as everything else: the local APIC, which all
//! devices come behind, and the I/O APIC, which is one of them.

use anyhow::{Context, Result};
use kvm_bindings::{KVM_CAP_SPLIT_IRQCHIP, kvm_enable_cap};

use super::program::{delta, mark};
use super::ways::each_way;
use crate::guest::paging::SUPERVISOR;
use crate::guest::{Bus, Event, Machine, Match, Mode, Vcpu};
use crate::host::{Modes, Vendor};
use crate::{expect_eq, skip};

const SAME: &str = "dispatch: accesses to the local APIC reach it";

crate::test_table! {
    fast_lapic: SAME => lapic(),
    fast_lapic_moved: "dispatch: a doorbell does not ring where the local APIC is now"
        => lapic_moved(),
    fast_lapic_off: "dispatch: a local APIC that is off is as with the emulator" => lapic_off(),
    fast_ioapic: "dispatch: accesses to the I/O APIC reach it" => ioapic(),
}

const LAPIC: u64 = 0xfee0_0000;
const IOAPIC: u64 = 0xfec0_0000;

const ID: u64 = 0x20;
const VERSION: u64 = 0x30;
const TPR: u64 = 0x80;
const SPURIOUS: u64 = 0xf0;
const IRR: u64 = 0x200;
const ICR: u64 = 0x300;

const APIC_BASE_ENABLE: u64 = 1 << 11;

/// A machine with its local APIC in the kernel and at page 1 of the window.
fn machine() -> Result<(Machine, Vcpu)> {
    const IOAPIC_PINS: u64 = 24;
    let mut machine = Machine::new(Mode::Long)?;
    if !machine.has_irqchip() {
        let mut split = kvm_enable_cap {
            cap: KVM_CAP_SPLIT_IRQCHIP,
            ..Default::default()
        };
        split.args[0] = IOAPIC_PINS;
        machine
            .vm()
            .enable_cap(&split)
            .context("KVM_CAP_SPLIT_IRQCHIP")?;
    }
    machine.tables().map(machine.gva(1), LAPIC, SUPERVISOR);
    let vcpu = machine.add_vcpu()?;
    Ok((machine, vcpu))
}

/// Writes and reads back; returns all that was read, and all exits, of which there are none where
/// the device takes everything.
fn write_and_read(
    vcpu: &mut Vcpu,
    page: u64,
    program: &[Access],
) -> Result<(Vec<u64>, Vec<Event>)> {
    let (mut values, mut events) = (Vec::new(), Vec::new());
    for access in program {
        match *access {
            Access::Write(offset, size, value) => {
                events.extend(vcpu.write(page + offset, size, value)?);
            }
            Access::Read(offset, size) => {
                let (value, more) = vcpu.read(page + offset, size)?;
                values.push(value);
                events.extend(more);
            }
        }
    }
    Ok((values, events))
}

fn set_base(vcpu: &Vcpu, base: u64) -> Result<()> {
    const IS_BOOT_PROCESSOR: u64 = 1 << 8;
    vcpu.change_sregs(|sregs| sregs.apic_base = base | IS_BOOT_PROCESSOR)
}

/// At an offset, of some bytes.
enum Access {
    Write(u64, u8, u64),
    Read(u64, u8),
}

use Access::{Read, Write};

/// Where the processor has APIC accesses of its own they do not come as MMIO faults.
fn lapic() -> Result<()> {
    const SELF_AND_VECTOR: u64 = 1 << 18 | 0x51;
    const PROGRAM: &[Access] = &[
        Write(SPURIOUS, 4, 0x1ff),
        Read(ID, 4),
        Read(VERSION, 4),
        Read(VERSION, 1),
        Read(VERSION, 2),
        Write(TPR, 4, 0x20),
        Read(TPR, 4),
        // An interrupt to itself, which stays pending as long as RFLAGS.IF is clear.
        Write(ICR, 4, SELF_AND_VECTOR),
        Read(IRR + 0x20, 4),
        // Of other sizes and places.
        Write(TPR, 1, 0x30),
        Write(TPR + 2, 2, 0x40),
        Read(TPR, 4),
    ];
    let by_fault = Modes::detect()?.vendor == Vendor::Amd;
    let (values, events) = each_way(|fast| {
        let (machine, mut vcpu) = machine()?;
        write_and_read(&mut vcpu, machine.gva(1), &PROGRAM[..3])?;
        let start = mark(&vcpu)?;
        let seen = write_and_read(&mut vcpu, machine.gva(1), PROGRAM)?;
        if by_fault {
            let fast = if fast { PROGRAM.len() as u64 } else { 0 };
            delta(&start, &vcpu)?.expect_ext("fast", fast)?;
        }
        Ok(seen)
    })?;
    expect_eq!(events, []);
    // TPR; the bit of vector 0x51.
    expect_eq!(values[4..=5], [0x20, 1 << 0x11], "{values:x?}");
    Ok(())
}

/// The doorbell has rung before, and would ring without a search.
fn lapic_moved() -> Result<()> {
    const VALUE: u64 = 0x20;
    each_way(|_| {
        let (machine, mut vcpu) = machine()?;
        let (gva, gpa) = (machine.gva(2), machine.gpa(2));
        let data = Match::Data {
            len: 4,
            value: VALUE,
        };
        let bell = machine.doorbell(Bus::Mmio(gpa + TPR), data)?;
        let mut rings = Vec::new();
        for base in [LAPIC, gpa, LAPIC, gpa] {
            set_base(&vcpu, base | APIC_BASE_ENABLE)?;
            for _ in 0..3 {
                expect_eq!(vcpu.write(gva + TPR, 4, VALUE)?, []);
            }
            rings.push(bell.rings()?);
        }
        expect_eq!(rings, [3, 0, 3, 0]);
        Ok(())
    })
}

/// KVM swallows writes then, and reads are all ones (KVM_X86_QUIRK_LAPIC_MMIO_HOLE).
fn lapic_off() -> Result<()> {
    const ONES: u64 = 0xffff_ffff;
    each_way(|_| {
        let (machine, mut vcpu) = machine()?;
        let gva = machine.gva(1) + TPR;
        for (base, value, want) in [
            (LAPIC | APIC_BASE_ENABLE, 0x20, 0x20),
            (LAPIC, 0x30, ONES),
            (LAPIC | APIC_BASE_ENABLE, 0x40, 0x40),
            (LAPIC, 0x50, ONES),
        ] {
            set_base(&vcpu, base)?;
            for _ in 0..2 {
                expect_eq!(vcpu.write(gva, 4, value)?, [], "base {base:#x}");
                expect_eq!(vcpu.read(gva, 4)?, (want, vec![]), "base {base:#x}");
            }
        }
        Ok(())
    })
}

/// Its registers are a window: the first selects what the second is.
fn ioapic() -> Result<()> {
    const SELECT: u64 = 0;
    const WINDOW: u64 = 0x10;
    const VERSION: u64 = 1;
    const ENTRY: u64 = 0x10 + 2 * 5;
    const MASKED: u64 = 1 << 16;
    const PROGRAM: &[Access] = &[
        Write(SELECT, 4, VERSION),
        Read(SELECT, 4),
        Read(WINDOW, 4),
        Read(WINDOW, 1),
        Read(WINDOW, 2),
        Write(SELECT, 4, ENTRY),
        Write(WINDOW, 4, MASKED | 0x41),
        Read(WINDOW, 4),
        Write(SELECT, 4, ENTRY + 1),
        Write(WINDOW, 4, 0x0300_0000),
        Read(WINDOW, 4),
        Read(WINDOW, 8),
    ];
    if !Machine::offers_irqchip()? {
        skip!("this KVM has no I/O APIC (CONFIG_KVM_IOAPIC)");
    }
    let (values, events) = each_way(|fast| {
        let mut machine = Machine::with_irqchip(Mode::Long)?;
        machine.tables().map(machine.gva(1), IOAPIC, SUPERVISOR);
        let mut vcpu = machine.add_vcpu()?;
        write_and_read(&mut vcpu, machine.gva(1), PROGRAM)?;
        let start = mark(&vcpu)?;
        let seen = write_and_read(&mut vcpu, machine.gva(1), PROGRAM)?;
        let fast = if fast { PROGRAM.len() as u64 } else { 0 };
        delta(&start, &vcpu)?.expect_ext("fast_kernel", fast)?;
        Ok(seen)
    })?;
    expect_eq!(events, []);
    expect_eq!(values[0], VERSION);
    // So many entries, less one.
    expect_eq!(values[1] >> 16, 23, "{values:x?}");
    expect_eq!(values[4..=5], [MASKED | 0x41, 0x0300_0000], "{values:x?}");
    Ok(())
}
