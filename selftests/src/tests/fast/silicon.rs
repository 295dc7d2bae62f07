// SPDX-License-Identifier: GPL-2.0
//! The processor reports what the manuals say, and not what an emulator does: lab/config/silicon.patch.

use anyhow::{Context, Result, bail, ensure};
use kvm_bindings::{
    KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_USE_HW_BP, kvm_guest_debug, kvm_guest_debug_arch,
};
use kvm_ioctls::VcpuExit;

use super::debug::{Watch, is_debugged, set_breakpoint};
use super::program::{
    CODE, LOAD, STORE, code_page, delta, ending, finish, mark, prepared, regs_for, run_at,
    start_with,
};
use super::ways::{Switch, each_way};
use crate::guest::layout::port;
use crate::guest::paging::SUPERVISOR;
use crate::guest::{Bus, Event, Machine, Match, Mode, PAGE, Vcpu};
use crate::host::{self, Modes, Vendor, silicon};
use crate::{expect_eq, skip};

const RF_SET: &str = "gate and retirement: RFLAGS.RF, which a fault sets, does not keep an access \
    from being fast, and is clear after it";

const BREAKPOINT: &str = "retirement: a breakpoint behind an access is hit though the fault has \
    set RFLAGS.RF";

const ASSIST: &str = "decode assists: only bytes that count are taken for the instruction's";

crate::test_table! {
    fast_silicon_resume_flag: RF_SET => resume_flag(),
    fast_silicon_breakpoint_code: BREAKPOINT => breakpoint(Watch::Access),
    fast_silicon_breakpoint_next: BREAKPOINT => breakpoint(Watch::Next),
    fast_silicon_breakpoint_wildcard: BREAKPOINT => breakpoint_wildcard(),
    fast_silicon_guest_debug_code: BREAKPOINT => guest_debug(Watch::Access, false),
    fast_silicon_guest_debug_next: BREAKPOINT => guest_debug(Watch::Next, false),
    fast_silicon_guest_debug_late: BREAKPOINT => guest_debug(Watch::Next, true),
    fast_silicon_no_length:
        "retirement: RIP moves by the length of the instruction that was decoded"
        => no_length(),
    fast_silicon_assist: ASSIST => assist(silicon::BYTES),
    fast_silicon_assist_cut: ASSIST => assist(silicon::BYTES | silicon::CUT),
    fast_silicon_assist_page_end: ASSIST => assist_page_end(),
}

const RF: u64 = 1 << 16;

/// What the processor reports, which is put back at the end.
struct Silicon {
    before: u32,
}

impl Silicon {
    fn only(mask: u32) -> Result<Self> {
        let Some(before) = host::silicon() else {
            skip!("the kernel is not built with lab/config/silicon.patch");
        };
        host::set_silicon(mask).context("the parameter `silicon`")?;
        Ok(Self { before })
    }
}

impl Drop for Silicon {
    fn drop(&mut self) {
        // A test that fails has said so already.
        let _ = host::set_silicon(self.before);
    }
}

fn rflags(vcpu: &Vcpu) -> Result<u64> {
    Ok(vcpu.fd().get_regs().context("KVM_GET_REGS")?.rflags)
}

/// Accesses of each kind, with RF at each exit to userspace and at the end. A load has not retired
/// at its exit: that RF is set shows that the processor does as is demanded of it.
fn resume_flag() -> Result<()> {
    const ROUNDS: u64 = 4;
    let _silicon = Silicon::only(silicon::RF)?;
    for (code, at_exit) in [(STORE, 0), (LOAD, RF)] {
        each_way(|fast| {
            let (machine, mut vcpu, at) = prepared(&code)?;
            let start = mark(&vcpu)?;
            let mut seen = Vec::new();
            for round in 0..ROUNDS {
                vcpu.start(regs_for(&machine), at)?;
                seen.push(vcpu.step()?);
                expect_eq!(rflags(&vcpu)? & RF, at_exit, "{code:x?}, round {round}");
                expect_eq!(vcpu.step()?, None);
                expect_eq!(rflags(&vcpu)? & RF, 0, "{code:x?}, round {round}");
            }
            delta(&start, &vcpu)?
                .expect_ext("fast", if fast { ROUNDS } else { 0 })?
                .expect_ext("refused_context", 0)?;
            Ok(seen)
        })?;
    }
    Ok(())
}

