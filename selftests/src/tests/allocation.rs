// SPDX-License-Identifier: GPL-2.0
//! Allocations that fail while a vCPU does its first MMIO access.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail, ensure};
use kvm_bindings::kvm_regs;
use kvm_ioctls::VcpuExit;

use super::observe::heat::Heat;
use crate::guest::vcpu::mov_from_memory;
use crate::guest::{Event, Machine, Mode, Vcpu, pattern_value};
use crate::stats::Mark;
use crate::tap::note;
use crate::{expect_eq, host, skip};

crate::test_table! {
    failing_allocations:
        "per-vCPU state: whichever allocation fails, the access is right, and the next one \
        is the extension's"
        => failing_allocations(),
}

/// The kernel's fault injection, for allocations of this thread.
struct Injection {
    fail_nth: File,
    /// Files that were changed, and what they held.
    before: Vec<(&'static str, String)>,
}

impl Injection {
    fn new() -> Result<Self> {
        const FAIL_NTH: &str = "/proc/thread-self/fail-nth";
        let Ok(fail_nth) = OpenOptions::new().read(true).write(true).open(FAIL_NTH) else {
            skip!("the kernel has no fault injection");
        };
        let mut injection = Self {
            fail_nth,
            before: Vec::new(),
        };
        // Allocations that may sleep fail as well, and the log stays clean.
        injection.set("/sys/kernel/debug/failslab/ignore-gfp-wait", "N")?;
        injection.set("/sys/kernel/debug/failslab/verbose", "0")?;
        Ok(injection)
    }

    fn set(&mut self, path: &'static str, value: &str) -> Result<()> {
        let before = fs::read_to_string(path).context(path)?;
        fs::write(path, value).context(path)?;
        self.before.push((path, before));
        Ok(())
    }

    /// Makes the `nth` allocation from now on fail; 0: none.
    fn arm(&self, nth: u32) -> Result<()> {
        let written = self.fail_nth.write_at(nth.to_string().as_bytes(), 0);
        written.map(|_| ()).context("arming fault injection")
    }

    /// Ends it; returns whether the allocation has failed.
    fn disarm(&self) -> Result<bool> {
        let mut left = [0; 16];
        let len = self.fail_nth.read_at(&mut left, 0)?;
        let left: u32 = std::str::from_utf8(&left[..len])?.trim().parse()?;
        self.arm(0)?;
        Ok(left == 0)
    }
}

impl Drop for Injection {
    fn drop(&mut self) {
        for (path, value) in &self.before {
            let _ = fs::write(path, value.trim());
        }
    }
}

/// One KVM_RUN, which may fail for want of memory: then once more.
fn run_once(vcpu: &mut Vcpu, injection: &Injection, nth: u32) -> Result<(bool, Option<Event>)> {
    injection.arm(nth)?;
    let event = match vcpu.fd_mut().run() {
        Ok(VcpuExit::MmioRead(gpa, data)) => {
            let value = pattern_value(gpa, data.len()).to_le_bytes();
            data.copy_from_slice(&value[..data.len()]);
            Some(Event::Read {
                gpa,
                len: data.len(),
            })
        }
        Ok(other) => bail!("allocation {nth} failed, unexpected exit {other:?}"),
        Err(e) if e.errno() == libc::ENOMEM => None,
        Err(e) => return Err(e).with_context(|| format!("allocation {nth} failed, KVM_RUN")),
    };
    Ok((injection.disarm()?, event))
}

fn failing_allocations() -> Result<()> {
    const MOST: u32 = 500;
    let injection = Injection::new()?;
    // Then there are more to fail.
    let _heat = match host::extension_enabled() {
        Some(true) => Some(Heat::on()?),
        _ => None,
    };
    let (mut refused, mut by_c) = (0, 0);
    for nth in 1..=MOST {
        let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
        let (gva, gpa) = (machine.gva(1), machine.gpa(1));
        let program = vcpu.load(mov_from_memory(Mode::Long, 4))?;
        let regs = kvm_regs {
            rdi: gva,
            ..Default::default()
        };
        vcpu.start(regs, program)?;

        let start = Mark::here(&[])?;
        let (failed, first) = run_once(&mut vcpu, &injection, nth)?;
        let filled = start.delta(&[])?.ext("cache_filled")?;
        let no_memory = first.is_none();
        let event = first.map_or_else(|| vcpu.step(), |event| Ok(Some(event)))?;
        expect_eq!(event, Some(Event::read(gpa, 4)), "allocation {nth} failed");
        expect_eq!(vcpu.step()?, None, "allocation {nth} failed");
        let value = vcpu.fd().get_regs().context("KVM_GET_REGS")?.rax;
        expect_eq!(value, pattern_value(gpa, 4), "allocation {nth} failed");
        if !failed {
            note(format!(
                "{} allocations: {refused} failures made KVM_RUN fail, {by_c} left the access to C",
                nth - 1
            ));
            let on = host::extension_enabled() == Some(true);
            ensure!(!on || by_c >= 2, "the extension's allocations did not fail");
            return Ok(());
        }
        refused += u32::from(no_memory);
        by_c += u32::from(!no_memory && filled == Some(0));

        // The next access, of another page, is the extension's.
        let start = Mark::here(&[])?;
        vcpu.touch(machine.gva(2), machine.gpa(2), 4)?;
        start.delta(&[])?.expect_ext("cache_filled", 1)?;
    }
    bail!("more than {MOST} allocations in one access")
}
