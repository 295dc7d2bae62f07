// SPDX-License-Identifier: GPL-2.0
//! ioeventfds on the MMIO bus: exactly the writes that match signal, all others exit.

use anyhow::{Result, ensure};
use iced_x86::code_asm as asm;
use kvm_bindings::kvm_regs;

use crate::guest::{Bus, Doorbell, Event, Machine, Match, Mode, PAGE, Vcpu};
use crate::host::{Modes, Vendor, extension_enabled, fast_path};
use crate::stats::{Mark, with_sptes};
use crate::tap::note;
use crate::{expect_eq, skip};

const MATCH: &str = "handle_mmio_page_fault_common: \
    a doorbell signals once for each write that matches";
const WILDCARD: &str = "handle_ept_misconfig and its SVM counterpart: \
    a zero-length doorbell signals once for each write, and RIP moves by one instruction";

const WHOLE: &str = "src/exit.rs: \
    an instruction that signals a zero-length doorbell does everything else, too";

const REWIRED: &str = "src/pure/doorbell.rs: \
    a write signals the doorbell that KVM's own search finds, whatever was there before";

const VACANT: &str = "src/pure/doorbell.rs: \
    an address without a device is found to have one as soon as it has";

crate::test_table! {
    doorbell_datamatch: MATCH => datamatch(),
    doorbell_two_values: MATCH => two_values(),
    doorbell_rewired: REWIRED => rewired(),
    doorbell_device_in_front: REWIRED => device_in_front(),
    doorbell_one_of_a_page: REWIRED => one_of_a_page(),
    doorbell_many: REWIRED => many(),
    doorbell_at_vacant_address: VACANT => at_vacant_address(),
    doorbell_length: MATCH => length(),
    doorbell_wildcard: WILDCARD => wildcard(),
    doorbell_wildcard_pae: WILDCARD => wildcard_of(Code::Flat),
    doorbell_wildcard_segments: WILDCARD => wildcard_of(Code::Segmented),
    doorbell_wildcard_read: WILDCARD => wildcard_read(Code::Long),
    doorbell_wildcard_read_pae: WILDCARD => wildcard_read(Code::Flat),
    doorbell_wildcard_read_segments: WILDCARD => wildcard_read(Code::Segmented),
    doorbell_wildcard_more_than_a_store: WHOLE => wildcard_more_than_a_store(),
    doorbell_wildcard_unknown_insn: WHOLE => wildcard_unknown_insn(),
}

const VALUE: u64 = 0x8877_6655_4433_2211;

fn datamatch() -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    for (page, size) in (1..).zip([1u8, 2, 4, 8]) {
        let (gva, gpa, len) = (machine.gva(page), machine.gpa(page), usize::from(size));
        let value = VALUE & (u64::MAX >> (64 - 8 * u32::from(size)));
        let bell = machine.doorbell(
            Bus::Mmio(gpa + 0x10),
            Match::Data {
                len: size.into(),
                value,
            },
        )?;

        let start = Mark::here(&[vcpu.fd()])?;
        for _ in 0..3 {
            expect_eq!(vcpu.write(gva + 0x10, size, value)?, [], "{size} bytes");
        }
        expect_eq!(bell.rings()?, 3, "{size} bytes");
        start
            .delta(&[vcpu.fd()])?
            .expect_kvm("mmio_exits", 0)?
            .expect_ext("faults", with_sptes(2)?)?
            .expect_ext("spte_made", with_sptes(1)?)?
            .expect_ext("passed", 0)?;

        let other = value ^ 1;
        let exit = [Event::write(gpa + 0x10, len, other)];
        expect_eq!(vcpu.write(gva + 0x10, size, other)?, exit, "another value");
        let wrong = if size == 1 { 2 } else { size / 2 };
        let exit = [Event::write(gpa + 0x10, wrong.into(), value)];
        expect_eq!(
            vcpu.write(gva + 0x10, wrong, value)?,
            exit,
            "another length"
        );
        let exit = [Event::write(gpa + 0x18, len, value)];
        expect_eq!(
            vcpu.write(gva + 0x18, size, value)?,
            exit,
            "another address"
        );
        vcpu.touch(gva + 0x10, gpa + 0x10, size)?;
        expect_eq!(bell.rings()?, 0, "{size} bytes");
    }
    Ok(())
}

