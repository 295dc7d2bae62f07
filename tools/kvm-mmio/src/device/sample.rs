// SPDX-License-Identifier: GPL-2.0
//! Statistics files for tests, written after Documentation/interface.rst.

use proptest::prelude::*;

use crate::reading::{
    Clock, Counts, Direction, ENABLED, FAST, HEAT, Last, Page, Reading, TRACED, Vcpu, Vm,
};
use crate::site::Site;

const CUMULATIVE: u8 = 0;
const INSTANT: u8 = 1;
const ID: u8 = 2;

/// A kind of block with its fields: name, bytes, type.
struct Kind {
    number: u16,
    fields: Vec<(String, u16, u8)>,
}

fn fields(list: &[(&str, u16, u8)]) -> Vec<(String, u16, u8)> {
    let owned = |&(name, size, kind): &(&str, u16, u8)| (name.to_owned(), size, kind);
    list.iter().map(owned).collect()
}

/// The three kinds of blocks, with the counters of vCPUs that the reading has.
fn kinds(counters: &[String]) -> [Kind; 3] {
    let vm = fields(&[
        ("vm", 8, ID),
        ("tgid", 4, ID),
        ("vcpu_count", 4, INSTANT),
        ("page_count", 4, INSTANT),
        ("vm_flags", 4, INSTANT),
        ("heat_dropped", 8, CUMULATIVE),
    ]);
    let mut vcpu = fields(&[("vcpu", 4, ID), ("page_count", 4, INSTANT)]);
    vcpu.extend(counters.iter().map(|name| (name.clone(), 8, CUMULATIVE)));
    let page = fields(&[
        ("gpa", 8, ID),
        ("vcpu", 4, ID),
        ("last_size", 1, INSTANT),
        ("last_width", 1, INSTANT),
        ("last_direction", 1, INSTANT),
        ("last_outcome", 1, INSTANT),
        ("count", 8, CUMULATIVE),
        ("reads", 8, CUMULATIVE),
        ("writes", 8, CUMULATIVE),
        ("kernel", 8, CUMULATIVE),
        ("userspace", 8, CUMULATIVE),
        ("fast", 8, CUMULATIVE),
        ("wildcard", 8, CUMULATIVE),
        ("cycles", 8, CUMULATIVE),
        ("last_tsc", 8, INSTANT),
    ]);
    [vm, vcpu, page]
        .into_iter()
        .zip(1..)
        .map(|(fields, number)| Kind { number, fields })
        .collect::<Vec<_>>()
        .try_into()
        .unwrap_or_else(|_| unreachable!())
}

/// How the file is laid out; all forms say the same.
#[derive(Clone, Copy, Default)]
pub struct Form {
    /// Bytes more in the header, each descriptor and each block, and a block of an unknown kind.
    more: usize,
}

impl Form {
    pub fn later() -> Self {
        Self { more: 16 }
    }

    pub fn file(self, reading: &Reading) -> Vec<u8> {
        let kinds = kinds(&reading.counters);
        let descriptors: Vec<u8> = kinds
            .iter()
            .flat_map(|kind| self.descriptors(kind))
            .collect();
        let data = self.data(reading, &kinds);
        let desc_offset = 96 + self.more;
        let count = kinds.iter().map(|kind| kind.fields.len()).sum::<usize>();
        let data_offset = desc_offset + descriptors.len();
        let clock = reading.clock;
        let mut file = b"KVMMMIOX".to_vec();
        let lengths = [
            2,
            desc_offset,
            desc_offset,
            64 + self.more,
            count,
            data_offset,
        ];
        file.extend(
            lengths
                .iter()
                .flat_map(|length| (*length as u32).to_le_bytes()),
        );
        for number in [data.len() as u64, clock.tsc, clock.boottime] {
            file.extend(number.to_le_bytes());
        }
        for number in [
            clock.tsc_khz,
            clock.flags,
            clock.pages_per_vcpu,
            clock.vms_kept,
        ] {
            file.extend(number.to_le_bytes());
        }
        file.extend(clock.lost.to_le_bytes());
        file.extend((reading.vms.len() as u32).to_le_bytes());
        file.resize(desc_offset, 0);
        file.extend(descriptors);
        file.extend(data);
        file
    }

