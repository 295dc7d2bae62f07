// SPDX-License-Identifier: GPL-2.0
//! Counts are exactly what guests did.

use anyhow::{Context, Result, bail};
use iced_x86::code_asm as asm;
use kvm_bindings::kvm_regs;

use super::heat::Heat;
use super::watch::{PAGE_COUNTS, access, machine_with, need_faults, values, watched};
use crate::expect_eq;
use crate::guest::layout::SCRATCH;
use crate::guest::paging::{self, SUPERVISOR};
use crate::guest::{Bus, Event, Machine, Match, Mode, PAGE_FAULT, Vcpu};
use crate::host::{self, Modes};
use crate::stats::Mark;
use crate::stats::device::Device;
use crate::tests::doorbell::needs_next_rip;

const EXACT: &str = "the statistics file: each access is counted where it belongs, once";

crate::test_table! {
    observe_sizes: EXACT => sizes(),
    observe_vms_and_vcpus: EXACT => vms_and_vcpus(),
    observe_in_kernel: EXACT => in_kernel(),
    observe_takers: EXACT => takers(),
    observe_wildcard: EXACT => wildcard(),
    observe_wildcard_segments: EXACT => wildcard_segments(),
    observe_emulated:
        "the statistics file: each read and each write of what only the emulator knows"
        => emulated(),
    observe_second_page_faults: "the statistics file: nothing that no device has seen"
        => second_page_faults(),
}

/// Three writes and two reads of each size, each size on a page of its own.
fn sizes() -> Result<()> {
    let (_heat, device, machine, mut vcpu) = watched(Heat::on()?)?;
    for (page, size) in (1..).zip([1, 2, 4, 8]) {
        access(&machine, &mut vcpu, page, size, (3, 2))?;
    }

    let vms = device.my_vms()?;
    expect_eq!(vms.len(), 1);
    let seen = &vms[0].vcpus[0];
    seen.expect_all_recorded()?;
    expect_eq!(seen.pages.len(), 4);
    for page in 1..=4 {
        let fields = seen.page(machine.gpa(page));
        let counts = values(&fields, PAGE_COUNTS);
        expect_eq!(counts, [5, 2, 3, 0, 5], "page {page}");
    }
    for size in ["1", "2", "4", "8"] {
        let names = [&*format!("read_{size}"), &*format!("write_{size}")];
        expect_eq!(values(&seen.fields, names), [2, 3], "{size} bytes");
    }
    let names = [
        "read_other",
        "write_other",
        "emulated_unseen",
        "heat_dropped",
    ];
    expect_eq!(values(&seen.fields, names), [0, 0, 0, 0]);
    let fast: u64 = seen.pages.iter().map(|page| page["fast"]).sum();
    expect_eq!(fast, seen.fields["fast"]);
    Ok(())
}

fn vms_and_vcpus() -> Result<()> {
    let _heat = Heat::on()?;
    let device = Device::open()?;
    let mut guests = [machine_with(2)?, machine_with(3)?];
    let count = |vm: usize, vcpu: usize, page: u64| 2 + vm as u64 * 7 + vcpu as u64 * 3 + page;
    for (n, (machine, vcpus)) in guests.iter_mut().enumerate() {
        for (id, vcpu) in vcpus.iter_mut().enumerate() {
            for page in 0..2 {
                access(machine, vcpu, page, 4, (count(n, id, page), 0))?;
            }
        }
    }

    let vms = device.my_vms()?;
    expect_eq!(vms.len(), guests.len());
    expect_eq!(vms[0].fields["vm"] < vms[1].fields["vm"], true);
    for (n, (vm, (machine, vcpus))) in vms.iter().zip(&guests).enumerate() {
        expect_eq!(vm.vcpus.len(), vcpus.len());
        for (id, vcpu) in vm.vcpus.iter().enumerate() {
            vcpu.expect_all_recorded()?;
            expect_eq!(vcpu.fields["vcpu"], id as u64);
            for page in 0..2 {
                let fields = vcpu.page(machine.gpa(page));
                let what = format!("VM {n}, vCPU {id}, page {page}");
                let count = count(n, id, page);
                let counts = values(&fields, PAGE_COUNTS);
                expect_eq!(counts, [count, 0, count, 0, count], "{what}");
            }
        }
    }
    Ok(())
}

