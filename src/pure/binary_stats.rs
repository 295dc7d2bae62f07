// SPDX-License-Identifier: GPL-2.0

//! The format of the statistics file: a header, descriptors, and blocks of data.
//!
//! `Documentation/interface.rst` specifies it. All numbers are little-endian and naturally
//! aligned.

use core::mem::{offset_of, size_of};

/// What the file begins with.
const MAGIC: [u8; 8] = *b"KVMMMIOX";

/// Changes when something that exists changes its meaning.
const VERSION: u32 = 2;

/// Bytes of a descriptor and of what each block begins with.
const DESCRIPTOR_SIZE: usize = 64;
const HEAD_SIZE: usize = 8;

/// Bytes of a descriptor that its name may take.
const NAME_SIZE: usize = 40;

/// How a value behaves.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Type {
    Cumulative,
    Instant,
    Id,
}

/// What a value counts.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Unit {
    None,
    Bytes,
    Bits,
    Cycles,
    Address,
    Direction,
    Outcome,
    Flags,
}

/// A field of one kind of block.
struct Descriptor {
    name: &'static str,
    block: u16,
    size: usize,
    /// In bytes, without the block's head.
    offset: usize,
    kind: Type,
    unit: Unit,
}

impl Descriptor {
    fn to_bytes(&self) -> [u8; DESCRIPTOR_SIZE] {
        let mut bytes = [0; DESCRIPTOR_SIZE];
        put(&mut bytes, 0, self.name.as_bytes());
        put(&mut bytes, NAME_SIZE, &self.block.to_le_bytes());
        put(&mut bytes, NAME_SIZE + 2, &(self.size as u16).to_le_bytes());
        put(
            &mut bytes,
            44,
            &((HEAD_SIZE + self.offset) as u32).to_le_bytes(),
        );
        put(&mut bytes, 48, &[self.kind as u8, self.unit as u8]);
        bytes
    }
}

/// Copies `what` to `at`. Both are constants wherever this is called.
#[inline(always)]
fn put(bytes: &mut [u8], at: usize, what: &[u8]) {
    bytes[at..at + what.len()].copy_from_slice(what);
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
            const DESCRIPTORS: &[Descriptor] = &[$(Descriptor {
                name: stringify!($field),
                block: $number,
                size: size_of::<$type>(),
                offset: offset_of!($block, $field),
                kind: Type::$kind,
                unit: Unit::$unit,
            }),*];

            /// The block as it is in the file.
            pub fn to_bytes(&self) -> [u8; $size] {
                let mut bytes = [0; $size];
                put(&mut bytes, 0, &u16::to_le_bytes($number));
                put(&mut bytes, 4, &u32::to_le_bytes($size));
                $(put(
                    &mut bytes,
                    HEAD_SIZE + offset_of!($block, $field),
                    &self.$field.to_le_bytes(),
                );)*
                bytes
            }
        }

        // No padding, and whole words.
        const _: () = assert!(HEAD_SIZE + 0 $(+ size_of::<$type>())* <= $size);
        const _: () = assert!(size_of::<$block>() == 0 $(+ size_of::<$type>())*);
        const _: () = assert!($size % size_of::<u64>() == 0);
        $(const _: () = assert!(stringify!($field).len() < NAME_SIZE);)*
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

impl Vm {
    /// The VM is gone.
    pub const ENDED: u32 = 1 << 0;
}

block! {
    /// A vCPU: what it has counted.
    Vcpu = 2, 296 {
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
    }
}

block! {
    /// What a vCPU has done to a page.
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
    }
}

/// All descriptors, in the order of the file.
fn descriptors() -> impl Iterator<Item = &'static Descriptor> {
    [Vm::DESCRIPTORS, Vcpu::DESCRIPTORS, Page::DESCRIPTORS]
        .into_iter()
        .flatten()
}

/// The descriptors as they are in the file.
pub fn descriptor_bytes() -> impl Iterator<Item = [u8; DESCRIPTOR_SIZE]> {
    descriptors().map(Descriptor::to_bytes)
}

/// Where the data begin.
const DATA_OFFSET: usize = Header::SIZE
    + DESCRIPTOR_SIZE * (Vm::DESCRIPTORS.len() + Vcpu::DESCRIPTORS.len() + Page::DESCRIPTORS.len());

/// What the header tells, but for the layout.
pub struct Header {
    /// Bytes of the whole file.
    pub file_size: usize,
    /// The TSC when the snapshot was taken.
    pub tsc: u64,
    /// `CLOCK_BOOTTIME` at that time, in nanoseconds.
    pub boottime: u64,
    /// The frequency of the TSC in kHz.
    pub tsc_khz: u32,
    /// `HEAT`, `ENABLED`, `FAST`.
    pub flags: u32,
    /// Limit of page records of a vCPU.
    pub pages_per_vcpu: u32,
    /// Limit of ended VMs.
    pub vms_kept: u32,
    /// Ended VMs that were dropped.
    pub vms_lost: u64,
    /// VM blocks.
    pub vm_count: u32,
}

impl Header {
    /// Bytes of the header.
    pub const SIZE: usize = 96;

    /// The parameter `heat` is on.
    pub const HEAT: u32 = 1 << 0;
    /// The parameter `enabled` is on.
    pub const ENABLED: u32 = 1 << 1;
    /// The parameter `fast` is on.
    pub const FAST: u32 = 1 << 2;