/// As virtio-mmio registers its queues: one address, a value for each.
fn two_values() -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let (gva, gpa) = (machine.gva(1) + 0x50, machine.gpa(1) + 0x50);
    let bells = [0, 1].map(|value| machine.doorbell(Bus::Mmio(gpa), Match::Data { len: 4, value }));
    let [zero, one] = bells;
    let (zero, one) = (zero?, one?);
    for value in [0, 1, 1, 0, 1] {
        expect_eq!(vcpu.write(gva, 4, value)?, []);
    }
    expect_eq!(vcpu.write(gva, 4, 2)?, [Event::write(gpa, 4, 2)]);
    expect_eq!((zero.rings()?, one.rings()?), (2, 3));
    Ok(())
}

/// What the vCPU remembers of a doorbell must not outlive it, nor the place that it has on the bus.
fn rewired() -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let (gva, gpa) = (machine.gva(1) + 0x50, machine.gpa(1) + 0x50);
    let kind = Match::Data { len: 4, value: 7 };
    let ring = |vcpu: &mut Vcpu, bell: &Doorbell| -> Result<()> {
        for _ in 0..3 {
            expect_eq!(vcpu.write(gva, 4, 7)?, []);
        }
        expect_eq!(bell.rings()?, 3);
        Ok(())
    };

    let mut first = machine.doorbell(Bus::Mmio(gpa), kind)?;
    ring(&mut vcpu, &first)?;

    // Others before it on the bus, then none.
    let before: Vec<_> = (0..3)
        .map(|n| machine.doorbell(Bus::Mmio(machine.gpa(0) + 16 * n), kind))
        .collect::<Result<_>>()?;
    ring(&mut vcpu, &first)?;
    for mut bell in before {
        expect_eq!(bell.rings()?, 0);
        bell.remove(machine.vm())?;
        ring(&mut vcpu, &first)?;
    }

    // Another in its place.
    first.remove(machine.vm())?;
    let mut second = machine.doorbell(Bus::Mmio(gpa), kind)?;
    ring(&mut vcpu, &second)?;
    expect_eq!(first.rings()?, 0);

    // None in its place; and, with the same devices on the bus as at first, one again.
    second.remove(machine.vm())?;
    expect_eq!(vcpu.write(gva, 4, 7)?, [Event::write(gpa, 4, 7)]);
    let third = machine.doorbell(Bus::Mmio(gpa), kind)?;
    ring(&mut vcpu, &third)?;
    expect_eq!(second.rings()?, 0);
    Ok(())
}

/// A device of another kind comes before a doorbell that is known, while the doorbell keeps its
/// number on the bus: writes are the device's, until it goes.
fn device_in_front() -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    vcpu.map_coalesced_ring()?;
    let (gva, gpa) = (machine.gva(1) + 0x50, machine.gpa(1) + 0x50);
    let mut longer = machine.doorbell(Bus::Mmio(gpa - 4), Match::Len(8))?;
    let bell = machine.doorbell(Bus::Mmio(gpa), Match::Len(2))?;
    let ring = |vcpu: &mut Vcpu| -> Result<()> {
        for _ in 0..3 {
            expect_eq!(vcpu.write(gva, 2, 7)?, []);
        }
        expect_eq!(bell.rings()?, 3);
        expect_eq!(vcpu.coalesced_write()?, None);
        Ok(())
    };
    ring(&mut vcpu)?;

    // Of devices that overlap, KVM puts one that begins and ends earlier before the other: the
    // zone comes to be in front of both doorbells, and when the first is gone where that was.
    machine.coalesce(Bus::Mmio(gpa - 8), 10)?;
    longer.remove(machine.vm())?;
    for _ in 0..3 {
        expect_eq!(vcpu.write(gva, 2, 7)?, []);
        expect_eq!(bell.rings()?, 0);
        expect_eq!(vcpu.coalesced_write()?, Some(Event::write(gpa, 2, 7)));
    }

    machine.no_coalesce(Bus::Mmio(gpa - 8), 10)?;
    ring(&mut vcpu)
}

