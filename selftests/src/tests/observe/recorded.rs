// SPDX-License-Identifier: GPL-2.0
//! What heat records of pages, and when.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use iced_x86::code_asm as asm;
use kvm_bindings::kvm_regs;

use super::heat::Heat;
use super::watch::{PAGE_COUNTS, access, machine_with, values, watched};
use crate::guest::paging::SUPERVISOR;
use crate::guest::{Bus, Machine, Match, Mode, PAGE, Vcpu};
use crate::host::{self, Modes};
use crate::stats::device::Device;
use crate::tests::live_switch::Switch;
use crate::{expect_eq, skip};

crate::test_table! {
    observe_at_load: "heat: it can be on from the beginning" => at_load(),
    observe_time: "heat: no time is counted twice, and none that userspace takes" => time(),
    observe_last_access: "heat: the last access to a page, and the time that all took"
        => last_access(),
    observe_on_off_on: "heat: only what happens while it is on is recorded, the rest stays"
        => on_off_on(),
    observe_extension_off: "heat: the same whether the extension is switched on or off"
        => extension_off(),
    observe_bound: "heat: no more pages than the limit, the rest is counted as dropped" => bound(),
}

/// The extension was loaded with heat on.
fn at_load() -> Result<()> {
    if host::parameter("kvm_mmio_ext", "heat").as_deref() != Some("Y") {
        skip!("heat is not on");
    }
    let device = Device::open()?;
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let regs = kvm_regs {
        rdi: machine.gva(1),
        ..Default::default()
    };
    vcpu.exec(regs, |a| a.add(asm::dword_ptr(asm::rdi), asm::eax))?
        .done()?;

    let vms = device.my_vms()?;
    let seen = &vms.first().context("nothing is seen of the VM")?.vcpus[0];
    seen.expect_all_recorded()?;
    let counts = values(&seen.page(machine.gpa(1)), PAGE_COUNTS);
    expect_eq!(counts, [2, 1, 1, 0, 2]);
    Ok(())
}

/// Many accesses after one VM exit, and a second one after an exit to userspace: time that is
/// counted twice, or that is userspace's, is more than there was.
fn time() -> Result<()> {
    const ROUNDS: u64 = 16;
    const ELEMENTS: u64 = 140;
    let (_heat, device, machine, mut vcpu) = watched(Heat::on()?)?;
    let page = |page| kvm_regs {
        rdi: machine.gva(page),
        rcx: ELEMENTS,
        ..Default::default()
    };
    let counts = |page| -> Result<[u64; 4]> {
        let vms = device.my_vms()?;
        let vcpu = &vms[0].vcpus[0];
        vcpu.expect_all_recorded()?;
        let names = ["reads", "writes", "kernel", "cycles"];
        Ok(values(&vcpu.page(machine.gpa(page)), names))
    };

    // One element, and many. The host may be busy with something else meanwhile: the least counts.
    machine.coalesce(Bus::Mmio(machine.gpa(1)), PAGE as u32)?;
    vcpu.map_coalesced_ring()?;
    let (mut one, mut many) = (u64::MAX, u64::MAX);
    let mut before = 0;
    for _ in 0..ROUNDS {
        vcpu.exec(page(1), |a| a.stosb())?.done()?;
        let [_, _, _, between] = counts(1)?;
        let start = host::ticks();
        vcpu.exec(page(1), |a| a.rep().stosb())?.done()?;
        let all = host::ticks() - start;
        while vcpu.coalesced_write()?.is_some() {}
        let [_, _, _, after] = counts(1)?;
        ensure!(after - between < all, "{between}, {after}, {all}");
        one = one.min(between - before);
        many = many.min(after - between);
        before = after;
    }
    ensure!(3 * one < many, "{one}, {many}");
    let [_, writes, kernel, _] = counts(1)?;
    let elements = ROUNDS * (1 + ELEMENTS);
    expect_eq!((writes, kernel), (elements, elements));

    let add = |a: &mut asm::CodeAssembler| a.add(asm::dword_ptr(asm::rdi), asm::eax);
    vcpu.exec(page(2), add)?.done()?;
    let [_, _, _, before] = counts(2)?;
    let (start, mut slept) = (host::ticks(), 0);
    let code = vcpu.load(add)?;
    vcpu.start(page(2), code)?;
    while vcpu.step()?.is_some() {
        let before = host::ticks();
        thread::sleep(Duration::from_millis(100));
        slept += host::ticks() - before;
    }
    let all = host::ticks() - start;
    let [reads, writes, kernel, cycles] = counts(2)?;
    expect_eq!((reads, writes, kernel), (2, 2, 0));
    ensure!(before < cycles, "{before}, {cycles}");
    ensure!(
        cycles - before + slept < all,
        "{before}, {cycles}, {slept} of {all}"
    );
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
    expect_eq!(values(&before, names), [2, UNKNOWN, 2, 3]);

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
    let faults = Modes::detect()?.mmio_caching;
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
        let fields = values(&vcpu.page(machine.gpa(1)), PAGE_COUNTS);
        expect_eq!(fields, [seen, 0, seen, 0, seen], "after {total}");
        expect_eq!(vcpu.fields["heat_dropped"], 0);
        // Nobody sees what the emulator does while heat is off, and the first access was no fault
        // of MMIO.
        if faults {
            let [known, unseen] = values(&vcpu.fields, ["write_4", "emulated_unseen"]);
            expect_eq!(known + unseen, total - 1);
        }
    }
    Ok(())
}

fn extension_off() -> Result<()> {
    let (_heat, device, machine, mut vcpu) = watched(Heat::on()?)?;
    let switch = Switch::new()?;
    for (page, on) in [(1, true), (2, false), (3, true), (4, false)] {
        switch.set(on)?;
        let data = Match::Data { len: 4, value: 1 };
        let bell = machine.doorbell(Bus::Mmio(machine.gpa(page)), data)?;
        access(&machine, &mut vcpu, page, 4, (5, 3))?;
        expect_eq!(bell.rings()?, 1);
    }

    let vms = device.my_vms()?;
    let vcpu = &vms[0].vcpus[0];
    vcpu.expect_all_recorded()?;
    for page in 1..=4 {
        let counts = values(&vcpu.page(machine.gpa(page)), PAGE_COUNTS);
        expect_eq!(counts, [8, 3, 5, 1, 7], "page {page}");
    }
    for page in [2, 4] {
        let [fast] = values(&vcpu.page(machine.gpa(page)), ["fast"]);
        expect_eq!(fast, 0, "page {page}");
    }
    Ok(())
}

fn bound() -> Result<()> {
    const MORE: u64 = 10;
    let _heat = Heat::on()?;
    let device = Device::open()?;
    let (machine, mut vcpus) = machine_with(2)?;
    let limit = u64::from(device.snapshot()?.pages_per_vcpu);
    expect_eq!(limit, 512);
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
        vcpu.expect_all_recorded()?;
        expect_eq!(vcpu.fields["heat_dropped"], dropped);
        expect_eq!(vcpu.pages.len() as u64, limit);
        for (n, page) in (0..).zip(&vcpu.pages) {
            expect_eq!((page["gpa"], page["count"]), (machine.gpa(n), 2));
        }
    }
    Ok(())
}
