// SPDX-License-Identifier: GPL-2.0
//! What the extension shows of MMIO: the statistics file, heat, tracepoints.

mod counts;
mod file;
mod programs;
mod trace;

use std::{fs, io};

use anyhow::{Context, Result};

use crate::guest::{Machine, Mode, Vcpu};
use crate::host::{self, Modes};
use crate::skip;
use crate::stats::Counters;
use crate::stats::device::Device;
use crate::tap::Test;

pub fn tests() -> impl Iterator<Item = &'static Test> {
    [counts::TESTS, file::TESTS, trace::TESTS, programs::TESTS]
        .into_iter()
        .flatten()
}

const HEAT: &str = "/sys/module/kvm_mmio_ext/parameters/heat";

/// What is counted of a page: accesses, reads, writes, done in the kernel, by userspace.
const PAGE_COUNTS: [&str; 5] = ["count", "reads", "writes", "kernel", "userspace"];

/// The parameter `heat`, which is put back at the end.
pub(super) struct Heat {
    before: String,
}

impl Heat {
    pub(super) fn on() -> Result<Self> {
        let heat = Self::off()?;
        heat.set(true)?;
        Ok(heat)
    }

    fn off() -> Result<Self> {
        if host::extension_enabled() != Some(true) {
            skip!("the extension is not on");
        }
        let before = fs::read_to_string(HEAT).context(HEAT)?;
        let heat = Self { before };
        heat.set(false)?;
        Ok(heat)
    }

    fn set(&self, on: bool) -> Result<()> {
        fs::write(HEAT, if on { "Y" } else { "N" }).context(HEAT)
    }
}

impl Drop for Heat {
    fn drop(&mut self) {
        // A test that fails has said so already.
        let _ = fs::write(HEAT, &self.before);
    }
}

/// Fails as not applicable where holes have no MMIO SPTEs: there are no MMIO faults then, and the
/// extension sees no more than what the emulator does.
fn need_faults() -> Result<()> {
    if !Modes::detect()?.mmio_caching {
        skip!("without MMIO SPTEs there are no MMIO faults");
    }
    Ok(())
}

/// A VM with one vCPU, and the statistics file, open from before it.
fn watched(heat: Heat) -> Result<(Heat, Device, Machine, Vcpu)> {
    let device = Device::open()?;
    let (machine, vcpu) = Machine::with_vcpu(Mode::Long)?;
    Ok((heat, device, machine, vcpu))
}

/// The values of some fields, in their order; 0 for what is not there.
fn values<const N: usize>(fields: &Counters, names: [&str; N]) -> [u64; N] {
    names.map(|name| fields.get(name).copied().unwrap_or(0))
}

/// Writes and reads `size` bytes at the start of page `page`, so many times.
fn access(
    machine: &Machine,
    vcpu: &mut Vcpu,
    page: u64,
    size: u8,
    (writes, reads): (u64, u64),
) -> Result<()> {
    for value in 0..writes {
        vcpu.write(machine.gva(page), size, value)?;
    }
    for _ in 0..reads {
        vcpu.touch(machine.gva(page), machine.gpa(page), size)?;
    }
    Ok(())
}

/// A VM with so many vCPUs.
fn machine_with(vcpus: u64) -> Result<(Machine, Vec<Vcpu>)> {
    let mut machine = Machine::new(Mode::Long)?;
    let vcpus = (0..vcpus)
        .map(|_| machine.add_vcpu())
        .collect::<Result<_>>()?;
    Ok((machine, vcpus))
}

/// The number of the error that a system call has left.
fn errno() -> Option<i32> {
    io::Error::last_os_error().raw_os_error()
}
