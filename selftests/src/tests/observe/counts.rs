// SPDX-License-Identifier: GPL-2.0
//! Counts are exactly what guests did.

use anyhow::Result;
use iced_x86::code_asm as asm;
use kvm_bindings::kvm_regs;

use super::{Heat, PAGE_COUNTS, access, machine_with, values, watched};
use crate::expect_eq;
use crate::guest::layout::SCRATCH;
use crate::guest::paging::SUPERVISOR;
use crate::guest::{Bus, Match, Vcpu};
use crate::host::{self, Modes};
use crate::stats::device::Device;
use crate::tap::Test;

const EXACT: &str = "the statistics file: each access is counted where it belongs, once";

pub const TESTS: &[Test] = &[
    Test {
        name: "observe_sizes",
        proves: EXACT,
        run: sizes,
    },
    Test {
        name: "observe_vms_and_vcpus",
        proves: EXACT,
        run: vms_and_vcpus,
    },
    Test {
        name: "observe_in_kernel",
        proves: EXACT,
        run: in_kernel,
    },
    Test {
        name: "observe_takers",
        proves: EXACT,
        run: takers,
    },
    Test {
        name: "observe_wildcard",
        proves: EXACT,
        run: wildcard,
    },
    Test {
        name: "observe_emulated",
        proves: "the statistics file: direction and size of what only the emulator knows",
        run: emulated,
    },
    Test {
        name: "observe_last_access",
        proves: "heat: the last access to a page, and the time that all took",
        run: last_access,
    },
    Test {
        name: "observe_on_off_on",
        proves: "heat: only what happens while it is on is recorded, the rest stays",
        run: on_off_on,
    },
    Test {
        name: "observe_bound",
        proves: "heat: no more pages than the limit, the rest is counted as dropped",
        run: bound,
    },
];