/// A doorbell among places where nothing is, which are written to before it is known, and then in
/// turn with it: what is known of an address, or of a write, is not taken for another's.
fn one_of_a_page() -> Result<()> {
    const BELL: u64 = 0x50;
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let (gva, gpa) = (machine.gva(1), machine.gpa(1));
    let bell = machine.doorbell(Bus::Mmio(gpa + BELL), Match::Len(4))?;
    let others = || (0..PAGE).step_by(16).filter(|offset| *offset != BELL);
    let exits = |vcpu: &mut Vcpu, offset: u64| -> Result<()> {
        let exit = [Event::write(gpa + offset, 4, 7)];
        expect_eq!(vcpu.write(gva + offset, 4, 7)?, exit);
        expect_eq!(bell.rings()?, 0, "a write at {offset:#x}");
        Ok(())
    };

    others().try_for_each(|offset| exits(&mut vcpu, offset))?;
    for _ in 0..3 {
        expect_eq!(vcpu.write(gva + BELL, 4, 7)?, []);
    }
    expect_eq!(bell.rings()?, 3);
    for offset in others() {
        // What has rung it elsewhere; then what has not.
        exits(&mut vcpu, offset)?;
        expect_eq!(vcpu.write(gva + BELL, 4, offset)?, [], "after {offset:#x}");
        expect_eq!(bell.rings()?, 1, "after {offset:#x}");
    }
    Ok(())
}

/// An address at which there was nothing gets a doorbell, loses it and gets another.
fn at_vacant_address() -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let (gva, gpa) = (machine.gva(1) + 0x50, machine.gpa(1) + 0x50);
    let exits = |vcpu: &mut Vcpu| -> Result<()> {
        for _ in 0..3 {
            expect_eq!(vcpu.write(gva, 4, 7)?, [Event::write(gpa, 4, 7)]);
            expect_eq!(vcpu.read(gva, 4)?.1, [Event::read(gpa, 4)]);
            // One that only touches the address.
            let exit = [Event::write(gpa - 4, 8, VALUE)];
            expect_eq!(vcpu.write(gva - 4, 8, VALUE)?, exit);
        }
        Ok(())
    };

    exits(&mut vcpu)?;
    let kinds = [Match::Data { len: 4, value: 7 }, Match::Len(4), Match::Any];
    for kind in kinds {
        let mut bell = machine.doorbell(Bus::Mmio(gpa), kind)?;
        for _ in 0..3 {
            expect_eq!(vcpu.write(gva, 4, 7)?, [], "{kind:?}");
        }
        expect_eq!(bell.rings()?, 3, "{kind:?}");
        bell.remove(machine.vm())?;
        exits(&mut vcpu)?;
        expect_eq!(bell.rings()?, 0, "{kind:?}");
    }
    Ok(())
}

/// More doorbells at one address than a vCPU remembers: each is signalled by its own value.
fn many() -> Result<()> {
    const COUNT: u64 = 300;
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let (gva, gpa) = (machine.gva(1), machine.gpa(1));
    let bells: Vec<_> = (0..COUNT)
        .map(|value| machine.doorbell(Bus::Mmio(gpa), Match::Data { len: 4, value }))
        .collect::<Result<_>>()?;

    for round in 0..3 {
        for value in 0..COUNT {
            expect_eq!(vcpu.write(gva, 4, value)?, [], "round {round}");
        }
        for (value, bell) in bells.iter().enumerate() {
            expect_eq!(bell.rings()?, 1, "round {round}, value {value}");
        }
    }
    expect_eq!(vcpu.write(gva, 4, COUNT)?, [Event::write(gpa, 4, COUNT)]);
    Ok(())
}

fn length() -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let (gva, gpa) = (machine.gva(1), machine.gpa(1));
    let bell = machine.doorbell(Bus::Mmio(gpa), Match::Len(4))?;
    for value in [0, VALUE, u64::MAX] {
        expect_eq!(vcpu.write(gva, 4, value)?, []);
    }
    for size in [1, 2, 8] {
        let exit = [Event::write(gpa, size.into(), VALUE)];
        expect_eq!(vcpu.write(gva, size, VALUE)?, exit);
    }
    vcpu.touch(gva, gpa, 4)?;
    expect_eq!(bell.rings()?, 3);
    Ok(())
}

