// SPDX-License-Identifier: GPL-2.0

//! The format of the statistics file, which the module writes and `kvm-mmio` reads: a header,
//! descriptors, and blocks of data.
//!
//! `Documentation/statistics-file.rst` specifies it.

use core::{
    mem::{offset_of, size_of},
    ops::Range, //
};

/// What the file begins with.
pub const MAGIC: [u8; 8] = *b"KVMMMIOX";

/// Changes when something that exists changes its meaning.
pub const VERSION: u32 = 3;

/// In the header's flags: the parameter `heat` is on.
pub const HEAT: u32 = 1 << 0;
/// The parameter `enabled` is on.
pub const ENABLED: u32 = 1 << 1;
/// The parameter `fast` is on.
pub const FAST: u32 = 1 << 2;
/// Instructions are told apart.
pub const INSTRUCTIONS: u32 = 1 << 3;

/// In `vm_flags`: the VM is gone.
pub const ENDED: u32 = 1 << 0;

/// What `rip` is of instructions that were not told apart.
pub const UNKNOWN_RIP: u64 = u64::MAX;

/// Written to the file, it has instructions told apart as long as the file is open. A newline may
/// follow.
pub const TELL_INSTRUCTIONS: &[u8] = b"instructions";

/// What `last_width` is where the value is not known.
pub const UNKNOWN_WIDTH: u8 = u8::MAX;

/// Where a number or a text is, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// From the start of what it is in.
    pub offset: usize,
    /// All there is room for.
    pub size: usize,
}

impl Place {
    const fn at(offset: usize, size: usize) -> Self {
        Self { offset, size }
    }

    pub const fn range(self) -> Range<usize> {
        self.offset..self.offset + self.size
    }
}

/// The header.
pub mod header {
    use super::Place;

    /// Bytes of all.
    pub const SIZE: usize = 96;

    pub const MAGIC: Place = Place::at(0, 8);
    pub const VERSION: Place = Place::at(8, 4);
    pub const HEADER_SIZE: Place = Place::at(12, 4);
    pub const DESC_OFFSET: Place = Place::at(16, 4);
    pub const DESC_SIZE: Place = Place::at(20, 4);
    pub const DESC_COUNT: Place = Place::at(24, 4);
    pub const DATA_OFFSET: Place = Place::at(28, 4);
    pub const DATA_SIZE: Place = Place::at(32, 8);
    pub const TSC: Place = Place::at(40, 8);
    pub const BOOTTIME: Place = Place::at(48, 8);
    pub const TSC_KHZ: Place = Place::at(56, 4);
    pub const FLAGS: Place = Place::at(60, 4);
    pub const PAGES_PER_VCPU: Place = Place::at(64, 4);
    pub const VMS_KEPT: Place = Place::at(68, 4);
    pub const VMS_LOST: Place = Place::at(72, 8);
    pub const VM_COUNT: Place = Place::at(80, 4);
}

/// A descriptor, which tells of a field.
pub mod descriptor {
    use super::Place;

    /// Bytes of all.
    pub const SIZE: usize = 64;

    pub const NAME: Place = Place::at(0, 40);
    pub const BLOCK: Place = Place::at(40, 2);
    pub const FIELD_SIZE: Place = Place::at(42, 2);
    pub const FIELD_OFFSET: Place = Place::at(44, 4);
    pub const TYPE: Place = Place::at(48, 1);
    pub const UNIT: Place = Place::at(49, 1);
}

/// What each block begins with.
pub mod head {
    use super::Place;

    /// Bytes of all.
    pub const SIZE: usize = 8;

    pub const KIND: Place = Place::at(0, 2);
    pub const BLOCK_SIZE: Place = Place::at(4, 4);
}

/// How a value behaves.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub enum Type {
    Cumulative,
    Instant,
    Id,
}

/// What a value counts.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub enum Unit {
    None,
    Bytes,
    Bits,
    Cycles,
    Address,
    Direction,
    Outcome,
    Flags,
}

/// Which way an access goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Direction {
    /// Not known, of [`Outcome::Wildcard`].
    Unknown,
    /// From the device.
    Read,
    /// To the device.
    Write,
}

/// What became of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// Completed by the fast path, in the kernel.
    FastKernel,
    /// Carried out by the fast path, for userspace to go on.
    FastUserspace,
    /// Completed by the emulator, in the kernel.
    EmulatedKernel,
    /// Left to userspace by the emulator.
    EmulatedUserspace,
    /// Signalled a zero-length ioeventfd.
    Wildcard,
    /// Completed by the fast path, in the kernel, before interrupts were on again. Of tracepoints
    /// only: in the file these are among those of `FastKernel`.
    FastIrqsoff,
}

/// A field of one kind of block.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    pub name: &'static str,
    pub block: u16,
    pub place: Place,
    pub kind: Type,
    pub unit: Unit,
}