/// A breakpoint of the guest's, in DR7. One at the access is hit before that, and not again when
/// the guest returns to the access with RF set; one at the next instruction is hit behind it.
fn breakpoint(watch: Watch) -> Result<()> {
    let _silicon = Silicon::only(silicon::RF)?;
    for code in [STORE, LOAD] {
        let (events, again, rip, at) = each_way(|fast| {
            let (machine, mut vcpu, at) = prepared(&code)?;
            run_at(&mut vcpu, regs_for(&machine), at)?;
            let (dr0, dr7) = watch.registers(&machine, at);
            set_breakpoint(&vcpu, dr0, dr7)?;
            let start = mark(&vcpu)?;
            let events = run_at(&mut vcpu, regs_for(&machine), at)?;
            let stack = vcpu.fd().get_regs().context("KVM_GET_REGS")?.rsp;

            // Behind the breakpoint at the access, as IRET would go on.
            start_with(&mut vcpu, regs_for(&machine), at, RF)?;
            let again = finish(&mut vcpu)?;
            let accesses = [&events, &again]
                .iter()
                .flat_map(|events| events.iter())
                .filter(|event| event.is_mmio())
                .count() as u64;
            delta(&start, &vcpu)?.expect_ext("fast", if fast { accesses } else { 0 })?;
            Ok((events, again, machine.ram().read_u64(stack), at))
        })?;
        let accessed = watch == Watch::Next;
        expect_eq!(
            (events.iter().any(Event::is_mmio), is_debugged(&events)),
            (accessed, true),
            "{events:?}"
        );
        let stop = if accessed { at + code.len() as u64 } else { at };
        expect_eq!(rip, stop, "{events:?}");
        expect_eq!(
            (again.iter().any(Event::is_mmio), is_debugged(&again)),
            (true, accessed),
            "{again:?}"
        );
    }
    Ok(())
}

/// The same behind a doorbell of zero length, where KVM skips the store that has faulted
/// (patches/7.3/fixes/0010).
fn breakpoint_wildcard() -> Result<()> {
    let _silicon = Silicon::only(silicon::RF)?;
    each_way(|_| {
        let (machine, mut vcpu, at) = prepared(&STORE)?;
        let bell = machine.doorbell(Bus::Mmio(machine.gpa(1)), Match::Any)?;
        expect_eq!(run_at(&mut vcpu, regs_for(&machine), at)?, []);
        let (dr0, dr7) = Watch::Next.registers(&machine, at);
        set_breakpoint(&vcpu, dr0, dr7)?;
        let events = run_at(&mut vcpu, regs_for(&machine), at)?;
        ensure!(is_debugged(&events), "no breakpoint: {events:?}");
        expect_eq!(bell.rings()?, 2);
        Ok(())
    })
}

/// A breakpoint of userspace's; `late`, it is set when userspace has the access to carry out.
fn guest_debug(watch: Watch, late: bool) -> Result<()> {
    let _silicon = Silicon::only(silicon::RF)?;
    for code in [STORE, LOAD] {
        let (seen, stop) = each_way(|_| {
            let (machine, mut vcpu, at) = prepared(&code)?;
            run_at(&mut vcpu, regs_for(&machine), at)?;
            vcpu.start(regs_for(&machine), at)?;
            let (address, dr7) = watch.registers(&machine, at);
            let seen = debugged(&mut vcpu, (address, dr7), late)?;
            Ok((seen, format!("debug {address:#x}")))
        })?;
        let order: &[&str] = match watch {
            Watch::Access => &[&stop, "access", "done"],
            _ => &["access", &stop, "done"],
        };
        expect_eq!(seen, order);
    }
    Ok(())
}

/// All exits. The breakpoint is taken away where it was hit.
fn debugged(vcpu: &mut Vcpu, (address, dr7): (u64, u64), late: bool) -> Result<Vec<String>> {
    let debug = |vcpu: &Vcpu, control| {
        let mut arch = kvm_guest_debug_arch::default();
        arch.debugreg[0] = address;
        arch.debugreg[7] = dr7;
        vcpu.fd()
            .set_guest_debug(&kvm_guest_debug {
                control,
                arch,
                ..Default::default()
            })
            .context("KVM_SET_GUEST_DEBUG")
    };
    let on = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
    if !late {
        debug(vcpu, on)?;
    }
    let mut seen: Vec<String> = Vec::new();
    while seen.last().is_none_or(|exit| exit != "done") {
        ensure!(seen.len() < 10, "no end: {seen:?}");
        let exit = match vcpu.fd_mut().run().context("KVM_RUN")? {
            VcpuExit::MmioWrite(..) => "access".to_owned(),
            VcpuExit::MmioRead(_, data) => {
                data.fill(0xa5);
                "access".to_owned()
            }
            VcpuExit::Debug(debug) => format!("debug {:#x}", debug.pc),
            VcpuExit::IoOut(to, _) if to == u16::from(port::DONE) => "done".to_owned(),
            other => bail!("{other:?} after {seen:?}"),
        };
        if exit.starts_with("debug") {
            debug(vcpu, 0)?;
        } else if late && exit == "access" {
            debug(vcpu, on)?;
        }
        seen.push(exit);
    }
    Ok(seen)
}

