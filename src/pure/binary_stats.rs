// SPDX-License-Identifier: GPL-2.0

//! The statistics file as bytes.

use super::stats_format::*;

/// Writes a number to its place, little-endian.
pub fn put(bytes: &mut [u8], place: Place, number: u64) {
    bytes[place.range()].copy_from_slice(&number.to_le_bytes()[..place.size]);
}

/// All fields, in the order of the file.
fn fields() -> impl Iterator<Item = &'static Field> {
    [Vm::FIELDS, Vcpu::FIELDS, Page::FIELDS]
        .into_iter()
        .flatten()
}

/// The descriptors as they are in the file.
pub fn descriptor_bytes() -> impl Iterator<Item = [u8; descriptor::SIZE]> {
    fields().map(|field| {
        let mut bytes = [0; descriptor::SIZE];
        bytes[descriptor::NAME.range()][..field.name.len()].copy_from_slice(field.name.as_bytes());
        put(&mut bytes, descriptor::BLOCK, field.block.into());
        put(&mut bytes, descriptor::FIELD_SIZE, field.place.size as u64);
        put(
            &mut bytes,
            descriptor::FIELD_OFFSET,
            field.place.offset as u64,
        );
        put(&mut bytes, descriptor::TYPE, field.kind as u64);
        put(&mut bytes, descriptor::UNIT, field.unit as u64);
        bytes
    })
}

/// A block as it is in the file.
pub fn block_bytes<const SIZE: usize>(
    kind: u16,
    fields: &[Field],
    values: impl IntoIterator<Item = u64>,
) -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    put(&mut bytes, head::KIND, kind.into());
    put(&mut bytes, head::BLOCK_SIZE, SIZE as u64);
    for (field, value) in fields.iter().zip(values) {
        put(&mut bytes, field.place, value);
    }
    bytes
}

macro_rules! to_bytes {
    ($($block:ident),*) => {$(
        impl $block {
            /// The block as it is in the file.
            pub fn to_bytes(&self) -> [u8; Self::SIZE] {
                block_bytes(Self::KIND, Self::FIELDS, self.values())
            }
        }
    )*};
}
to_bytes!(Vm, Vcpu, Page);

/// Where the data begin.
const DATA_OFFSET: usize =
    header::SIZE + descriptor::SIZE * (Vm::FIELDS.len() + Vcpu::FIELDS.len() + Page::FIELDS.len());

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
    /// `HEAT`, `ENABLED` and `FAST` of the format.
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
    /// The header as it is in the file.
    pub fn to_bytes(&self) -> [u8; header::SIZE] {
        let mut bytes = [0; header::SIZE];
        bytes[header::MAGIC.range()].copy_from_slice(&MAGIC);
        let descriptors = (DATA_OFFSET - header::SIZE) / descriptor::SIZE;
        let data_size = self.file_size.saturating_sub(DATA_OFFSET);
        for (place, number) in [
            (header::VERSION, VERSION.into()),
            (header::HEADER_SIZE, header::SIZE as u64),
            (header::DESC_OFFSET, header::SIZE as u64),
            (header::DESC_SIZE, descriptor::SIZE as u64),
            (header::DESC_COUNT, descriptors as u64),
            (header::DATA_OFFSET, DATA_OFFSET as u64),
            (header::DATA_SIZE, data_size as u64),
            (header::TSC, self.tsc),
            (header::BOOTTIME, self.boottime),
            (header::TSC_KHZ, self.tsc_khz.into()),
            (header::FLAGS, self.flags.into()),
            (header::PAGES_PER_VCPU, self.pages_per_vcpu.into()),
            (header::VMS_KEPT, self.vms_kept.into()),
            (header::VMS_LOST, self.vms_lost),
            (header::VM_COUNT, self.vm_count.into()),
        ] {
            put(&mut bytes, place, number);
        }
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
                let name = d[..40].split(|&c| c == 0).next().unwrap();
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
            ("fast_irqsoff", 2, 296),
            ("read_only", 2, 304),
            ("gpa", 3, 8),
            ("last_size", 3, 20),
            ("last_outcome", 3, 23),
            ("count", 3, 24),
            ("last_tsc", 3, 88),
            ("rip", 3, 96),
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
            flags: HEAT | FAST,
            pages_per_vcpu: 256,
            vms_kept: 64,
            vms_lost: 4,
            vm_count: 1,
        }
        .to_bytes();
        assert_eq!(&header[..8], b"KVMMMIOX");
        assert_eq!(u32_at(&header, 8), 3);
        let (start, size, count) = (
            u32_at(&header, 16),
            u32_at(&header, 20),
            u32_at(&header, 24),
        );
        assert_eq!((start, size), (96, 64));
        assert_eq!(count as usize, fields().count());
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
            rip: 19,
        }
        .to_bytes();
        assert_eq!(&block[..8], [3, 0, 0, 0, 104, 0, 0, 0]);
        assert_eq!(u64_at(&block, 8), 0xfee0_0000);
        assert_eq!(u32_at(&block, 16), 3);
        assert_eq!(block[20..24], [4, 255, 2, 1]);
        for (n, at) in (10..20).zip((24..).step_by(8)) {
            assert_eq!(u64_at(&block, at), n);
        }
    }
}
