// SPDX-License-Identifier: GPL-2.0
//! What a guest did that its host could see.

use std::fmt;

use crate::host;

/// Vector of #PF.
pub const PAGE_FAULT: u8 = 14;

/// An exception that reached the guest.
#[derive(Clone, Copy)]
pub struct Fault {
    pub vector: u8,
    /// 0 for vectors without one.
    pub error_code: u64,
    /// CR2; means something for [`PAGE_FAULT`] only.
    pub cr2: u64,
}

/// Two faults are the same if all is that this machine can tell.
impl PartialEq for Fault {
    fn eq(&self, other: &Self) -> bool {
        self.vector == other.vector
            && self.error_code == other.error_code
            && (self.cr2 == other.cr2 || self.vector != PAGE_FAULT || !host::keeps_cr2())
    }
}

impl Eq for Fault {}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "#{} error {:#x} cr2 {:#x}",
            self.vector, self.error_code, self.cr2
        )
    }
}

/// One exit to the host, in the order of the guest's program.
#[derive(Clone, PartialEq, Eq)]
pub enum Event {
    /// KVM_EXIT_MMIO, a write.
    Write { gpa: u64, data: Vec<u8> },
    /// KVM_EXIT_MMIO, a read; answered with [`pattern`].
    Read { gpa: u64, len: usize },
    /// A value that the guest program reported.
    Report(u32),
    /// An exception; ends the program.
    Fault(Fault),
}

impl Event {
    /// A write of the low `len` bytes of `value`.
    pub fn write(gpa: u64, len: usize, value: u64) -> Self {
        Self::Write {
            gpa,
            data: value.to_le_bytes()[..len].to_vec(),
        }
    }

    pub fn read(gpa: u64, len: usize) -> Self {
        Self::Read { gpa, len }
    }

    pub fn is_mmio(&self) -> bool {
        matches!(self, Self::Write { .. } | Self::Read { .. })
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write { gpa, data } => write!(f, "write {gpa:#x} {data:02x?}"),
            Self::Read { gpa, len } => write!(f, "read {gpa:#x} len {len}"),
            Self::Report(value) => write!(f, "report {value:#x}"),
            Self::Fault(fault) => write!(f, "fault {fault:?}"),
        }
    }
}

/// The byte that an MMIO read at `gpa` returns: differs between neighbours, between pages and
/// between accesses that mix up their halves.
pub fn pattern(gpa: u64) -> u8 {
    (gpa.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// The little-endian value that an MMIO read of `len` bytes at `gpa` returns.
pub fn pattern_value(gpa: u64, len: usize) -> u64 {
    (0..len as u64)
        .rev()
        .fold(0, |value, i| value << 8 | u64::from(pattern(gpa + i)))
}