fn wildcard() -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let (gva, gpa) = (machine.gva(1), machine.gpa(1));
    let bell = machine.doorbell(Bus::Mmio(gpa), Match::Any)?;

    // The first write makes the MMIO SPTE, and signals through the emulator.
    expect_eq!(vcpu.write(gva, 4, VALUE)?, []);
    expect_eq!(bell.rings()?, 1);

    let start = Mark::here(&[vcpu.fd()])?;
    for size in [1, 2, 4, 8] {
        expect_eq!(vcpu.write(gva, size, VALUE)?, [], "{size} bytes");
        expect_eq!(bell.rings()?, 1, "{size} bytes");
    }
    // Of those the extension hears nothing.
    let skipped = if Modes::detect()?.skips_wildcards() {
        4
    } else {
        0
    };
    let faults = with_sptes(4)? - skipped;
    start
        .delta(&[vcpu.fd()])?
        .expect_kvm("mmio_exits", 0)?
        .expect_ext("faults", faults)?
        .expect_ext("wildcard", 0)?
        .expect_ext("passed", 0)?
        .expect_hits(faults)?;

    // Beside it there is nothing.
    expect_eq!(
        vcpu.write(gva + 8, 4, VALUE)?,
        [Event::write(gpa + 8, 4, VALUE)]
    );
    expect_eq!(bell.rings()?, 0);
    Ok(())
}

/// Skips what KVM's shortcut for zero-length ioeventfds would leave at a wrong RIP.
pub fn needs_next_rip() -> Result<()> {
    if !Modes::detect()?.knows_next_rip() {
        skip!("the processor does not tell how much KVM is to skip");
    }
    Ok(())
}

/// Whether the fast path takes this code, so that all of an instruction is looked at.
fn is_fast(code: Code) -> bool {
    code != Code::Segmented && extension_enabled() == Some(true) && fast_path() == Some(true)
}

/// What runs in the guest.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Code {
    Long,
    /// 32-bit.
    Flat,
    /// 32-bit, with a segment that is not flat.
    Segmented,
}

impl Code {
    fn vcpu(self) -> Result<(Machine, Vcpu)> {
        let mode = match self {
            Self::Long => Mode::Long,
            Self::Flat | Self::Segmented => Mode::Pae,
        };
        let (machine, vcpu) = Machine::with_vcpu(mode)?;
        if self == Self::Segmented {
            vcpu.limit_data_segment()?;
        }
        Ok((machine, vcpu))
    }
}

fn wildcard_of(code: Code) -> Result<()> {
    if !is_fast(code) {
        needs_next_rip()?;
    }
    let (machine, mut vcpu) = code.vcpu()?;
    let (gva, gpa) = (machine.gva(1), machine.gpa(1));
    let mut bell = machine.doorbell(Bus::Mmio(gpa), Match::Any)?;
    for size in [1, 2, 4].into_iter().cycle().take(9) {
        expect_eq!(vcpu.write(gva, size, 5)?, [], "{size} bytes");
        expect_eq!(bell.rings()?, 1, "{size} bytes");
    }

    // It is forgotten when it goes, and when another comes in its place.
    bell.remove(machine.vm())?;
    expect_eq!(vcpu.write(gva, 4, 5)?, [Event::write(gpa, 4, 5)]);
    let other = machine.doorbell(Bus::Mmio(gpa), Match::Any)?;
    for _ in 0..3 {
        expect_eq!(vcpu.write(gva, 4, 5)?, []);
        expect_eq!((bell.rings()?, other.rings()?), (0, 1));
    }
    Ok(())
}

