// SPDX-License-Identifier: GPL-2.0
//! The tracepoints of system kvm_mmio_ext, as tracefs shows them.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use iced_x86::code_asm as asm;
use kvm_bindings::kvm_regs;

use super::heat::Heat;
use super::watch::{access, need_faults, values, watched};
use crate::guest::{Bus, Machine, Match, Mode, PAGE, Region, SlotKind, Vcpu};
use crate::host::{Modes, Vendor};
use crate::stats::Mark;
use crate::stats::device::{Device, Vm};
use crate::tests::fast::irqs_off::{IrqsOff, before};
use crate::{expect_eq, skip};

const EVENTS: &str = "tracepoints: one event for each access, with all that is known of it";

crate::test_table! {
    observe_trace_access: EVENTS => accesses(),
    observe_trace_with_heat: "tracepoints and heat: either is whole with the other" => with_heat(),
    observe_trace_irqs_off: "tracepoints: a doorbell that is answered before interrupts are on says \
            so, and is answered so all the same"
        => irqs_off(),
    observe_heat_irqs_off: "heat: a doorbell of a page that has no record yet takes the ordinary way, \
            which makes one; those after it are answered early and counted"
        => heat_irqs_off(),
    observe_trace_miss: "tracepoints: one event for each MMIO fault that is no access" => misses(),
    observe_kvm_trace: "KVM's tracepoint kvm_mmio: one event for each write, with its bytes and no \
            others (CVE-2017-17741)" => kvm_trace(),
    observe_kvm_page_fault:
        "KVM's tracepoint kvm_page_fault: one event for each nested page fault, also of \
            doorbells that are answered before interrupts are on"
        => kvm_page_fault(),
}

/// The tracepoints of the extension, all of them.
const EXTENSION: &str = "kvm_mmio_ext";

/// A trace buffer of our own, with some events switched on.
struct Trace {
    folder: PathBuf,
    events: &'static str,
}

impl Trace {
    fn start(events: &'static str) -> Result<Self> {
        let name = format!("mmio-test-{}", std::process::id());
        let trace = Self {
            folder: PathBuf::from("/sys/kernel/tracing/instances").join(name),
            events,
        };
        fs::create_dir(&trace.folder).with_context(|| format!("{}", trace.folder.display()))?;
        trace.switch("1")?;
        Ok(trace)
    }

    fn switch(&self, on: &str) -> Result<()> {
        let path = self.folder.join("events").join(self.events).join("enable");
        fs::write(&path, on).with_context(|| format!("{}", path.display()))
    }

    /// Switches the events off and returns what `event` has said that begins with `start`,
    /// without that.
    fn stop_at(&self, event: &str, start: &str) -> Result<Vec<String>> {
        self.switch("0")?;
        let text = fs::read_to_string(self.folder.join("trace")).context("trace")?;
        Ok(events_of(&text, event, start))
    }

    /// The same for what it has said of VM `vm`.
    fn stop(&self, event: &str, vm: u64) -> Result<Vec<String>> {
        self.stop_at(event, &of_vm(vm))
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // A test that fails has said so already.
        let _ = self.switch("0");
        let _ = fs::remove_dir(&self.folder);
    }
}

/// How what the extension's events say of a VM begins.
pub(super) fn of_vm(vm: u64) -> String {
    format!("vm {vm} tgid ")
}

/// What `event` has said that begins with `start`, without that, in a trace that was printed.
pub(super) fn events_of(text: &str, event: &str, start: &str) -> Vec<String> {
    let event = format!("{event}: ");
    text.lines()
        .filter_map(|line| line.split_once(&event)?.1.trim_start().strip_prefix(start))
        .map(str::to_owned)
        .collect()
}

/// The only VM of this process.
pub(super) fn my_vm(device: &Device) -> Result<Vm> {
    device.my_vms()?.pop().context("no VM")
}

/// Writes to userspace and to a doorbell, and a read.
pub(super) fn run_program(machine: &Machine, vcpu: &mut Vcpu) -> Result<()> {
    let data = Match::Data { len: 2, value: 1 };
    let _bell = machine.doorbell(Bus::Mmio(machine.gpa(2)), data)?;
    access(machine, vcpu, 1, 4, (3, 0))?;
    vcpu.touch(machine.gva(1) + 0x18, machine.gpa(1) + 0x18, 8)?;
    for _ in 0..2 {
        expect_eq!(vcpu.write(machine.gva(2), 2, 1)?, []);
    }
    Ok(())
}