fn in_kernel() -> Result<()> {
    let (_heat, device, machine, mut vcpu) = watched(Heat::on()?)?;
    let data = Match::Data { len: 4, value: 5 };
    let bell = machine.doorbell(Bus::Mmio(machine.gpa(1)), data)?;
    for value in [5, 5, 5, 6, 5, 6] {
        vcpu.write(machine.gva(1), 4, value)?;
    }
    expect_eq!(bell.rings()?, 4);

    let vms = device.my_vms()?;
    let fields = vms[0].vcpus[0].page(machine.gpa(1));
    expect_eq!(values(&fields, PAGE_COUNTS), [6, 0, 6, 4, 2]);
    Ok(())
}

/// Each page is known, and each kind of instruction, before the accesses that are counted.
fn takers() -> Result<()> {
    need_faults()?;
    let (_heat, device, machine, mut vcpu) = watched(Heat::off()?)?;
    let data = Match::Data { len: 4, value: 0 };
    let bell = machine.doorbell(Bus::Mmio(machine.gpa(1)), data)?;
    machine.coalesce(Bus::Mmio(machine.gpa(2)), 8)?;
    let mut round = |[bells, rings, writes, reads]: [u64; 4]| -> Result<[u64; 4]> {
        for _ in 0..bells {
            vcpu.write(machine.gva(1), 4, 0)?;
        }
        access(&machine, &mut vcpu, 2, 4, (rings, 0))?;
        access(&machine, &mut vcpu, 3, 4, (writes, reads))?;

        let vms = device.my_vms()?;
        let vcpu = &vms[0].vcpus[0];
        vcpu.expect_balance()?;
        let names = ["emulated", "emulated_unseen"];
        let [emulated, unseen] = values(&vcpu.fields, names);
        expect_eq!(unseen, emulated);
        let names = [
            "fast_ioeventfd",
            "fast_kernel",
            "fast_userspace",
            "fast_irqsoff",
        ];
        Ok(values(&vcpu.fields, names))
    };

    let before = round([2, 2, 2, 2])?;
    let start = Mark::here(&[])?;
    let after = round([7, 6, 4, 1])?;
    // How many these are depends on the machine; `fast_irqs_off_rings` has the number.
    let irqsoff = start.delta(&[])?.ext("fast_irqsoff")?;
    let irqsoff = irqsoff.context("no counters")?;
    let grown: Vec<u64> = after.iter().zip(before).map(|(a, b)| a - b).collect();
    let expected = if host::fast_path() == Some(true) {
        [7, 6, 5, irqsoff]
    } else {
        [0, 0, 0, 0]
    };
    expect_eq!(grown, expected);
    expect_eq!(bell.rings()?, 9);
    Ok(())
}

fn wildcard() -> Result<()> {
    let modes = Modes::detect()?;
    let (_heat, device, machine, vcpu) = watched(Heat::on()?)?;
    wildcard_rings(&device, machine, vcpu, modes.skips_wildcards())
}

/// By 32-bit code that the fast path leaves alone, whatever is on.
fn wildcard_segments() -> Result<()> {
    needs_next_rip()?;
    let modes = Modes::detect()?;
    let _heat = Heat::on()?;
    let device = Device::open()?;
    let (machine, vcpu) = Machine::with_vcpu(Mode::Pae)?;
    vcpu.limit_data_segment()?;
    wildcard_rings(&device, machine, vcpu, modes.fast_wildcard())
}

/// Of six rings, the first makes the MMIO SPTE; KVM may take its shortcut for the others.
fn wildcard_rings(device: &Device, machine: Machine, mut vcpu: Vcpu, skips: bool) -> Result<()> {
    let bell = machine.doorbell(Bus::Mmio(machine.gpa(1)), Match::Any)?;
    access(&machine, &mut vcpu, 1, 4, (6, 0))?;
    expect_eq!(bell.rings()?, 6);

    let skipped = if skips { 5 } else { 0 };
    let vms = device.my_vms()?;
    let vcpu = &vms[0].vcpus[0];
    let fields = vcpu.page(machine.gpa(1));
    let names = ["count", "kernel", "wildcard", "writes"];
    expect_eq!(values(&fields, names), [6, 6, skipped, 6 - skipped]);
    vcpu.expect_all_recorded()?;
    expect_eq!(vcpu.fields["wildcard"], skipped);
    Ok(())
}

