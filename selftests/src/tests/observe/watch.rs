// SPDX-License-Identifier: GPL-2.0
//! Guests whose accesses are counted, and what is read of the counts.

use std::io;

use anyhow::Result;

use super::heat::Heat;
use crate::guest::{Machine, Mode, Vcpu};
use crate::host::Modes;
use crate::skip;
use crate::stats::Counters;
use crate::stats::device::Device;

/// What is counted of a page: accesses, reads, writes, done in the kernel, by userspace.
pub const PAGE_COUNTS: [&str; 5] = ["count", "reads", "writes", "kernel", "userspace"];

/// Fails as not applicable where holes have no MMIO SPTEs: there are no MMIO faults then, and the
/// extension sees no more than what the emulator does.
pub fn need_faults() -> Result<()> {
    if !Modes::detect()?.mmio_caching {
        skip!("without MMIO SPTEs there are no MMIO faults");
    }
    Ok(())
}

/// A VM with one vCPU, and the statistics file, open from before it.
pub fn watched(heat: Heat) -> Result<(Heat, Device, Machine, Vcpu)> {
    let device = Device::open()?;
    let (machine, vcpu) = Machine::with_vcpu(Mode::Long)?;
    Ok((heat, device, machine, vcpu))
}

/// The values of some fields, in their order; 0 for what is not there.
pub fn values<const N: usize>(fields: &Counters, names: [&str; N]) -> [u64; N] {
    names.map(|name| fields.get(name).copied().unwrap_or(0))
}

/// Writes and reads `size` bytes at the start of page `page`, so many times.
pub fn access(
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
pub fn machine_with(vcpus: u64) -> Result<(Machine, Vec<Vcpu>)> {
    let mut machine = Machine::new(Mode::Long)?;
    let vcpus = (0..vcpus)
        .map(|_| machine.add_vcpu())
        .collect::<Result<_>>()?;
    Ok((machine, vcpus))
}

/// The number of the error that a system call has left.
pub fn errno() -> Option<i32> {
    io::Error::last_os_error().raw_os_error()
}
