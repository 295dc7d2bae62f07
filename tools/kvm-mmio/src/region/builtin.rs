// SPDX-License-Identifier: GPL-2.0
//! Where a PC has its devices, whatever the VMM. Its PCI holes are not among them: that a device is
//! in one says nothing of which device it is.

use super::range::{Region, Source};

/// First and last byte. Only pages without memory trap, so the ranges may be given generously: a
/// VMM that has memory in them causes no wrong name.
const REGIONS: &[(&str, u64, u64)] = &[
    ("VGA window", 0xa_0000, 0xb_ffff),
    ("IOAPIC", 0xfec0_0000, 0xfec0_0fff),
    ("HPET", 0xfed0_0000, 0xfed0_03ff),
    // SDM volume 3, "Local APIC Registers" and "Message Address Register Format": the processor
    // takes the first page for its local APIC, a device writes anywhere to send an interrupt.
    ("local APIC", 0xfee0_0000, 0xfee0_0fff),
    ("MSI range", 0xfee0_0000, 0xfeef_ffff),
    ("firmware flash", 0xff00_0000, 0xffff_ffff),
];

pub fn regions() -> impl Iterator<Item = Region> {
    REGIONS.iter().map(|&(name, start, last)| Region {
        name: name.to_owned(),
        start,
        last,
        source: Source::Builtin,
    })
}
