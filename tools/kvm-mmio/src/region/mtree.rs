// SPDX-License-Identifier: GPL-2.0
//! What QEMU's monitor prints for `info mtree` and `info mtree -f`: the address spaces of a VM,
//! one range a line. Only the address space of the memory is of interest.

use anyhow::{Result, bail};

use super::{Region, Source};

/// The address space that vCPUs see.
const MEMORY: &str = "memory";

pub fn parse(text: &str) -> Result<Vec<Region>> {
    let mut place = Place::default();
    let mut regions = Vec::new();
    for line in text.lines().map(str::trim_end) {
        place.pass(line);
        if place.of_memory {
            regions.extend(range(line));
        }
    }
    if regions.is_empty() {
        bail!("no device ranges in it; it should be what QEMU's monitor prints for `info mtree`");
    }
    Ok(regions)
}

/// Where in the text we are.
#[derive(Default)]
struct Place {
    of_memory: bool,
    /// In the heading, which may name several address spaces that share one tree.
    heading: bool,
}

impl Place {
    fn pass(&mut self, line: &str) {
        let tree = line.strip_prefix("address-space: ");
        let flat = line
            .strip_prefix(" AS \"")
            .and_then(|rest| rest.split('"').next());
        if let Some(name) = tree.or(flat) {
            self.of_memory = self.heading && self.of_memory || name == MEMORY;
            self.heading = true;
        } else if line.starts_with("memory-region: ") || line.starts_with("FlatView ") {
            *self = Self::default();
        } else if !line.starts_with(" Root memory region:") {
            self.heading = false;
        }
    }
}

/// `  00000000fec00000-00000000fec00fff (prio 0, i/o): ioapic`, if it is one of a device.
fn range(line: &str) -> Option<Region> {
    let (range, rest) = line.trim_start().split_once(" (prio ")?;
    let (kind, name) = rest.split_once("): ")?;
    let (start, last) = range.split_once('-')?;
    let (start, last) = (hex(start)?, hex(last)?);
    let (_, kind) = kind.split_once(", ")?;
    // Memory does not trap. An alias shows in its place what has a line of its own elsewhere. What
    // spans everything holds other ranges and is no device.
    let whole = start == 0 && last >= u64::MAX / 2;
    let device = kind != "ram" && !name.starts_with("alias ") && !name.ends_with("[disabled]");
    // The part of a region that a flat view shows: "io @0000000000000010".
    let name = name.rsplit_once(" @").map_or(name, |(name, _)| name);
    (device && !whole && start <= last).then(|| Region {
        name: name.replace(|c: char| c.is_control(), "?"),
        start,
        last,
        source: Source::Qemu,
    })
}

fn hex(digits: &str) -> Option<u64> {
    u64::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::region::Regions;

    const TREE: &str = include_str!("../../tests/data/mtree-q35.txt");
    const FLAT: &str = include_str!("../../tests/data/mtree-flat.txt");

    #[test]
    fn a_tree_of_qemu() {
        let regions = Regions::from(parse(TREE).unwrap());
        for (gpa, name) in [
            (0xfe00_3000, "virtio-pci-notify-virtio-net"),
            (0xfe00_7000, "virtio-pci-notify-virtio-blk"),
            (0xfebd_0000, "vga.mmio"),
            (0xfebd_1000, "virtio-net-pci-msix"),
            (0xfec0_0000, "ioapic"),
            (0xfed0_0000, "hpet"),
            (0xfee0_0000, "local APIC"),
            (0xfee0_2000, "apic-msi +0x2000"),
            (0xb000_1000, "pcie-mmcfg-mmio +0x1000"),
            (0xfffc_0000, "pc.bios +0x0"),
            (0xfd00_0000, "0xfd000000"),
        ] {
            assert_eq!(regions.page(gpa), name, "{gpa:#x}");
        }
        // Ports are no addresses of memory.
        assert_eq!(regions.device(0), "unknown");
    }

    #[test]
    fn a_flat_view_of_qemu() {
        let regions = Regions::from(parse(FLAT).unwrap());
        assert_eq!(regions.page(0xfebf_f000), "virtio-pci-notify-virtio-net");
        assert_eq!(regions.page(0xfebc_0000), "msix-table + msix-pba");
        assert_eq!(regions.page(0xfed1_c000), "lpc-rcrb-mmio +0x0");
        assert_eq!(regions.device(0), "unknown");
    }

    #[test]
    fn something_else_is_refused() {
        for text in [
            "",
            "hello\n",
            "address-space: I/O\n  0000000000000000-0000000000000007 (prio 0, i/o): dma\n",
        ] {
            assert!(format!("{:#}", parse(text).unwrap_err()).contains("info mtree"));
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "\\PC*") {
            let _ = parse(&text);
        }

        #[test]
        fn no_line_panics(start in "[0-9a-fx-]{0,18}", last in "[0-9a-f]{0,17}", rest in "[ (prio0-9,/:)a-z@]*") {
            let _ = parse(&format!("address-space: memory\n  {start}-{last} (prio 0, i/o): {rest}\n"));
        }
    }
}