/// Instructions that the fast path never takes.
fn emulated() -> Result<()> {
    let (_heat, device, machine, mut vcpu) = watched(Heat::on()?)?;
    let data = Match::Data { len: 4, value: 0 };
    let _bell = machine.doorbell(Bus::Mmio(machine.gpa(4)), data)?;
    let page = |page| kvm_regs {
        rdi: machine.gva(page),
        ..Default::default()
    };

    // Reads, then writes.
    vcpu.exec(page(1), |a| a.add(asm::dword_ptr(asm::rdi), asm::eax))?
        .done()?;
    // From memory to the device, in userspace and in the kernel.
    let from_ram = |n| kvm_regs {
        rsi: SCRATCH,
        ..page(n)
    };
    vcpu.exec(from_ram(2), |a| a.movsw())?.done()?;
    vcpu.exec(from_ram(4), |a| a.movsd())?.done()?;
    // From the device to memory.
    let to_ram = kvm_regs {
        rsi: machine.gva(3),
        rdi: SCRATCH,
        ..Default::default()
    };
    vcpu.exec(to_ram, |a| a.movsb())?.done()?;
    // From the device to the device.
    let between = kvm_regs {
        rsi: machine.gva(5),
        ..page(4)
    };
    vcpu.exec(between, |a| a.movsd())?.done()?;
    // Only compares.
    vcpu.exec(page(3), |a| a.cmp(asm::qword_ptr(asm::rdi), asm::rax))?
        .done()?;
    // A second source: the first is RAX.
    vcpu.exec(page(3), |a| a.mul(asm::dword_ptr(asm::rdi)))?
        .done()?;
    // Twice as wide as userspace is asked for.
    vcpu.exec(page(2), |a| a.movaps(asm::xmmword_ptr(asm::rdi), asm::xmm0))?
        .done()?;
    // From the stack, which is memory, and from the device to it.
    vcpu.exec(page(6), |a| {
        a.push(asm::qword_ptr(asm::rdi))?;
        a.pop(asm::qword_ptr(asm::rdi))
    })?
    .done()?;
    // Across two pages.
    let across = kvm_regs {
        rdi: machine.gva(8) - 2,
        ..Default::default()
    };
    let write = |a: &mut asm::CodeAssembler| a.mov(asm::dword_ptr(asm::rdi), asm::eax);
    vcpu.exec(across, write)?.done()?;

    let vms = device.my_vms()?;
    let vcpu = &vms[0].vcpus[0];
    vcpu.expect_all_recorded()?;
    let names = ["reads", "writes", "userspace", "kernel", "last_size"];
    for (page, counts) in [
        (1, [1, 1, 2, 0, 4]),
        (2, [0, 3, 3, 0, 8]),
        (3, [3, 0, 3, 0, 4]),
        (4, [0, 2, 1, 1, 4]),
        (5, [1, 0, 1, 0, 4]),
        (6, [1, 1, 2, 0, 8]),
        (7, [0, 1, 1, 0, 2]),
        (8, [0, 1, 1, 0, 2]),
    ] {
        let fields = vcpu.page(machine.gpa(page));
        expect_eq!(values(&fields, names), counts, "page {page}");
    }
    let names = ["read_1", "read_2", "read_4", "read_8", "read_other"];
    expect_eq!(values(&vcpu.fields, names), [1, 0, 3, 2, 0]);
    let names = ["write_1", "write_2", "write_4", "write_8", "write_other"];
    expect_eq!(values(&vcpu.fields, names), [0, 3, 3, 3, 0]);
    Ok(())
}

/// A write across two pages, the second of which the guest has not mapped at first.
fn second_page_faults() -> Result<()> {
    let (_heat, device, machine, mut vcpu) = watched(Heat::on()?)?;
    let (gva, gpa) = (machine.gva(2), machine.gpa(2));
    let counts = || -> Result<[[u64; 2]; 2]> {
        let vms = device.my_vms()?;
        let Some(vm) = vms.first() else {
            return Ok([[0, 0]; 2]);
        };
        vm.vcpus[0].expect_all_recorded()?;
        let of = |n| vm.vcpus[0].page(machine.gpa(n));
        Ok([1, 2].map(|n| values(&of(n), ["writes", "last_size"])))
    };
    let regs = kvm_regs {
        rdi: gva - 3,
        ..Default::default()
    };
    let write = |a: &mut asm::CodeAssembler| a.mov(asm::dword_ptr(asm::rdi), asm::eax);

    machine.tables().map(gva, gpa, 0);
    // Not all machines load CR2 for an exception that KVM has found.
    match vcpu.exec(regs, write)?.events[..] {
        [Event::Fault(fault)] => {
            let seen = (fault.vector, fault.error_code);
            expect_eq!(seen, (PAGE_FAULT, paging::WRITE));
        }
        ref events => bail!("{events:?}"),
    }
    expect_eq!(counts()?, [[0, 0], [0, 0]]);

    machine.tables().map(gva, gpa, SUPERVISOR);
    vcpu.exec(regs, write)?.done()?;
    expect_eq!(counts()?, [[1, 3], [1, 1]]);
    Ok(())
}
