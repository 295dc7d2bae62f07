// SPDX-License-Identifier: GPL-2.0
//! A read waits for userspace, and something happens meanwhile.

use std::thread;

use anyhow::{Context, Result, bail};
use kvm_bindings::{kvm_regs, kvm_sregs};

use super::program::{code_page, delta, ending, finish, mark, regs_for};
use super::ways::{Switch, each_way, needs_trap_flag};
use crate::expect_eq;
use crate::guest::cpu::{CR0_WP, CR4_PGE, EFER_NXE};
use crate::guest::paging::SUPERVISOR;
use crate::guest::{Event, Machine, Mode, Vcpu, pattern_value};
use crate::host;

const SAME: &str = "pending loads: they are completed once, whatever happens meanwhile";

crate::test_table! {
    fast_pending_unchanged: SAME => unchanged(),
    fast_pending_other_register: SAME => changed(|regs| regs.rbx = 0x1234),
    fast_pending_loaded_register: SAME => changed(|regs| regs.rax = 0x0f0e_0d0c_0b0a_0908),
    fast_pending_rip: SAME => changed(|regs| regs.rip = code_page(1)),
    fast_pending_rflags: SAME => changed(|regs| regs.rflags |= 0x41),
    fast_pending_trap_flag: SAME => {
        needs_trap_flag()?;
        changed(|regs| regs.rflags |= 0x100)
    },
    fast_pending_root: SAME => changed_sregs(|sregs, other| sregs.cr3 = other, 7),
    fast_pending_control: SAME => {
        changed_sregs(
        |sregs, _| {
        sregs.cr0 ^= CR0_WP;
        sregs.cr4 ^= CR4_PGE;
        sregs.efer ^= EFER_NXE;
        },
        1,
        )
    },
    fast_pending_switch: SAME => switch_off(),
    fast_pending_thread: SAME => other_thread(),
}

/// mov eax, [rdi]; mov ax, [rdi]; mov ah, [rdi]; movsx rax, byte [rdi]
const LOADS: &[(&[u8], usize)] = &[
    (&[0x8b, 0x07], 4),
    (&[0x66, 0x8b, 0x07], 2),
    (&[0x8a, 0x27], 1),
    (&[0x48, 0x0f, 0xbe, 0x07], 1),
];

/// Lets KVM complete what userspace has answered, without running the guest.
pub(super) fn complete(vcpu: &mut Vcpu) -> Result<()> {
    let fd = vcpu.fd_mut();
    fd.set_kvm_immediate_exit(1);
    let seen = match fd.run() {
        Ok(exit) => Some(format!("{exit:?}")),
        Err(e) if e.errno() == libc::EINTR => None,
        Err(e) => return Err(e).context("KVM_RUN"),
    };
    fd.set_kvm_immediate_exit(0);
    match seen {
        Some(exit) => bail!("completing an access ended in {exit}"),
        None => Ok(()),
    }
}

/// A vCPU that waits for the value of the load.
fn pending(load: &[u8], len: usize, fast: bool) -> Result<(Machine, Vcpu)> {
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    machine.ram().write(code_page(0), &ending(load));
    machine.ram().write(code_page(1), &ending(&[0x90]));
    vcpu.touch(machine.gva(1), machine.gpa(1), 4)?;
    let start = mark(&vcpu)?;
    vcpu.start(regs_for(&machine), code_page(0))?;
    expect_eq!(vcpu.step()?, Some(Event::read(machine.gpa(1), len)));
    delta(&start, &vcpu)?.expect_ext("fast", fast.into())?;
    Ok((machine, vcpu))
}

/// Userspace changes registers. The load goes into what they are now, and RIP is that of the next
/// instruction, as with the emulator.
///
/// Two things the emulator does otherwise: it forgets the load, as KVM_SET_REGS makes it drop its
/// copy of the registers, and it restores RFLAGS. The first is a defect, see HAZARDS part 3 ("must
/// survive KVM_SET_REGS"), and neither is repeated.
fn changed(change: fn(&mut kvm_regs)) -> Result<()> {
    let switch = Switch::new()?;
    for (n, (load, len)) in LOADS.iter().enumerate() {
        for fast in [false, true] {
            switch.set(fast)?;
            let (machine, mut vcpu) = pending(load, *len, fast)?;
            let mut regs = vcpu.fd().get_regs().context("KVM_GET_REGS")?;
            change(&mut regs);
            vcpu.fd().set_regs(&regs).context("KVM_SET_REGS")?;
            complete(&mut vcpu)?;
            let got = vcpu.fd().get_regs().context("KVM_GET_REGS")?;

            regs.rip = code_page(0) + load.len() as u64;
            if fast {
                regs.rax = loaded(&machine, n, regs.rax);
                // That of the fault, if the processor saves it; completing an instruction clears it.
                regs.rflags &= !(1 << 16);
            } else {
                regs.rax = got.rax;
                regs.rflags = got.rflags;
            }
            expect_eq!(got, regs, "load {load:x?}, fast {fast}");
            expect_eq!(finish(&mut vcpu)?, []);
        }
    }
    Ok(())
}