    fn descriptors(self, kind: &Kind) -> Vec<u8> {
        let (mut bytes, mut offset) = (Vec::new(), 8u32);
        for (name, size, type_) in &kind.fields {
            let start = bytes.len();
            bytes.extend(name.bytes());
            bytes.resize(start + 40, 0);
            bytes.extend(kind.number.to_le_bytes());
            bytes.extend(size.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
            bytes.push(*type_);
            bytes.resize(start + 64 + self.more, 0);
            offset += u32::from(*size);
        }
        bytes
    }

    fn data(self, reading: &Reading, kinds: &[Kind; 3]) -> Vec<u8> {
        let [vm_kind, vcpu_kind, page_kind] = kinds;
        let mut data = Vec::new();
        for (id, vm) in &reading.vms {
            let pages = vm.vcpus.values().map(|vcpu| vcpu.pages.len() as u64).sum();
            let (vcpus, ended) = (vm.vcpus.len() as u64, u64::from(vm.ended));
            let values = [*id, vm.tgid.into(), vcpus, pages, ended, vm.heat_dropped];
            self.block(&mut data, vm_kind, &values);
            for (id, vcpu) in &vm.vcpus {
                let mut values = vec![u64::from(*id), vcpu.pages.len() as u64];
                values.extend(&vcpu.counters);
                self.block(&mut data, vcpu_kind, &values);
                for (gpa, page) in &vcpu.pages {
                    self.block(&mut data, page_kind, &page_values(*gpa, *id, page));
                }
            }
        }
        data
    }

    fn block(self, data: &mut Vec<u8>, kind: &Kind, values: &[u64]) {
        assert_eq!(values.len(), kind.fields.len());
        if self.more != 0 {
            data.extend([9, 0, 0, 0, 16, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        }
        let mut body = Vec::new();
        for ((_, size, _), value) in kind.fields.iter().zip(values) {
            body.extend(&value.to_le_bytes()[..usize::from(*size)]);
        }
        body.resize(body.len() + self.more, 0xff);
        data.extend(kind.number.to_le_bytes());
        data.extend([0; 2]);
        data.extend((body.len() as u32 + 8).to_le_bytes());
        data.extend(body);
    }
}

fn page_values(gpa: u64, vcpu: u32, page: &Page) -> Vec<u64> {
    let Page { counts, last } = *page;
    let direction = match last.direction {
        Direction::Unknown => 0,
        Direction::Read => 1,
        Direction::Write => 2,
    };
    vec![
        gpa,
        vcpu.into(),
        last.size.into(),
        last.width.into(),
        direction,
        last.outcome.into(),
        counts.count,
        counts.reads,
        counts.writes,
        counts.kernel,
        counts.userspace,
        counts.fast,
        counts.wildcard,
        counts.cycles,
        last.tsc,
    ]
}

/// The statistics file that says this.
pub fn file(reading: &Reading) -> Vec<u8> {
    Form::default().file(reading)
}

/// A machine without VMs.
pub fn idle() -> Reading {
    Reading {
        clock: Clock {
            boottime: 1_000_000_000,
            tsc: 2_000_000_000,
            tsc_khz: 2_000_000,
            flags: ENABLED | FAST,
            pages_per_vcpu: 256,
            vms_kept: 64,
            lost: 0,
        },
        counters: COUNTERS.iter().map(|name| (*name).to_owned()).collect(),
        vms: [].into(),
    }
}

const COUNTERS: &[&str] = &[
    "faults",
    "emulated",
    "cache_hit",
    "spte_hit",
    "fast",
    "read_4",
    "read_other",
    "write_4",
    "emulated_unseen",
    "heat_dropped",
];

/// A page of which some accesses went to userspace, the rest to devices in the kernel.
fn page(reads: u64, writes: u64, userspace: u64) -> Page {
    let count = reads + writes;
    Page {
        counts: Counts {
            count,
            reads,
            writes,
            kernel: count - userspace,
            userspace,
            fast: count,
            wildcard: 0,
            cycles: 1500 * count,
        },
        last: Last {
            size: 4,
            width: 1,
            direction: Direction::Write,
            outcome: u8::from(userspace != 0),
            tsc: 1_999_000_000 + count,
        },
    }
}

fn vcpu(pages: &[(u64, Page)]) -> Vcpu {
    let mut sum = Counts::default();
    for (_, page) in pages {
        sum += page.counts;
    }
    Vcpu {
        counters: vec![
            sum.count,
            sum.count - sum.fast,
            sum.count,
            0,
            sum.fast,
            sum.reads,
            0,
            sum.writes,
            0,
            0,
        ],
        pages: pages.iter().copied().collect(),
        ..Vcpu::default()
    }
}

/// The same, with instructions of the hottest page.
pub fn traced() -> Reading {
    let mut reading = two_vms();
    for (&vcpu, state) in &mut reading.vms.get_mut(&1).unwrap().vcpus {
        let counts = |count| Counts {
            count,
            kernel: count,
            ..Counts::default()
        };
        let mut site = Site {
            counts: counts(state.pages[&0xfe00_3000].counts.count - 5),
            ..Site::default()
        };
        site.times.record(1 << (10 + vcpu));
        let rest = Site {
            counts: counts(5),
            ..Site::default()
        };
        let rip = Some(0xffff_ffff_8100_0010);
        state.sites = [((0xfe00_3000, rip), site), ((0xfe00_3000, None), rest)].into();
    }
    reading
}

/// A VM with two vCPUs that share a doorbell, and one that has ended.
pub fn two_vms() -> Reading {
    let mut reading = idle();
    reading.clock.flags |= HEAT;
    let first = Vm {
        tgid: 4711,
        ended: false,
        heat_dropped: 3,
        vcpus: [
            (
                0,
                vcpu(&[
                    (0xfe00_3000, page(0, 9000, 0)),
                    (0xfee0_0000, page(100, 500, 0)),
                    (0xfebd_0000, page(20, 0, 20)),
                ]),
            ),
            (1, vcpu(&[(0xfe00_3000, page(0, 1000, 0))])),
        ]
        .into(),
    };
    let second = Vm {
        tgid: 4712,
        ended: true,
        heat_dropped: 0,
        vcpus: [(0, vcpu(&[(0xfed0_0000, page(40, 2, 42))]))].into(),
    };
    reading.vms = [(1, first), (2, second)].into();
    reading
}

prop_compose! {
    fn any_page()(numbers in any::<[u64; 8]>(), tsc in any::<u64>(), small in any::<[u8; 3]>(), direction in 0u64..3) -> Page {
        let [count, reads, writes, kernel, userspace, fast, wildcard, cycles] = numbers;
        Page {
            counts: Counts { count, reads, writes, kernel, userspace, fast, wildcard, cycles },
            last: Last { size: small[0], width: small[1], outcome: small[2], direction: direction.into(), tsc },
        }
    }
}

fn any_vm() -> impl Strategy<Value = Vm> {
    let pages = prop::collection::btree_map(any::<u64>(), any_page(), 0..4);
    let counters = prop::collection::vec(any::<u64>(), COUNTERS.len());
    let vcpu = (counters, pages).prop_map(|(counters, pages)| Vcpu {
        counters,
        pages,
        ..Vcpu::default()
    });
    let vcpus = prop::collection::btree_map(any::<u32>(), vcpu, 0..3);
    (any::<(u32, bool, u64)>(), vcpus).prop_map(|((tgid, ended, heat_dropped), vcpus)| Vm {
        tgid,
        ended,
        heat_dropped,
        vcpus,
    })
}

/// Whatever the kernel could say.
pub fn reading() -> impl Strategy<Value = Reading> {
    let clock = any::<(u64, u64, [u32; 4], u64)>();
    let vms = prop::collection::btree_map(any::<u64>(), any_vm(), 0..4);
    (clock, vms).prop_map(|((boottime, tsc, numbers, lost), vms)| {
        let [tsc_khz, flags, pages_per_vcpu, vms_kept] = numbers;
        Reading {
            clock: Clock {
                boottime,
                tsc,
                tsc_khz,
                flags: flags & !TRACED,
                pages_per_vcpu,
                vms_kept,
                lost,
            },
            vms,
            ..idle()
        }
    })
}