/// What it has to leave in a trace: what follows the vCPU, and whether the fast path may have
/// done it. It does not know a page before the first access.
fn expected(machine: &Machine) -> [(String, bool); 6] {
    let line = |gpa, rest| format!("gpa {gpa:#x} {rest}");
    let (one, two) = (machine.gpa(1), machine.gpa(2));
    [
        (line(one, "size 4 write userspace"), false),
        (line(one, "size 4 write userspace"), true),
        (line(one, "size 4 write userspace"), true),
        (line(one + 0x18, "size 8 read userspace"), true),
        (line(two, "size 2 write kernel"), false),
        (line(two, "size 2 write kernel"), true),
    ]
}

/// Fails unless the events are those of run_program() on vCPU 0; returns how many accesses the
/// fast path did.
pub(super) fn expect_program(events: &[String], machine: &Machine) -> Result<u64> {
    let me = format!("{} vcpu 0 ", std::process::id());
    let wanted = expected(machine);
    expect_eq!(events.len(), wanted.len(), "{events:?}");
    let mut fast = 0;
    for (event, (want, may_be_fast)) in events.iter().zip(wanted) {
        let plain = event
            .replace("fast_irqsoff", "kernel")
            .replace("fast_", "")
            .replace("emulated_", "");
        let want = format!("{me}{want}");
        expect_eq!(plain, want);
        let is_fast = event.contains("fast_");
        ensure!(is_fast || event.contains("emulated_"), "{event}");
        ensure!(may_be_fast || !is_fast, "{event}");
        fast += u64::from(is_fast);
    }
    Ok(fast)
}

fn accesses() -> Result<()> {
    let (_heat, device, machine, mut vcpu) = watched(Heat::off()?)?;
    let trace = Trace::start(EXTENSION)?;
    run_program(&machine, &mut vcpu)?;

    let vm = my_vm(&device)?;
    let events = trace.stop("mmio_access", vm.fields["vm"])?;
    let fast = expect_program(&events, &machine)?;
    expect_eq!(fast, vm.vcpus[0].fields["fast"]);
    // Nobody asked for heat.
    expect_eq!(vm.vcpus[0].pages.len(), 0);
    Ok(())
}

fn irqs_off() -> Result<()> {
    const RINGS: u64 = 20;
    let _switch = IrqsOff::on()?;
    let (_heat, device, machine, mut vcpu) = watched(Heat::off()?)?;
    let bell = machine.doorbell(Bus::Mmio(machine.gpa(1)), Match::Len(4))?;
    let mut answered = || -> Result<u64> {
        let start = Mark::here(&[])?;
        for _ in 0..RINGS {
            expect_eq!(vcpu.write(machine.gva(1), 4, 5)?, []);
        }
        let count = start.delta(&[])?.ext("fast_irqsoff")?;
        count.context("no counters")
    };
    for _ in 0..before() {
        answered()?;
    }
    expect_eq!(answered()?, RINGS);

    let trace = Trace::start(EXTENSION)?;
    let traced = answered()?;
    let events = trace.stop("mmio_access", my_vm(&device)?.fields["vm"])?;
    expect_eq!(traced, RINGS);
    expect_eq!(events.len() as u64, RINGS, "{events:?}");
    let said = events
        .iter()
        .filter(|event| event.ends_with("size 4 write fast_irqsoff"));
    expect_eq!(said.count() as u64, traced, "{events:?}");
    expect_eq!(bell.rings()?, (before() + 2) * RINGS);
    Ok(())
}

fn heat_irqs_off() -> Result<()> {
    const RINGS: u64 = 20;
    let _switch = IrqsOff::on()?;
    let (heat, device, machine, mut vcpu) = watched(Heat::off()?)?;
    let bell = machine.doorbell(Bus::Mmio(machine.gpa(1)), Match::Len(4))?;
    let mut ring = |times| -> Result<()> {
        for _ in 0..times {
            expect_eq!(vcpu.write(machine.gva(1), 4, 5)?, []);
        }
        Ok(())
    };
    ring(before())?;
    heat.set(true)?;
    let start = Mark::here(&[])?;
    ring(RINGS)?;
    start
        .delta(&[])?
        .expect_ext("fast", RINGS)?
        .expect_ext("fast_irqsoff", RINGS - 1)?;
    let page = my_vm(&device)?.vcpus[0].page(machine.gpa(1));
    expect_eq!(values(&page, ["count", "writes", "kernel"]), [RINGS; 3]);
    expect_eq!(bell.rings()?, before() + RINGS);
    Ok(())
}

