// SPDX-License-Identifier: GPL-2.0
//! Interrupts and exceptions that come while an access waits for userspace, and whose delivery is
//! itself an MMIO access.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use kvm_bindings::kvm_regs;
use kvm_ioctls::VcpuExit;

use super::program::{LOAD, STORE, code_page, events_of, finish, prepared, regs_for, start_with};
use super::ways::{each_way, each_way_undisturbed};
use crate::expect_eq;
use crate::guest::{Event, Fault, Vcpu};
use crate::host::{Modes, Vendor};
use crate::kick::Kick;
use crate::tap::note;

const LATER: &str = "retirement: an event that comes during an access is delivered behind it";
const DELIVERY: &str = "gate: a fault of the delivery of an event is no access by the instruction \
    at RIP";

crate::test_table! {
    fast_event_pending_nmi: LATER => pending(Kind::Nmi),
    fast_event_pending_interrupt: LATER => pending(Kind::Interrupt),
    fast_event_window: "retirement: the interrupt window opens when it does with the emulator"
        => window(),
    fast_event_stack_interrupt: DELIVERY => delivery(Kind::Interrupt, Table::Stack),
    fast_event_stack_exception: DELIVERY => delivery(Kind::Exception, Table::Stack),
    fast_event_idt_interrupt: DELIVERY => delivery(Kind::Interrupt, Table::Idt),
    fast_event_idt_exception: DELIVERY => delivery(Kind::Exception, Table::Idt),
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Nmi,
    Interrupt,
    Exception,
}

impl Kind {
    /// None of them has an error code.
    const fn vector(self) -> u8 {
        match self {
            Self::Nmi => 2,
            Self::Interrupt => 31,
            // #UD
            Self::Exception => 6,
        }
    }

    /// Has the event delivered as soon as the vCPU runs the guest.
    pub(super) fn inject(self, vcpu: &Vcpu) -> Result<()> {
        if let Self::Nmi = self {
            return vcpu.fd().nmi().context("KVM_NMI");
        }
        let mut events = events_of(vcpu)?;
        if let Self::Interrupt = self {
            events.interrupt.injected = 1;
            events.interrupt.nr = self.vector();
        } else {
            events.exception.injected = 1;
            events.exception.nr = self.vector();
        }
        vcpu.fd()
            .set_vcpu_events(&events)
            .context("KVM_SET_VCPU_EVENTS")
    }
}

/// RFLAGS.IF: VMX injects no interrupt without it.
const IF: u64 = 1 << 9;

/// The event comes while userspace handles the access; then the program goes on.
fn pending(kind: Kind) -> Result<()> {
    // iretq
    const IRET: [u8; 2] = [0x48, 0xcf];
    for code in [STORE, LOAD] {
        each_way(|_| {
            let (machine, mut vcpu, at) = prepared(&code)?;
            let back = code_page(1);
            machine.ram().write(back, &IRET);
            start_with(&mut vcpu, regs_for(&machine), at, IF)?;
            let access = vcpu.step()?;
            kind.inject(&vcpu)?;
            let events = finish(&mut vcpu)?;
            let [Event::Fault(Fault { vector, .. })] = events[..] else {
                bail!("{events:?}: wanted the event alone");
            };
            expect_eq!(vector, kind.vector());
            // The handler is done with AL.
            let regs = vcpu.fd().get_regs().context("KVM_GET_REGS")?;
            expect_eq!(machine.ram().read_u64(regs.rsp), at + code.len() as u64);

            vcpu.fd()
                .set_regs(&kvm_regs { rip: back, ..regs })
                .context("KVM_SET_REGS")?;
            expect_eq!(finish(&mut vcpu)?, []);
            let last = vcpu.fd().get_regs().context("KVM_GET_REGS")?;
            Ok((access, regs, last))
        })?;
    }
    Ok(())
}

