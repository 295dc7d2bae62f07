// SPDX-License-Identifier: GPL-2.0

//! An MMIO fault, and the address that it reports.

use crate::{
    addr::{Gpa, Gva},
    generation::MemslotGeneration,
    kvm::{AssistBytes, Mode},
    mmio_info::MmioInfo, //
};

/// The address that a fault reports: a virtual one with shadow paging, otherwise a physical one.
#[derive(Clone, Copy)]
pub(crate) enum FaultAddress {
    /// The MMU is direct.
    Physical(Gpa),
    /// The MMU is indirect.
    Virtual(Gva),
}

impl FaultAddress {
    /// From the form that the C side uses.
    pub(crate) const fn new(addr: u64, direct: bool) -> Self {
        if direct {
            Self::Physical(Gpa(addr))
        } else {
            Self::Virtual(Gva(addr))
        }
    }

    /// The form that the C side uses.
    pub(crate) const fn raw(self) -> u64 {
        match self {
            Self::Physical(Gpa(addr)) => addr,
            Self::Virtual(Gva(addr)) => addr,
        }
    }

    /// Whether `info` is of the page that has faulted, as of the memslots' generation `now`.
    #[inline(always)]
    pub(crate) fn matches(self, info: &MmioInfo, now: MemslotGeneration) -> bool {
        match self {
            Self::Physical(gpa) => info.matches_gpa(gpa, now),
            Self::Virtual(gva) => info.matches_gva(gva, now),
        }
    }

    /// The address as far as it is a virtual one, otherwise 0, as the info cache wants it.
    pub(crate) const fn gva(self) -> Gva {
        match self {
            Self::Physical(_) => Gva(0),
            Self::Virtual(gva) => gva,
        }
    }
}

/// An MMIO fault as a VM exit reports it.
pub(crate) struct MmioFault<'a> {
    /// Where it happened.
    pub(crate) addr: FaultAddress,
    /// Why, `PFERR_*`.
    pub(crate) error_code: u64,
    /// The instruction, if the processor knows it.
    pub(crate) insn: AssistBytes<'a>,
    /// Whether it is a write, if the processor says so.
    pub(crate) is_write: Option<bool>,
    /// What the processor was doing.
    pub(crate) mode: Mode,
    /// KVM would signal a zero-length ioeventfd and skip the instruction without a look at it.
    pub(crate) can_skip: bool,
}