/// Three writes and two reads of each size, each size on a page of its own. The first access to a
/// page is no MMIO fault yet.
fn sizes() -> Result<()> {
    let (_heat, device, machine, mut vcpu) = watched(Heat::on()?)?;
    for (page, size) in (1..).zip([1, 2, 4, 8]) {
        access(&machine, &mut vcpu, page, size, (3, 2))?;
    }

    let vms = device.my_vms()?;
    expect_eq!(vms.len(), 1);
    let seen = &vms[0].vcpus[0];
    seen.expect_balance()?;
    expect_eq!(seen.pages.len(), 4);
    for page in 1..=4 {
        let fields = seen.page(machine.gpa(page));
        let counts = values(&fields, PAGE_COUNTS);
        expect_eq!(counts, [5, 2, 2, 0, 4, 1], "page {page}");
    }
    for size in ["1", "2", "4", "8"] {
        let names = [&*format!("read_{size}"), &*format!("write_{size}")];
        expect_eq!(values(&seen.fields, names), [2, 2], "{size} bytes");
    }
    let names = [
        "read_other",
        "write_other",
        "direction_unknown",
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
            vcpu.expect_balance()?;
            expect_eq!(vcpu.fields["vcpu"], id as u64);
            for page in 0..2 {
                let fields = vcpu.page(machine.gpa(page));
                let what = format!("VM {n}, vCPU {id}, page {page}");
                expect_eq!(fields.get("count"), Some(&count(n, id, page)), "{what}");
                let [userspace, faulted_in, writes] =
                    values(&fields, ["userspace", "faulted_in", "writes"]);
                expect_eq!(userspace + faulted_in, count(n, id, page), "{what}");
                expect_eq!(userspace, writes, "{what}");
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
    let names = ["count", "kernel", "userspace", "faulted_in", "writes"];
    expect_eq!(values(&fields, names), [6, 3, 2, 1, 5]);
    Ok(())
}

/// Each page is known, and each kind of instruction, before the accesses that are counted.
fn takers() -> Result<()> {
    let (_heat, device, machine, mut vcpu) = watched(Heat::off()?)?;
    let data = Match::Data { len: 4, value: 0 };
    let bell = machine.doorbell(Bus::Mmio(machine.gpa(1)), data)?;
    machine.coalesce(Bus::Mmio(machine.gpa(2)), 8)?;
    let mut round = |[bells, rings, writes, reads]: [u64; 4]| -> Result<[u64; 3]> {
        for _ in 0..bells {
            vcpu.write(machine.gva(1), 4, 0)?;
        }
        access(&machine, &mut vcpu, 2, 4, (rings, 0))?;
        access(&machine, &mut vcpu, 3, 4, (writes, reads))?;

        let vms = device.my_vms()?;
        let vcpu = &vms[0].vcpus[0];
        vcpu.expect_balance()?;
        let names = ["fast_ioeventfd", "fast_kernel", "fast_userspace"];
        Ok(values(&vcpu.fields, names))
    };

    let before = round([2, 2, 2, 2])?;
    let after = round([7, 6, 4, 1])?;
    let grown: Vec<u64> = after.iter().zip(before).map(|(a, b)| a - b).collect();
    let expected = if host::fast_path() == Some(true) {
        [7, 6, 5]
    } else {
        [0, 0, 0]
    };
    expect_eq!(grown, expected);
    expect_eq!(bell.rings()?, 9);
    Ok(())
}

fn wildcard() -> Result<()> {
    let (_heat, device, machine, mut vcpu) = watched(Heat::on()?)?;
    let bell = machine.doorbell(Bus::Mmio(machine.gpa(1)), Match::Any)?;
    access(&machine, &mut vcpu, 1, 4, (6, 0))?;
    expect_eq!(bell.rings()?, 6);

    let skipped = if Modes::detect()?.ext_skips_wildcards() {
        5
    } else {
        0
    };
    let vms = device.my_vms()?;
    let vcpu = &vms[0].vcpus[0];
    let fields = vcpu.page(machine.gpa(1));
    let names = ["count", "kernel", "wildcard", "writes", "faulted_in"];
    expect_eq!(values(&fields, names), [6, 5, skipped, 5 - skipped, 1]);
    expect_eq!(vcpu.fields["wildcard"], skipped);
    Ok(())
}

/// Instructions that the fast path never takes. Each page is touched once before.
fn emulated() -> Result<()> {
    let (_heat, device, machine, mut vcpu) = watched(Heat::on()?)?;
    for page in 1..=4 {
        access(&machine, &mut vcpu, page, 4, (1, 0))?;
    }
    let data = Match::Data { len: 4, value: 0 };
    let _bell = machine.doorbell(Bus::Mmio(machine.gpa(4)), data)?;
    let page = |page| kvm_regs {
        rdi: machine.gva(page),
        ..Default::default()
    };

    // Reads, then writes: a read.
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
    // Only compares.
    vcpu.exec(page(3), |a| a.cmp(asm::qword_ptr(asm::rdi), asm::rax))?
        .done()?;
    // A second source: the first is RAX.
    vcpu.exec(page(3), |a| a.mul(asm::dword_ptr(asm::rdi)))?
        .done()?;
    // Wider than a register.
    vcpu.exec(page(2), |a| a.movaps(asm::xmmword_ptr(asm::rdi), asm::xmm0))?
        .done()?;

    let vms = device.my_vms()?;
    let vcpu = &vms[0].vcpus[0];
    vcpu.expect_balance()?;
    let of = |n, names| values(&vcpu.page(machine.gpa(n)), names);
    let names = ["reads", "writes", "userspace", "kernel", "last_size"];
    expect_eq!(of(1, names), [1, 0, 1, 0, 4]);
    expect_eq!(of(2, names), [0, 2, 2, 0, 16]);
    expect_eq!(of(3, names), [3, 0, 3, 0, 4]);
    // Two operands in memory, and no exit that says which it was.
    expect_eq!(of(4, names), [0, 0, 0, 1, 0]);
    let names = ["read_1", "read_4", "read_8", "write_2", "write_other"];
    expect_eq!(values(&vcpu.fields, names), [1, 2, 1, 1, 1]);
    expect_eq!(vcpu.fields["direction_unknown"], 1);
    Ok(())
}

fn last_access() -> Result<()> {
    const UNKNOWN: u64 = 255;
    let (_heat, device, machine, mut vcpu) = watched(Heat::on()?)?;
    let page =
        |device: &Device| -> Result<_> { Ok(device.my_vms()?[0].vcpus[0].page(machine.gpa(1))) };
    access(&machine, &mut vcpu, 1, 2, (1, 0))?;
    let mut before = page(&device)?;
    let names = ["last_size", "last_width", "last_direction", "last_outcome"];
    expect_eq!(values(&before, names), [0, UNKNOWN, 0, 5]);

    for (value, bits) in [(0, 0), (1, 1), (0x80, 8), (0xffff_ffff_8000, 16)] {
        vcpu.write(machine.gva(1), 2, value)?;
        let now = page(&device)?;
        let fast = now["fast"] > before["fast"];
        let (width, outcome) = if fast { (bits, 1) } else { (UNKNOWN, 3) };
        expect_eq!(values(&now, names), [2, width, 2, outcome], "{value:#x}");
        expect_eq!(now["cycles"] > before["cycles"], true);
        expect_eq!(now["last_tsc"] > before["last_tsc"], true);
        before = now;
    }
    vcpu.touch(machine.gva(1), machine.gpa(1), 8)?;
    let [size, width, direction, _] = values(&page(&device)?, names);
    expect_eq!([size, width, direction], [8, UNKNOWN, 1]);
    Ok(())
}

fn on_off_on() -> Result<()> {
    let (heat, device, machine, mut vcpu) = watched(Heat::off()?)?;
    let mut total = 0;
    let mut seen = 0;
    for (on, count) in [(false, 3), (true, 4), (false, 5), (true, 6), (false, 7)] {
        heat.set(on)?;
        access(&machine, &mut vcpu, 1, 4, (count, 0))?;
        total += count;
        seen += if on { count } else { 0 };

        let snapshot = device.snapshot()?;
        expect_eq!(snapshot.flags & 1, u32::from(on));
        let vms = device.my_vms()?;
        let vcpu = &vms[0].vcpus[0];
        let names = ["count", "writes", "userspace", "faulted_in"];
        let fields = values(&vcpu.page(machine.gpa(1)), names);
        expect_eq!(fields, [seen, seen, seen, 0], "after {total}");
        // What the emulator did is not found out while heat is off.
        let names = ["write_4", "direction_unknown", "heat_dropped"];
        let [known, unknown, dropped] = values(&vcpu.fields, names);
        expect_eq!((known + unknown, dropped), (total - 1, 0));
    }
    Ok(())
}

fn bound() -> Result<()> {
    const MORE: u64 = 10;
    let _heat = Heat::on()?;
    let device = Device::open()?;
    let (machine, mut vcpus) = machine_with(2)?;
    let limit = u64::from(device.snapshot()?.pages_per_vcpu);
    expect_eq!(limit, 256);
    for page in 0..limit + MORE {
        let (gva, gpa) = (machine.gva(page), machine.gpa(page));
        machine.tables().map(gva, gpa, SUPERVISOR);
    }
    let sweep = |vcpu: &mut Vcpu, pages| -> Result<()> {
        (0..pages).try_for_each(|page| access(&machine, vcpu, page, 4, (1, 0)))
    };
    // The second vCPU has room of its own, to the last page.
    for _ in 0..2 {
        sweep(&mut vcpus[0], limit + MORE)?;
        sweep(&mut vcpus[1], limit)?;
    }

    let vms = device.my_vms()?;
    expect_eq!(vms[0].fields["heat_dropped"], 2 * MORE);
    for (vcpu, dropped) in vms[0].vcpus.iter().zip([2 * MORE, 0]) {
        vcpu.expect_balance()?;
        expect_eq!(vcpu.fields["heat_dropped"], dropped);
        expect_eq!(vcpu.pages.len() as u64, limit);
        for (n, page) in (0..).zip(&vcpu.pages) {
            expect_eq!((page["gpa"], page["count"]), (machine.gpa(n), 2));
        }
    }
    Ok(())
}
