// SPDX-License-Identifier: GPL-2.0
//! Processor modes of a guest.

use std::fmt;

/// How the guest runs and pages. Under shadow paging each takes another way through KVM's MMU
/// (`paging64_`, `paging32_`, nonpaging); under EPT/NPT they differ in the emulator only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// 64-bit code, page tables of 4 levels.
    Long,
    /// 64-bit code, page tables of 5 levels; not every processor has them.
    La57,
    /// 32-bit code, PAE page tables: 3 levels of 8-byte entries.
    Pae,
    /// 32-bit code, page tables of 2 levels of 4-byte entries.
    Legacy,
    /// 32-bit code, CR0.PG=0.
    Flat,
}

impl Mode {
    /// Those that every machine has.
    pub const ALL: [Self; 4] = [Self::Long, Self::Pae, Self::Legacy, Self::Flat];

    /// Width of the code, as an assembler wants it.
    pub const fn bits(self) -> u32 {
        match self {
            Self::Long | Self::La57 => 64,
            _ => 32,
        }
    }

    pub const fn is_long(self) -> bool {
        matches!(self, Self::Long | Self::La57)
    }

    pub const fn is_paged(self) -> bool {
        !matches!(self, Self::Flat)
    }

    /// Sizes in bytes that one access by a general register can have.
    pub const fn sizes(self) -> &'static [u8] {
        match self {
            Self::Long | Self::La57 => &[1, 2, 4, 8],
            _ => &[1, 2, 4],
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Long => "long",
            Self::La57 => "la57",
            Self::Pae => "pae",
            Self::Legacy => "legacy",
            Self::Flat => "flat",
        })
    }
}
