// SPDX-License-Identifier: GPL-2.0
//! Statistics files for tests.

use proptest::prelude::*;

use crate::counts::Counts;
use crate::reading::{
    Clock, Direction, ENABLED, FAST, HEAT, Last, Page, Reading, TRACED, Vcpu, Vm,
};
use crate::site::{SOMEWHERE, Site};
use crate::stats_format::{self, Type, descriptor, head, header};
use binary_stats::{Header, block_bytes, put};

// What the module writes it by.
#[path = "../../../../src/pure/binary_stats.rs"]
mod binary_stats;

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
        let mut file = vec![0; header::SIZE + self.more];
        for descriptor in binary_stats::descriptor_bytes() {
            file.extend(descriptor);
            file.resize(file.len() + self.more, 0);
        }
        let data_offset = file.len();
        self.data(&mut file, reading);
        let header = self.header(reading, data_offset, file.len());
        file[..header::SIZE].copy_from_slice(&header);
        file
    }

    fn header(self, reading: &Reading, data_offset: usize, end: usize) -> [u8; header::SIZE] {
        let clock = reading.clock;
        let mut header = Header {
            file_size: end,
            tsc: clock.tsc,
            boottime: clock.boottime,
            tsc_khz: clock.tsc_khz,
            flags: clock.flags,
            pages_per_vcpu: clock.pages_per_vcpu,
            vms_kept: clock.vms_kept,
            vms_lost: clock.lost,
            vm_count: reading.vms.len() as u32,
        }
        .to_bytes();
        for (place, length) in [
            (header::HEADER_SIZE, header::SIZE + self.more),
            (header::DESC_OFFSET, header::SIZE + self.more),
            (header::DESC_SIZE, descriptor::SIZE + self.more),
            (header::DATA_OFFSET, data_offset),
            (header::DATA_SIZE, end - data_offset),
        ] {
            put(&mut header, place, length as u64);
        }
        header
    }

    fn data(self, file: &mut Vec<u8>, reading: &Reading) {
        for (&id, vm) in &reading.vms {
            self.block(file, &vm_block(id, vm).to_bytes());
            for (&id, vcpu) in &vm.vcpus {
                self.block(file, &vcpu_bytes(id, vcpu));
                for (gpa, rip, page) in records(vcpu) {
                    self.block(file, &page_block(gpa, id, rip, &page).to_bytes());
                }
            }
        }
    }

    fn block(self, file: &mut Vec<u8>, block: &[u8]) {
        if self.more != 0 {
            file.extend([9, 0, 0, 0, 16, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        }
        let start = file.len();
        file.extend(block);
        file.resize(file.len() + self.more, 0xff);
        let size = file.len() - start;
        put(&mut file[start..], head::BLOCK_SIZE, size as u64);
    }
}

/// The pages of a vCPU, each with the instructions that are told apart and then the rest, if any.
fn records(vcpu: &Vcpu) -> Vec<(u64, u64, Page)> {
    let mut records = Vec::new();
    for (&gpa, page) in &vcpu.pages {
        let mut rest = *page;
        let of_page = (gpa | SOMEWHERE, Some(0))..=(gpa | SOMEWHERE, Some(u64::MAX));
        for (&(_, rip), site) in vcpu.sites.range(of_page) {
            rest.counts = rest.counts - site.counts;
            let page = Page {
                counts: site.counts,
                ..*page
            };
            records.push((gpa, rip.unwrap(), page));
        }
        if rest.counts != Counts::default() || rest == *page {
            records.push((gpa, stats_format::UNKNOWN_RIP, rest));
        }
    }
    records
}

fn vm_block(id: u64, vm: &Vm) -> stats_format::Vm {
    stats_format::Vm {
        vm: id,
        tgid: vm.tgid,
        vcpu_count: vm.vcpus.len() as u32,
        page_count: vm
            .vcpus
            .values()
            .map(|vcpu| records(vcpu).len() as u32)
            .sum(),
        vm_flags: u32::from(vm.ended) * stats_format::ENDED,
        heat_dropped: vm.heat_dropped,
    }
}

fn vcpu_bytes(id: u32, vcpu: &Vcpu) -> [u8; stats_format::Vcpu::SIZE] {
    type Block = stats_format::Vcpu;
    let values = [id.into(), records(vcpu).len() as u64];
    let values = values.into_iter().chain(vcpu.counters.iter().copied());
    block_bytes(Block::KIND, Block::FIELDS, values)
}

fn page_block(gpa: u64, vcpu: u32, rip: u64, page: &Page) -> stats_format::Page {
    let Page { counts, last } = *page;
    let direction = match last.direction {
        Direction::Unknown => stats_format::Direction::Unknown,
        Direction::Read => stats_format::Direction::Read,
        Direction::Write => stats_format::Direction::Write,
    };
    stats_format::Page {
        gpa,
        vcpu,
        last_size: last.size,
        last_width: last.width,
        last_direction: direction as u8,
        last_outcome: last.outcome,
        count: counts.count,
        reads: counts.reads,
        writes: counts.writes,
        kernel: counts.kernel,
        userspace: counts.userspace,
        fast: counts.fast,
        wildcard: counts.wildcard,
        cycles: counts.cycles,
        last_tsc: last.tsc,
        rip,
    }
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
            pages_per_vcpu: 512,
            vms_kept: 64,
            lost: 0,
        },
        counters: counters().map(str::to_owned).collect(),
        vms: [].into(),
    }
}

