// SPDX-License-Identifier: GPL-2.0
//! What is worth to be changed in a VM, where what its pages show is well known.

use serde::Serialize;

use crate::counts::Counts;
use crate::row::Row;

/// Fewer accesses cost nothing that anybody would notice.
const LEAST: u64 = 1000;

/// Nor does what is less than a twentieth of all.
const SHARE: u64 = 20;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename = "advice")]
pub struct Advice {
    /// Its section in Documentation/kvm-mmio.rst.
    pub topic: &'static str,
    pub device: String,
    pub accesses: u64,
    pub text: &'static str,
}

/// A well-known pattern.
struct Pattern {
    topic: &'static str,
    /// In lower case; a device whose name has one of them is meant.
    devices: &'static [&'static str],
    /// How many of its accesses show the pattern.
    accesses: fn(&Counts) -> u64,
    /// Counts of tracepoints only: the extension answers these fast.
    traced: bool,
    text: &'static str,
}

const PATTERNS: &[Pattern] = &[
    Pattern {
        topic: "ioapic",
        devices: &["ioapic"],
        accesses: |counts| counts.userspace,
        traced: false,
        text: "the VMM has the I/O APIC (split irqchip): have the devices use MSI, or KVM have the \
               I/O APIC",
    },
    Pattern {
        topic: "virtio-mmio",
        devices: &["virtio-mmio"],
        accesses: |counts| counts.userspace,
        traced: false,
        text: "each interrupt costs a read of its status and a write: virtio-pci with MSI-X has \
               neither",
    },
    Pattern {
        topic: "doorbells",
        devices: &["notify", "doorbell"],
        accesses: |counts| {
            (counts.writes - counts.writes.min(counts.userspace)) * u64::from(counts.wildcard == 0)
        },
        traced: true,
        text: "these ioeventfds compare what is written, for which KVM emulates the instruction: \
               those of zero length need not, nor does any with kvm_mmio_ext",
    },
    Pattern {
        topic: "msi-x",
        devices: &["msix"],
        accesses: |counts| counts.writes.min(counts.userspace),
        traced: false,
        text: "the guest masks and unmasks its interrupts one by one: it shares too few vectors, or \
               moves them about (irqbalance)",
    },
];

/// What there is to say of all pages of some VMs.
pub fn advice(rows: &[Row], is_traced: bool) -> Vec<Advice> {
    let total: u64 = rows.iter().map(|row| row.counts.count).sum();
    let least = LEAST.max(total / SHARE);
    let mut found: Vec<Advice> = Vec::new();
    for pattern in PATTERNS
        .iter()
        .filter(|pattern| is_traced || !pattern.traced)
    {
        let shown = rows.iter().filter(|row| pattern.is_of(row));
        let mut best: Option<Advice> = None;
        let mut accesses = 0;
        for row in shown {
            let count = (pattern.accesses)(&row.counts);
            accesses += count;
            if count != 0 && best.is_none() {
                best = Some(Advice {
                    topic: pattern.topic,
                    device: row.device.clone(),
                    accesses: 0,
                    text: pattern.text,
                });
            }
        }
        let best = best.filter(|_| accesses >= least);
        found.extend(best.map(|best| Advice { accesses, ..best }));
    }
    found
}

impl Pattern {
    fn is_of(&self, row: &Row) -> bool {
        let name = row.device.to_lowercase();
        self.devices.iter().any(|device| name.contains(device))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::{Page, Reading, Vcpu, Vm};
    use crate::region::{Given, Names, Owner, Region, Source};
    use crate::row::rows;
    use crate::view::View;

    const AT: u64 = 0xd000_0000;

    /// The topics of what is said of a device with these counts.
    fn topics(name: &str, counts: Counts, is_traced: bool) -> Vec<&'static str> {
        let page = Page {
            counts,
            ..Page::default()
        };
        let vcpu = Vcpu {
            pages: [(AT, page)].into(),
            ..Vcpu::default()
        };
        let vm = Vm {
            vcpus: [(0, vcpu)].into(),
            ..Vm::default()
        };
        let reading = Reading {
            vms: [(1, vm)].into(),
            ..Reading::default()
        };
        let region = Region {
            name: name.to_owned(),
            start: AT,
            last: AT + 0xfff,
            source: Source::Qemu,
        };
        let owner = Owner::All;
        let names = Names::new(vec![Given { owner, region }], [].into());
        let rows = rows(&reading, &names, &View::default());
        advice(&rows, is_traced)
            .iter()
            .map(|advice| advice.topic)
            .collect()
    }

    fn of(reads: u64, writes: u64, userspace: u64, wildcard: u64) -> Counts {
        let count = reads + writes + wildcard;
        Counts {
            count,
            reads,
            writes,
            wildcard,
            userspace,
            kernel: count - userspace,
            ..Counts::default()
        }
    }

    #[test]
    fn patterns() {
        for (name, counts, is_traced, wanted) in [
            ("ioapic", of(500, 600, 1100, 0), false, &["ioapic"][..]),
            // In KVM.
            ("kvm-ioapic", of(500, 600, 0, 0), false, &[]),
            // Too few.
            ("ioapic", of(500, 400, 900, 0), false, &[]),
            ("virtio-mmio", of(900, 900, 1800, 0), true, &["virtio-mmio"]),
            (
                "virtio-pci-notify-net",
                of(0, 5000, 0, 0),
                true,
                &["doorbells"],
            ),
            ("virtio-pci-notify-net", of(0, 5000, 0, 0), false, &[]),
            // Of zero length; of no ioeventfd.
            ("virtio-pci-notify-net", of(0, 0, 0, 5000), true, &[]),
            ("virtio-pci-notify-net", of(0, 5000, 5000, 0), true, &[]),
            ("msix-table", of(10, 5000, 5010, 0), false, &["msi-x"]),
            ("hpet", of(5000, 5000, 10000, 0), true, &[]),
        ] {
            assert_eq!(topics(name, counts, is_traced), wanted, "{name} {counts:?}");
        }
    }

    #[test]
    fn each_has_its_page() {
        let text = include_str!("../../../Documentation/kvm-mmio.rst");
        for pattern in PATTERNS {
            assert!(
                text.contains(&format!("\n``{}``\n", pattern.topic)),
                "{}",
                pattern.topic
            );
        }
    }
}