    /// The header as it is in the file.
    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let data_size = self.file_size.saturating_sub(DATA_OFFSET) as u64;
        let descriptors = (DATA_OFFSET - Header::SIZE) / DESCRIPTOR_SIZE;
        let mut bytes = [0; Header::SIZE];
        put(&mut bytes, 0, &MAGIC);
        put(&mut bytes, 8, &VERSION.to_le_bytes());
        put(&mut bytes, 12, &(Header::SIZE as u32).to_le_bytes());
        put(&mut bytes, 16, &(Header::SIZE as u32).to_le_bytes());
        put(&mut bytes, 20, &(DESCRIPTOR_SIZE as u32).to_le_bytes());
        put(&mut bytes, 24, &(descriptors as u32).to_le_bytes());
        put(&mut bytes, 28, &(DATA_OFFSET as u32).to_le_bytes());
        put(&mut bytes, 32, &data_size.to_le_bytes());
        put(&mut bytes, 40, &self.tsc.to_le_bytes());
        put(&mut bytes, 48, &self.boottime.to_le_bytes());
        put(&mut bytes, 56, &self.tsc_khz.to_le_bytes());
        put(&mut bytes, 60, &self.flags.to_le_bytes());
        put(&mut bytes, 64, &self.pages_per_vcpu.to_le_bytes());
        put(&mut bytes, 68, &self.vms_kept.to_le_bytes());
        put(&mut bytes, 72, &self.vms_lost.to_le_bytes());
        put(&mut bytes, 80, &self.vm_count.to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn u32_at(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    fn u64_at(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    /// (name, kind of block, size, offset, type, unit)
    fn described() -> Vec<(String, u16, u16, u32, u8, u8)> {
        descriptor_bytes()
            .map(|d| {
                let name = d[..NAME_SIZE].split(|&c| c == 0).next().unwrap();
                (
                    String::from_utf8(name.to_vec()).unwrap(),
                    u16::from_le_bytes([d[40], d[41]]),
                    u16::from_le_bytes([d[42], d[43]]),
                    u32_at(&d, 44),
                    d[48],
                    d[49],
                )
            })
            .collect()
    }

    fn offset(name: &str, block: u16) -> u32 {
        let found: Vec<_> = described()
            .into_iter()
            .filter(|d| d.0 == name && d.1 == block)
            .collect();
        assert_eq!(found.len(), 1, "{name}");
        found[0].3
    }

    /// The numbers of the documentation.
    #[test]
    fn fields_are_where_they_are_documented() {
        for (name, block, want) in [
            ("vm", 1, 8),
            ("tgid", 1, 16),
            ("vm_flags", 1, 28),
            ("heat_dropped", 1, 32),
            ("vcpu", 2, 8),
            ("faults", 2, 16),
            ("fast", 2, 72),
            ("left_to_kvm", 2, 128),
            ("read_1", 2, 176),
            ("write_other", 2, 248),
            ("heat_dropped", 2, 264),
            ("fast_ioeventfd", 2, 272),
            ("fast_userspace", 2, 288),
            ("gpa", 3, 8),
            ("last_size", 3, 20),
            ("last_outcome", 3, 23),
            ("count", 3, 24),
            ("last_tsc", 3, 88),
        ] {
            assert_eq!(offset(name, block), want, "{name}");
        }
    }

    #[test]
    fn fields_do_not_overlap_and_are_aligned() {
        let mut end = (0, 0);
        for (name, block, size, offset, kind, unit) in described() {
            let start = if block == end.0 { end.1 } else { 8 };
            assert_eq!(offset, start, "{name}");
            assert_eq!(offset % u32::from(size), 0, "{name}");
            assert!(kind <= 2 && unit <= 7, "{name}");
            end = (block, offset + u32::from(size));
        }
    }

    #[test]
    fn the_header_names_what_follows() {
        let header = Header {
            file_size: DATA_OFFSET + 40,
            tsc: 1,
            boottime: 2,
            tsc_khz: 3,
            flags: Header::HEAT | Header::FAST,
            pages_per_vcpu: 256,
            vms_kept: 64,
            vms_lost: 4,
            vm_count: 1,
        }
        .to_bytes();
        assert_eq!(&header[..8], b"KVMMMIOX");
        assert_eq!(u32_at(&header, 8), 2);
        let (start, size, count) = (
            u32_at(&header, 16),
            u32_at(&header, 20),
            u32_at(&header, 24),
        );
        assert_eq!((start, size), (96, 64));
        assert_eq!(count as usize, descriptors().count());
        assert_eq!(u32_at(&header, 28), start + size * count);
        assert_eq!(u64_at(&header, 32), 40);
        assert_eq!(u64_at(&header, 40), 1);
        assert_eq!(u64_at(&header, 48), 2);
        assert_eq!(u32_at(&header, 56), 3);
        assert_eq!(u32_at(&header, 60), 5);
        assert_eq!(u32_at(&header, 64), 256);
        assert_eq!(u32_at(&header, 68), 64);
        assert_eq!(u64_at(&header, 72), 4);
        assert_eq!(u32_at(&header, 80), 1);
        assert!(header[84..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn a_block_holds_its_values() {
        let block = Page {
            gpa: 0xfee0_0000,
            vcpu: 3,
            last_size: 4,
            last_width: 255,
            last_direction: 2,
            last_outcome: 1,
            count: 10,
            reads: 11,
            writes: 12,
            kernel: 13,
            userspace: 14,
            fast: 15,
            wildcard: 16,
            cycles: 17,
            last_tsc: 18,
        }
        .to_bytes();
        assert_eq!(&block[..8], [3, 0, 0, 0, 104, 0, 0, 0]);
        assert_eq!(u64_at(&block, 8), 0xfee0_0000);
        assert_eq!(u32_at(&block, 16), 3);
        assert_eq!(block[20..24], [4, 255, 2, 1]);
        for (n, at) in (10..19).zip((24..).step_by(8)) {
            assert_eq!(u64_at(&block, at), n);
        }
        assert_eq!(u64_at(&block, 96), 0);
    }
}