/// The names of a vCPU's counters.
fn counters() -> impl Iterator<Item = &'static str> {
    let fields = stats_format::Vcpu::FIELDS.iter();
    let counters = fields.filter(|field| matches!(field.kind, Type::Cumulative));
    counters.map(|field| field.name)
}

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
    let counter = |name| match name {
        "faults" | "cache_hit" => sum.count,
        "emulated" => sum.count - sum.fast,
        "fast" => sum.fast,
        "fast_ioeventfd" => sum.kernel,
        "fast_userspace" => sum.userspace,
        "fast_irqsoff" => sum.kernel / 2,
        "read_4" => sum.reads,
        "write_4" => sum.writes,
        _ => 0,
    };
    Vcpu {
        counters: counters().map(counter).collect(),
        pages: pages.iter().copied().collect(),
        ..Vcpu::default()
    }
}

/// The same as by the module, which tells instructions of the hottest page apart.
pub fn told() -> Reading {
    let mut reading = two_vms();
    for state in reading.vms.get_mut(&1).unwrap().vcpus.values_mut() {
        let all = state.pages[&0xfe00_3000].counts;
        let half = Counts {
            count: all.count / 2,
            writes: all.writes / 2,
            kernel: all.kernel / 2,
            fast: all.fast / 2,
            cycles: all.cycles / 2,
            ..Counts::default()
        };
        let rips = [0xffff_ffff_8100_0010, 0xffff_ffff_8100_0050];
        state.sites = rips
            .map(|rip| ((0xfe00_3000 | SOMEWHERE, Some(rip)), Site::from(half)))
            .into();
    }
    reading
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

/// So many VMs: of VM number N, 10 N accesses to a doorbell and N to the APIC. Each tenth has ended.
pub fn many_vms(count: u32) -> Reading {
    let vm = |number: u32| Vm {
        tgid: 5000 + number,
        ended: number % 10 == 0,
        heat_dropped: 0,
        vcpus: [(
            0,
            vcpu(&[
                (0xfe00_3000, page(0, 10 * u64::from(number), 0)),
                (0xfee0_0000, page(u64::from(number), 0, 0)),
            ]),
        )]
        .into(),
    };
    let mut reading = idle();
    reading.clock.flags |= HEAT;
    reading.vms = (1..=count)
        .map(|number| (number.into(), vm(number)))
        .collect();
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
    let counters = prop::collection::vec(any::<u64>(), counters().count());
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