/// Declares a kind of block: its number, its size in bytes and its fields in their order, with
/// type and unit. What the fields do not fill is reserved.
macro_rules! block {
    (
        $(#[$doc:meta])*
        $block:ident = $number:literal, $size:literal {
            $($(#[$field_doc:meta])* $field:ident: $type:ty, $kind:ident, $unit:ident;)*
        }
    ) => {
        $(#[$doc])*
        // As in C, and no field needs padding before it.
        #[repr(C)]
        pub struct $block {
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl $block {
            /// Its number.
            pub const KIND: u16 = $number;

            /// Bytes of all, head and reserved ones included.
            pub const SIZE: usize = $size;

            pub const FIELDS: &'static [Field] = &[$(Field {
                name: stringify!($field),
                block: $number,
                place: Place::at(head::SIZE + offset_of!($block, $field), size_of::<$type>()),
                kind: Type::$kind,
                unit: Unit::$unit,
            }),*];

            /// Those of the fields, in their order.
            pub fn values(&self) -> [u64; Self::FIELDS.len()] {
                [$(u64::from(self.$field)),*]
            }
        }

        // No padding, and whole words.
        const _: () = assert!(head::SIZE + 0 $(+ size_of::<$type>())* <= $size);
        const _: () = assert!(size_of::<$block>() == 0 $(+ size_of::<$type>())*);
        const _: () = assert!($size % size_of::<u64>() == 0);
        $(const _: () = assert!(stringify!($field).len() < descriptor::NAME.size);)*
    };
}

block! {
    /// A VM.
    Vm = 1, 40 {
        /// Its number.
        vm: u64, Id, None;
        /// Its process.
        tgid: u32, Id, None;
        /// vCPU blocks that follow.
        vcpu_count: u32, Instant, None;
        /// Page blocks that follow, of all vCPUs.
        page_count: u32, Instant, None;
        /// `ENDED`.
        vm_flags: u32, Instant, Flags;
        /// Sum over the vCPUs.
        heat_dropped: u64, Cumulative, None;
    }
}

block! {
    /// A vCPU: what it has counted.
    Vcpu = 2, 312 {
        vcpu: u32, Id, None;
        page_count: u32, Instant, None;
        faults: u64, Cumulative, None;
        emulated: u64, Cumulative, None;
        cache_hit: u64, Cumulative, None;
        spte_hit: u64, Cumulative, None;
        spte_stale: u64, Cumulative, None;
        retry: u64, Cumulative, None;
        wildcard: u64, Cumulative, None;
        fast: u64, Cumulative, None;
        refused_context: u64, Cumulative, None;
        refused_fetch: u64, Cumulative, None;
        refused_insn: u64, Cumulative, None;
        refused_address: u64, Cumulative, None;
        refused_access: u64, Cumulative, None;
        passed: u64, Cumulative, None;
        left_to_kvm: u64, Cumulative, None;
        spte_made: u64, Cumulative, None;
        spte_synced: u64, Cumulative, None;
        spte_sync_dropped: u64, Cumulative, None;
        cache_filled: u64, Cumulative, None;
        cache_cleared: u64, Cumulative, None;
        read_1: u64, Cumulative, None;
        read_2: u64, Cumulative, None;
        read_4: u64, Cumulative, None;
        read_8: u64, Cumulative, None;
        read_other: u64, Cumulative, None;
        write_1: u64, Cumulative, None;
        write_2: u64, Cumulative, None;
        write_4: u64, Cumulative, None;
        write_8: u64, Cumulative, None;
        write_other: u64, Cumulative, None;
        emulated_unseen: u64, Cumulative, None;
        heat_dropped: u64, Cumulative, None;
        fast_ioeventfd: u64, Cumulative, None;
        fast_kernel: u64, Cumulative, None;
        fast_userspace: u64, Cumulative, None;
        fast_irqsoff: u64, Cumulative, None;
        read_only: u64, Cumulative, None;
    }
}

block! {
    /// What a vCPU has done to a page, or one of its instructions.
    Page = 3, 104 {
        gpa: u64, Id, Address;
        vcpu: u32, Id, None;
        last_size: u8, Instant, Bytes;
        last_width: u8, Instant, Bits;
        last_direction: u8, Instant, Direction;
        last_outcome: u8, Instant, Outcome;
        count: u64, Cumulative, None;
        reads: u64, Cumulative, None;
        writes: u64, Cumulative, None;
        kernel: u64, Cumulative, None;
        userspace: u64, Cumulative, None;
        fast: u64, Cumulative, None;
        wildcard: u64, Cumulative, None;
        cycles: u64, Cumulative, Cycles;
        last_tsc: u64, Instant, Cycles;
        /// Of the instruction, or `UNKNOWN_RIP`.
        rip: u64, Id, Address;
    }
}