/// Userspace changes system registers, and may let CR3 be `other`, page tables that map page 1 of
/// the window to its page 7. The load ends as it began, and the next access is to `page`.
fn changed_sregs(change: fn(&mut kvm_sregs, u64), page: u64) -> Result<()> {
    for (n, (load, len)) in LOADS.iter().enumerate() {
        each_way(|fast| {
            let (machine, mut vcpu) = pending(load, *len, fast)?;
            let other = machine.new_tables();
            other.map(machine.gva(1), machine.gpa(7), SUPERVISOR);
            let mut sregs = vcpu.sregs()?;
            change(&mut sregs, other.root());
            vcpu.set_sregs(&sregs)?;
            complete(&mut vcpu)?;

            let regs = vcpu.fd().get_regs().context("KVM_GET_REGS")?;
            let want = loaded(&machine, n, regs_for(&machine).rax);
            expect_eq!(regs.rax, want, "load {load:x?}");
            expect_eq!(regs.rip, code_page(0) + load.len() as u64);
            expect_eq!(finish(&mut vcpu)?, []);
            vcpu.touch(machine.gva(1), machine.gpa(page), 4)?;
            let now = vcpu.sregs()?;
            let all = [now.cr0, now.cr3, now.cr4, now.efer];
            expect_eq!(all, [sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer]);
            Ok(all)
        })?;
    }
    Ok(())
}

/// Without any change both do the same, and all is as it should be at once.
fn unchanged() -> Result<()> {
    for (n, (load, len)) in LOADS.iter().enumerate() {
        let (rax, want, ..) = each_way(|fast| {
            let (machine, mut vcpu) = pending(load, *len, fast)?;
            let first = vcpu.fd().get_regs().context("KVM_GET_REGS")?;
            complete(&mut vcpu)?;
            let last = vcpu.fd().get_regs().context("KVM_GET_REGS")?;
            let want = loaded(&machine, n, regs_for(&machine).rax);
            Ok((last.rax, want, first, last))
        })?;
        expect_eq!(rax, want, "load {load:x?}");
    }
    Ok(())
}

/// What becomes of RAX, `old` before.
fn loaded(machine: &Machine, load: usize, old: u64) -> u64 {
    let value = pattern_value(machine.gpa(1), LOADS[load].1);
    match load {
        0 => value,
        1 => old & !0xffff | value,
        2 => old & !0xff00 | value << 8,
        _ => value as i8 as u64,
    }
}

/// The fast path, or the extension, is off when the value comes; then on again.
fn switch_off() -> Result<()> {
    let switch = Switch::new()?;
    for (n, (load, len)) in LOADS.iter().enumerate() {
        for whole in [false, true] {
            for begun_fast in [true, false] {
                switch.set(begun_fast)?;
                let (machine, mut vcpu) = pending(load, *len, begun_fast)?;
                if whole {
                    host::set_extension(false).context("the parameter `enabled`")?;
                } else {
                    switch.set(!begun_fast)?;
                }
                expect_eq!(vcpu.step()?, None);
                let regs = vcpu.fd().get_regs().context("KVM_GET_REGS")?;
                expect_eq!(
                    regs.rax,
                    loaded(&machine, n, regs_for(&machine).rax),
                    "{load:x?}"
                );
                host::set_extension(true).context("the parameter `enabled`")?;
                vcpu.touch(machine.gva(1), machine.gpa(1), 4)?;
            }
        }
    }
    Ok(())
}

/// Another thread goes on with the vCPU.
fn other_thread() -> Result<()> {
    let _switch = Switch::on()?;
    for (n, (load, len)) in LOADS.iter().enumerate() {
        let (machine, mut vcpu) = pending(load, *len, true)?;
        let vcpu = thread::spawn(move || -> Result<Vcpu> {
            expect_eq!(vcpu.step()?, None);
            Ok(vcpu)
        })
        .join()
        .expect("the thread does not panic")?;
        let regs = vcpu.fd().get_regs().context("KVM_GET_REGS")?;
        expect_eq!(
            regs.rax,
            loaded(&machine, n, regs_for(&machine).rax),
            "{load:x?}"
        );
    }
    Ok(())
}
