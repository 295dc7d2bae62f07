// SPDX-License-Identifier: GPL-2.0
//! KVM's binary statistics of one vCPU (Documentation/virt/kvm/api.rst, KVM_GET_STATS_FD).

use std::fs::File;
use std::io;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use kvm_bindings::KVMIO;
use kvm_ioctls::VcpuFd;
use vmm_sys_util::ioctl::ioctl;
use vmm_sys_util::ioctl_io_nr;

use super::counters::Counters;

ioctl_io_nr!(KVM_GET_STATS_FD, KVMIO, 0xce);

/// Bytes of `struct kvm_stats_header`: six 32-bit fields.
const HEADER_SIZE: usize = 24;
/// Bytes of `struct kvm_stats_desc` before the name.
const DESC_SIZE: usize = 16;

fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    let field = bytes.get(at..at + 4).context("statistics are too short")?;
    Ok(u32::from_ne_bytes(field.try_into()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16> {
    let field = bytes.get(at..at + 2).context("statistics are too short")?;
    Ok(u16::from_ne_bytes(field.try_into()?))
}

fn read_at(file: &File, offset: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, offset)
        .context("reading KVM's statistics")?;
    Ok(bytes)
}

/// Every statistic of the vCPU that has a single value.
pub fn vcpu_stats(vcpu: &VcpuFd) -> Result<Counters> {
    // SAFETY: the request takes no argument.
    let fd = unsafe { ioctl(vcpu, KVM_GET_STATS_FD()) };
    if fd < 0 {
        return Err(io::Error::last_os_error()).context("KVM_GET_STATS_FD");
    }
    // SAFETY: the kernel just returned a file descriptor that nothing else owns.
    let file = unsafe { File::from_raw_fd(fd) };

    let header = read_at(&file, 0, HEADER_SIZE)?;
    let name_size = u32_at(&header, 4)? as usize;
    let count = u32_at(&header, 8)? as usize;
    let descriptors = u64::from(u32_at(&header, 16)?);
    let data = u64::from(u32_at(&header, 20)?);

    let size = DESC_SIZE + name_size;
    let table = read_at(&file, descriptors, count * size)?;
    let mut counters = Counters::new();
    for desc in table.chunks_exact(size) {
        let values = u16_at(desc, 6)?;
        let offset = u64::from(u32_at(desc, 8)?);
        let name: Vec<u8> = desc[DESC_SIZE..]
            .iter()
            .copied()
            .take_while(|c| *c != 0)
            .collect();
        let name = String::from_utf8(name).context("name of a statistic")?;
        ensure!(values > 0, "statistic {name} has no value");
        if values == 1 {
            let value = read_at(&file, data + offset, 8)?;
            counters.insert(name, u64::from_ne_bytes(value.as_slice().try_into()?));
        }
    }
    Ok(counters)
}