/// KVM's own shortcut does not look whether the access is a write: it signals, and leaves the
/// register alone. The extension looks.
fn wildcard_read(code: Code) -> Result<()> {
    let (machine, mut vcpu) = code.vcpu()?;
    let (gva, gpa) = (machine.gva(1), machine.gpa(1));
    let bell = machine.doorbell(Bus::Mmio(gpa), Match::Any)?;

    let modes = Modes::detect()?;
    // On Intel the instruction has to be read, as the processor does not tell.
    let looks = !modes.fast_wildcard()
        || is_fast(code)
        || extension_enabled() == Some(true) && modes.vendor == Vendor::Amd;
    for access in ["first", "second"] {
        // The first makes the MMIO SPTE, without which there is no shortcut.
        if access == "second" && !looks {
            needs_next_rip()?;
        }
        let (value, events) = vcpu.read(gva, 4)?;
        let rings = bell.rings()?;
        if access == "first" || looks {
            expect_eq!(events, [Event::read(gpa, 4)], "{access} read");
            expect_eq!(rings, 0, "{access} read");
        } else {
            note(format!(
                "{access} read, not looked at: value {value:#x}, events {events:?}, rings {rings}"
            ));
        }
    }
    Ok(())
}

/// Instructions that write to a zero-length doorbell and do more: KVM's shortcut would skip the
/// rest of them.
fn wildcard_more_than_a_store() -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let (gva, gpa) = (machine.gva(1), machine.gpa(1));
    let bell = machine.doorbell(Bus::Mmio(gpa), Match::Any)?;
    if Modes::detect()?.fast_wildcard()
        && (extension_enabled(), fast_path()) != (Some(true), Some(true))
    {
        skip!("KVM skips the rest of the instruction");
    }
    // The page is known as MMIO from now on.
    expect_eq!(vcpu.write(gva, 4, VALUE)?, []);
    expect_eq!(bell.rings()?, 1);

    let start = kvm_regs {
        rax: 0x1111,
        rcx: 3,
        rdi: gva,
        rsp: gva + 8,
        ..Default::default()
    };
    let stack = kvm_regs { rsp: 0, ..start };
    // Each twice: once it is looked at, then it is known to be refused.
    for round in 0..2 {
        let run = vcpu.exec(stack, |a| a.stosd())?;
        expect_eq!(
            (bell.rings()?, run.regs.rdi),
            (1, gva + 4),
            "stosd, {round}"
        );
        expect_eq!(run.done()?, [], "stosd, {round}");

        let run = vcpu.exec(start, |a| a.push(asm::rax))?;
        expect_eq!((bell.rings()?, run.regs.rsp), (1, gva), "push, {round}");
        expect_eq!(run.done()?, [], "push, {round}");

        let run = vcpu.exec(stack, |a| a.xchg(asm::dword_ptr(asm::rdi), asm::ecx))?;
        ensure!(
            run.regs.rcx != stack.rcx,
            "xchg has loaded nothing, {round}"
        );
        expect_eq!(bell.rings()?, 1, "xchg, {round}");
        expect_eq!(run.done()?, [Event::read(gpa, 4)], "xchg, {round}");

        let run = vcpu.exec(stack, |a| a.rep().stosd())?;
        expect_eq!(
            (bell.rings()?, run.regs.rdi),
            (1, gva + 12),
            "rep stosd, {round}"
        );
        expect_eq!(run.regs.rcx, 0, "rep stosd, {round}");
        let others = [4, 8].map(|offset| Event::write(gpa + offset, 4, stack.rax));
        expect_eq!(run.done()?, others, "rep stosd, {round}");
    }
    Ok(())
}

/// What KVM's emulator does not know: where KVM signals a zero-length doorbell and skips the
/// instruction, so does the extension, as the guest would otherwise be at its end.
fn wildcard_unknown_insn() -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let gva = machine.gva(1);
    let bell = machine.doorbell(Bus::Mmio(machine.gpa(1)), Match::Any)?;
    if !Modes::detect()?.fast_wildcard() {
        skip!("KVM has no shortcut here");
    }
    needs_next_rip()?;
    expect_eq!(vcpu.write(gva, 4, VALUE)?, []);
    expect_eq!(bell.rings()?, 1);

    let start = kvm_regs {
        rdi: gva,
        ..Default::default()
    };
    for round in 0..3 {
        // fstps (%rdi)
        let run = vcpu.exec(start, |a| a.db(&[0xd9, 0x1f]))?;
        expect_eq!(run.done()?, [], "{round}");
        expect_eq!(bell.rings()?, 1, "{round}");
    }
    Ok(())
}