/// One exit, with RIP; an access is answered.
pub(super) fn exit(vcpu: &mut Vcpu) -> Result<String> {
    /// Far more than any exit takes.
    const LIMIT: Duration = Duration::from_millis(500);
    let _kick = Kick::after(LIMIT)?;
    let exit = match vcpu.fd_mut().run() {
        Ok(VcpuExit::MmioRead(gpa, data)) => {
            data.fill(0xa5);
            format!("read {gpa:#x} {}", data.len())
        }
        Ok(VcpuExit::InternalError) => {
            // SAFETY: the exit says which member of the union it is.
            let error = unsafe { vcpu.fd_mut().get_kvm_run().__bindgen_anon_1.internal };
            format!("internal error {} {:x?}", error.suberror, error.data)
        }
        Ok(exit) => format!("{exit:x?}"),
        Err(e) if e.errno() == libc::EINTR => "no end".to_owned(),
        Err(e) => return Err(e).context("KVM_RUN"),
    };
    let rip = vcpu.fd().get_regs().context("KVM_GET_REGS")?.rip;
    Ok(format!("{exit}, rip {rip:#x}"))
}

/// Asks for the window for an interrupt until it is open, and runs to the end: all exits with RIP,
/// and whether an interrupt could be injected then.
pub(super) fn wait_for_window(vcpu: &mut Vcpu) -> Result<Vec<(String, u8)>> {
    vcpu.fd_mut().get_kvm_run().request_interrupt_window = 1;
    let mut seen = Vec::new();
    loop {
        let exit = exit(vcpu)?;
        let run = vcpu.fd_mut().get_kvm_run();
        let ready = run.ready_for_interrupt_injection;
        run.request_interrupt_window = (!exit.starts_with("IrqWindowOpen")).into();
        let done = exit.starts_with("IoOut");
        seen.push((exit, ready));
        if done {
            return Ok(seen);
        }
    }
}

/// Userspace waits to inject an interrupt until STI lets it; the access is in STI's shadow. Not every
/// processor tells of the window before the program is done.
fn window() -> Result<()> {
    const STI: u8 = 0xfb;
    for access in [STORE, LOAD] {
        let seen = each_way_undisturbed(|_| {
            let (machine, mut vcpu, at) = prepared(&[&[STI], &access[..]].concat())?;
            vcpu.start(regs_for(&machine), at)?;
            wait_for_window(&mut vcpu)
        })?;
        note(format!("{seen:?}"));
        expect_eq!(seen.last().map(|(_, ready)| *ready), Some(1), "{seen:?}");
    }
    Ok(())
}

/// What of the delivery is MMIO.
#[derive(Clone, Copy)]
enum Table {
    Stack,
    Idt,
}

/// The instruction at RIP is a store whose operand is just what the delivery faults on, except that
/// it is not its turn: the event comes first. KVM has no way to deliver through MMIO; what it does
/// instead must be the same.
fn delivery(kind: Kind, table: Table) -> Result<()> {
    // mov [rdi], rax
    const STORE_8: [u8; 3] = [0x48, 0x89, 0x07];
    const STACK: u64 = 0x100;
    let seen = each_way(|_| {
        let (machine, mut vcpu, at) = prepared(&STORE_8)?;
        let mut regs = regs_for(&machine);
        match table {
            Table::Stack => {
                regs.rsp = machine.gva(1) + STACK;
                regs.rdi = regs.rsp - 8;
            }
            Table::Idt => {
                vcpu.change_sregs(|sregs| sregs.idt.base = machine.gva(1))?;
                regs.rdi = machine.gva(1) + 16 * u64::from(kind.vector());
            }
        }
        // The store is known to the fast path, which is tempted.
        vcpu.start(kvm_regs { rsp: 0, ..regs }, at)?;
        let stored = finish(&mut vcpu)?;
        expect_eq!(stored.len(), 1);

        start_with(&mut vcpu, regs, at, IF)?;
        kind.inject(&vcpu)?;
        exit(&mut vcpu)
    })?;
    note(&seen);
    // KVM_INTERNAL_ERROR_DELIVERY_EV; with shadow paging VMX calls every such page fault
    // KVM_INTERNAL_ERROR_SIMUL_EX, see handle_exception_nmi().
    let modes = Modes::detect()?;
    let error = match modes.vendor {
        Vendor::Intel if !modes.tdp => 2,
        _ => 3,
    };
    let wanted = format!("internal error {error} ");
    expect_eq!(seen.starts_with(&wanted), true, "{seen}");
    Ok(())
}