/// What an EPT misconfiguration says of the instruction's length is wrong.
fn no_length() -> Result<()> {
    const ROUNDS: u64 = 4;
    if Modes::detect()?.vendor != Vendor::Intel {
        skip!("there is no such length on AMD");
    }
    let _silicon = Silicon::only(silicon::RF | silicon::NO_LENGTH)?;
    let _switch = Switch::on()?;
    for kind in [Match::Len(4), Match::Any] {
        let (machine, mut vcpu, at) = prepared(&STORE)?;
        let bell = machine.doorbell(Bus::Mmio(machine.gpa(1)), kind)?;
        for round in 0..ROUNDS {
            let events = run_at(&mut vcpu, regs_for(&machine), at)?;
            expect_eq!(events, [], "{kind:?}, round {round}");
            expect_eq!(bell.rings()?, 1, "{kind:?}, round {round}");
        }
    }
    Ok(())
}

/// mov dword [rdi + 0x00000000], value: ten bytes, whose last is that of the value.
fn long_store(value: u32) -> Vec<u8> {
    let store = [0xc7, 0x87, 0, 0, 0, 0];
    ending(&[&store[..], &value.to_le_bytes()].concat())
}

fn needs_assists() -> Result<()> {
    if Modes::detect()?.vendor != Vendor::Amd {
        skip!("there are no decode assists on Intel");
    }
    Ok(())
}

/// Instructions that differ in their last byte only, in turn at one address. Whole or cut, what
/// the bytes behind the count are must not matter, nor must an instruction that was cut once be
/// left to the emulator for long.
fn assist(mask: u32) -> Result<()> {
    const ACCESSES: u64 = 256;
    needs_assists()?;
    let _silicon = Silicon::only(mask)?;
    let _switch = Switch::on()?;
    let (machine, mut vcpu, at) = prepared(&[])?;
    let gpa = machine.gpa(1);
    let start = mark(&vcpu)?;
    for n in 0..ACCESSES {
        // Each several times, so that what is remembered of one meets any count.
        let value = 0x1234_5678 + ((n as u32 / 5) << 24);
        machine.ram().write(at, &long_store(value));
        let events = run_at(&mut vcpu, regs_for(&machine), at)?;
        expect_eq!(events, [Event::write(gpa, 4, value.into())], "access {n}");
    }
    let delta = delta(&start, &vcpu)?;
    let whole = mask & silicon::CUT == 0;
    let least = if whole { ACCESSES } else { ACCESSES / 4 };
    let fast = delta.ext("fast")?.unwrap_or(0);
    ensure!(fast >= least, "{fast} of {ACCESSES} fast; {delta:?}");
    Ok(())
}

/// An instruction near the end of its page, without a page behind it: there are fewer bytes, and
/// all of the instruction.
fn assist_page_end() -> Result<()> {
    needs_assists()?;
    let _silicon = Silicon::only(silicon::BYTES)?;
    let _switch = Switch::on()?;
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    vcpu.touch(machine.gva(1), machine.gpa(1), 4)?;
    machine.tables().map(CODE, code_page(0), SUPERVISOR);
    let gpa = machine.gpa(1);
    for value in [0x1234_5678, 0x1334_5678] {
        let code = long_store(value);
        let offset = PAGE - code.len() as u64;
        machine.ram().write(code_page(0) + offset, &code);
        let start = mark(&vcpu)?;
        for _ in 0..3 {
            let events = run_at(&mut vcpu, regs_for(&machine), CODE + offset)?;
            expect_eq!(events, [Event::write(gpa, 4, value.into())]);
        }
        delta(&start, &vcpu)?.expect_ext("fast", 3)?;
    }
    Ok(())
}
