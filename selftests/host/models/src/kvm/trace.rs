// SPDX-License-Identifier: GPL-2.0
//! In the place of `rust/kvm/trace.rs`.

/// Names a vCPU.
#[derive(Clone, Copy)]
pub(crate) struct VcpuId {
    pub(crate) vm: u64,
    pub(crate) tgid: u32,
    pub(crate) vcpu: u32,
}