fn with_heat() -> Result<()> {
    let (_heat, device, machine, mut vcpu) = watched(Heat::on()?)?;
    let trace = Trace::start(EXTENSION)?;
    let regs = kvm_regs {
        rdi: machine.gva(1),
        ..Default::default()
    };
    let emulated = |vcpu: &mut Vcpu| {
        vcpu.exec(regs, |a| a.add(asm::dword_ptr(asm::rdi), asm::eax))?
            .done()
    };
    run_program(&machine, &mut vcpu)?;
    emulated(&mut vcpu)?;
    emulated(&mut vcpu)?;

    let vm = my_vm(&device)?;
    let events = trace.stop("mmio_access", vm.fields["vm"])?;
    // Off: no events any more, neither of the fast path nor of the emulator.
    access(&machine, &mut vcpu, 1, 4, (3, 3))?;
    emulated(&mut vcpu)?;
    expect_eq!(trace.stop("mmio_access", vm.fields["vm"])?, events);
    // Heat goes on.
    let [count] = values(&my_vm(&device)?.vcpus[0].page(machine.gpa(1)), ["count"]);
    expect_eq!(count, vm.vcpus[0].page(machine.gpa(1))["count"] + 8);
    for page in [1, 2] {
        let at = format!("gpa {:#x}", machine.gpa(page) >> 12);
        let count = events.iter().filter(|event| event.contains(&at)).count();
        let seen = vm.vcpus[0].page(machine.gpa(page));
        expect_eq!(seen["count"], count as u64, "page {page}");
    }
    Ok(())
}

fn misses() -> Result<()> {
    need_faults()?;
    let (_heat, device, machine, mut vcpu) = watched(Heat::off()?)?;
    let trace = Trace::start(EXTENSION)?;
    let memory = Region::new(PAGE).context("memory for a slot")?;
    access(&machine, &mut vcpu, 1, 4, (2, 0))?;
    for _ in 0..3 {
        // Any change makes all MMIO SPTEs stale.
        machine.set_slot(1, machine.gpa(8), &memory, SlotKind::Ram)?;
        access(&machine, &mut vcpu, 1, 4, (2, 0))?;
        machine.delete_slot(1)?;
        access(&machine, &mut vcpu, 1, 4, (2, 0))?;
    }

    let vm = my_vm(&device)?;
    let [stale, retry] = values(&vm.vcpus[0].fields, ["spte_stale", "retry"]);
    let events = trace.stop("mmio_miss", vm.fields["vm"])?;
    expect_eq!(events.len() as u64, stale + retry, "{events:?}");
    ensure!(stale > 0, "nothing was stale");
    let at = if Modes::detect()?.tdp {
        format!("gpa {:#x}", machine.gpa(1))
    } else {
        format!("gva {:#x}", machine.gva(1))
    };
    for (kind, count) in [("stale", stale), ("retry", retry)] {
        let event = format!("{} vcpu 0 {at} {kind}", std::process::id());
        expect_eq!(events.iter().filter(|e| **e == event).count() as u64, count);
    }
    Ok(())
}

fn kvm_trace() -> Result<()> {
    const VALUE: u64 = 0x8877_6655_4433_2211;

    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    // One of the writes rings, and is known to.
    let _bell = machine.doorbell(Bus::Mmio(machine.gpa(1)), Match::Len(4))?;
    for _ in 0..3 {
        expect_eq!(vcpu.write(machine.gva(1), 4, VALUE)?, []);
    }
    let trace = Trace::start("kvm/kvm_mmio")?;
    let mut wanted = Vec::new();
    for round in 0..3 {
        for size in [1, 2, 4, 8] {
            let (gva, gpa) = (machine.gva(1) + 8 * round, machine.gpa(1) + 8 * round);
            vcpu.write(gva, size, VALUE)?;
            let value = VALUE & u64::MAX >> (64 - 8 * u32::from(size));
            wanted.push(format!("{size} gpa {gpa:#x} val {value:#x}"));
        }
    }
    expect_eq!(trace.stop_at("kvm_mmio", "mmio write len ")?, wanted);
    Ok(())
}

fn kvm_page_fault() -> Result<()> {
    const RINGS: usize = 10;

    let modes = Modes::detect()?;
    if !modes.tdp || modes.vendor != Vendor::Amd {
        skip!("KVM shows neither EPT misconfigurations so nor, to tell the page, shadow paging");
    }
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let (gva, gpa) = (machine.gva(1), machine.gpa(1));
    let bell = machine.doorbell(Bus::Mmio(gpa), Match::Len(4))?;
    for _ in 0..3 {
        vcpu.write(gva, 4, 0)?;
    }
    let trace = Trace::start("kvm/kvm_page_fault")?;
    for _ in 0..RINGS {
        vcpu.write(gva, 4, 0)?;
    }
    let events = trace.stop_at("kvm_page_fault", "vcpu ")?;
    let address = format!("address {gpa:#018x} ");
    let here = events.iter().filter(|event| event.contains(&address));
    expect_eq!(here.count(), RINGS);
    expect_eq!(bell.rings()?, RINGS as u64 + 3);
    Ok(())
}
