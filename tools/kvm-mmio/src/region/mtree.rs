// SPDX-License-Identifier: GPL-2.0
//! What QEMU's monitor prints for `info mtree`, with any of its options: the address spaces of a
//! VM, one range a line. Only the address space of the memory is of interest.
//!
//! A tree shows what is behind a PCIe root port or a PCI bridge as an alias of a window. The tree
//! of the bridge has a heading of its own further down, and is looked up there. A flat view (`-f`)
//! has all ranges in their places.

use std::collections::{HashSet, VecDeque};

use anyhow::{Result, bail};

use super::mtree_line::{Line, Range, What, flat};
use super::range::{Region, Source};

/// The address space that vCPUs see.
const MEMORY: &str = "memory";

/// What QEMU indents a child by.
const INDENT: usize = 2;

/// More aliases than any VM has; only a file that is not QEMU's has more.
const MAX_ALIASES: usize = 10_000;

pub fn parse(text: &str) -> Result<Vec<Region>> {
    let trees = trees(text);
    let all = Window {
        start: 0,
        last: u64::MAX,
        from: 0,
    };
    let memory = (0..).zip(&trees).filter(|(_, tree)| tree.of_memory);
    let mut found = Found::default();
    found
        .pending
        .extend(memory.map(|(number, _)| (number, all)));
    while let Some((number, window)) = found.pending.pop_front() {
        if found.followed.insert((number, window)) {
            found.take(&trees, number, window);
        }
        if found.followed.len() > MAX_ALIASES {
            bail!("more than {MAX_ALIASES} aliases in it");
        }
    }
    if found.regions.is_empty() {
        bail!("no device ranges in it; it should be what QEMU's monitor prints for `info mtree`");
    }
    Ok(found.regions)
}

/// The ranges below one heading.
#[derive(Default)]
struct Tree {
    of_memory: bool,
    /// The region that has this tree, if its heading is one of an alias' target.
    region: Option<String>,
    ranges: Vec<Range>,
    /// Where the region begins, which is what the offset of an alias is counted from.
    start: u64,
}

/// Reads all headings with what is below them.
fn trees(text: &str) -> Vec<Tree> {
    let mut trees = Vec::new();
    let mut tree = Tree::default();
    // In the heading, which may name several address spaces that share one tree.
    let mut heading = false;
    let mut nesting = Nesting::default();
    for line in text.lines().map(str::trim_end) {
        let space = line.strip_prefix("address-space: ").or_else(|| flat(line));
        let region = line.strip_prefix("memory-region: ");
        if space.is_some() && heading {
            tree.of_memory |= space == Some(MEMORY);
        } else if space.is_some() || region.is_some() || line.starts_with("FlatView ") {
            trees.push(std::mem::take(&mut tree));
            tree.of_memory = space == Some(MEMORY);
            tree.region = region.map(str::to_owned);
            heading = true;
            nesting = Nesting::default();
        } else if let Some(line) = Line::parse(line) {
            if nesting.is_empty() {
                tree.start = line.start;
            }
            if nesting.enter(&line) {
                tree.ranges.extend(line.range());
            }
        }
        heading &= space.is_some() || !line.starts_with("  ") && !line.is_empty();
    }
    trees.push(tree);
    trees
}

/// The ranges that the present line is in, by their indents.
#[derive(Default)]
struct Nesting {
    indents: Vec<usize>,
    /// Where what is switched off begins; it takes all that is in it with it.
    disabled: Option<usize>,
}

impl Nesting {
    fn is_empty(&self) -> bool {
        self.indents.is_empty()
    }

    /// Goes on to the next line. Whether what it says is there for the guest.
    fn enter(&mut self, line: &Line) -> bool {
        if self.disabled.is_some_and(|indent| line.indent > indent) {
            return false;
        }
        self.disabled = line.disabled.then_some(line.indent);
        while self.indents.last().is_some_and(|&last| last >= line.indent) {
            self.indents.pop();
        }
        // Without -D, QEMU leaves out what is switched off, but not what is in it.
        let parent = self.indents.last().copied();
        let hidden = parent.map(|parent| parent + INDENT);
        if hidden.is_some_and(|hidden| line.indent > hidden) {
            self.disabled = hidden;
            return false;
        }
        self.indents.push(line.indent);
        !line.disabled
    }
}

/// Where a tree is seen: guest-physical addresses, and the address in the tree that the first of
/// them shows.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Window {
    start: u64,
    last: u64,
    from: u64,
}

impl Window {
    /// The part of a range of the tree that is seen, in guest-physical addresses.
    fn cut(&self, start: u64, last: u64) -> Option<(u64, u64)> {
        // In the tree, the window ends here.
        let end = self.from.saturating_add(self.last - self.start);
        let (first, last) = (start.max(self.from), last.min(end));
        (first <= last).then(|| {
            (
                self.start + (first - self.from),
                self.start + (last - self.from),
            )
        })
    }
}

/// What has been found so far.
#[derive(Default)]
struct Found {
    regions: Vec<Region>,
    /// The same, as a range may be seen by way of two aliases, in the same place.
    known: HashSet<Region>,
    /// Trees, and the windows through which they are still to be looked at.
    pending: VecDeque<(usize, Window)>,
    /// Those through which they have been.
    followed: HashSet<(usize, Window)>,
}

impl Found {
    /// Takes what is seen of a tree.
    fn take(&mut self, trees: &[Tree], number: usize, window: Window) {
        for range in &trees[number].ranges {
            let Some((start, last)) = window.cut(range.start, range.last) else {
                continue;
            };
            match &range.what {
                What::Nothing => {}
                What::Device => self.add(&range.name, start, last),
                What::Alias(target, offset) => {
                    // How far the window has cut off the beginning of the alias.
                    let hidden = window.from.saturating_sub(range.start);
                    self.follow_all(trees, target, offset.saturating_add(hidden), (start, last));
                }
            }
        }
    }

    /// The trees of all regions of a name, as two bridges have two regions `pci_bridge_pci`. What
    /// is in either is in the window of its own bridge only.
    fn follow_all(&mut self, trees: &[Tree], target: &str, offset: u64, (start, last): (u64, u64)) {
        for (number, tree) in trees.iter().enumerate() {
            if tree.region.as_deref() == Some(target) {
                let from = tree.start.saturating_add(offset);
                self.pending
                    .push_back((number, Window { start, last, from }));
            }
        }
    }

    fn add(&mut self, name: &str, start: u64, last: u64) {
        let region = Region {
            name: name.to_owned(),
            start,
            last,
            source: Source::Qemu,
        };
        if self.known.insert(region.clone()) {
            self.regions.push(region);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::region::map::Map;

    // Of which version of QEMU these two are, nobody wrote down; those whose name ends in a version
    // are of that one, the others of QEMU 10.
    const TREE: &str = include_str!("../../tests/data/mtree-q35.txt");
    const FLAT: &str = include_str!("../../tests/data/mtree-flat.txt");

    #[test]
    fn a_tree_of_qemu() {
        let map = Map::from(parse(TREE).unwrap());
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
            assert_eq!(map.page(gpa), name, "{gpa:#x}");
        }
        // Ports are no addresses of memory.
        assert_eq!(map.device(0), "0x0");
    }

    #[test]
    fn a_flat_view_of_qemu() {
        let map = Map::from(parse(FLAT).unwrap());
        assert_eq!(map.page(0xfebf_f000), "virtio-pci-notify-virtio-net");
        assert_eq!(map.page(0xfebc_0000), "msix-table + msix-pba");
        assert_eq!(map.page(0xfed1_c000), "lpc-rcrb-mmio +0x0");
        assert_eq!(map.device(0), "0x0");
    }

    fn expect_names(text: &str, names: &[(u64, &str)]) {
        let map = Map::from(parse(text).unwrap());
        for (gpa, name) in names {
            assert_eq!(map.page(*gpa), *name, "{gpa:#x}");
        }
    }

    /// q35 with two root ports, a device behind each, and one beside them: the first version that
    /// is of interest, the lab's, and one that calls containers so (trimmed, the tree with -o -D).
    #[test]
    fn root_ports_of_several_versions() {
        let common = [
            (0xfea0_3000, "virtio-pci-notify-virtio-net"),
            (0xfe80_3000, "virtio-pci-notify-virtio-rng"),
            (0xfe64_0000, "e1000e-mmio +0x0"),
            (0xfec0_0000, "ioapic"),
            // In no window.
            (0xfd00_0000, "0xfd000000"),
        ];
        for tree in [
            include_str!("../../tests/data/mtree-ports-7.2.22.txt"),
            include_str!("../../tests/data/mtree-ports-10.0.13.txt"),
            include_str!("../../tests/data/mtree-ports-11.1.3.txt"),
        ] {
            expect_names(tree, &common);
            expect_names(tree, &[(0xfe44_0000, "virtio-net-pci-msix")]);
        }
        for flat in [
            include_str!("../../tests/data/mtree-ports-flat-7.2.22.txt"),
            include_str!("../../tests/data/mtree-ports-flat-10.0.13.txt"),
            include_str!("../../tests/data/mtree-ports-flat-11.1.3.txt"),
        ] {
            expect_names(flat, &common);
            expect_names(flat, &[(0xfe44_0000, "msix-table + msix-pba")]);
        }
    }

    /// q35 with two root ports, behind one of which is a bridge.
    #[test]
    fn what_is_behind_bridges() {
        expect_names(
            include_str!("../../tests/data/mtree-bridges.txt"),
            &[
                (0xfea0_3000, "virtio-pci-notify-virtio-net"),
                (0xfe44_0000, "virtio-net-pci-msix"),
                (0xfe80_3000, "virtio-pci-notify-virtio-rng"),
                (0xfe00_0000, "xhci +0x0"),
                (0xfe00_2000, "doorbell"),
                (0xfe20_0000, "shpc-bar"),
                (0xfe60_1000, "pcie-root-port-msix"),
                (0xfec0_0000, "ioapic"),
                // In no window.
                (0xfd00_0000, "0xfd000000"),
            ],
        );
    }

    /// The same with -o and -D.
    #[test]
    fn owners_and_what_is_disabled() {
        expect_names(
            include_str!("../../tests/data/mtree-owner-disabled.txt"),
            &[
                (0xfea0_3000, "virtio-pci-notify-virtio-net"),
                (0xfe60_2000, "ahci"),
                (0xfee0_1000, "apic-msi +0x1000"),
                // Of smbase-blackhole, which is disabled.
                (0x3_0000, "0x30000"),
            ],
        );
    }

    /// The same with -f and -o.
    #[test]
    fn a_flat_view_with_owners() {
        expect_names(
            include_str!("../../tests/data/mtree-flat-owner.txt"),
            &[
                (0xfea0_3000, "virtio-pci-notify-virtio-net"),
                (0xfe44_0000, "msix-table + msix-pba"),
                (0xfe00_0000, "10 devices"),
                (0xfe20_0000, "shpc-mmio"),
            ],
        );
    }

    #[test]
    fn devices_that_share_pages() {
        expect_names(
            include_str!("../../tests/data/mtree-microvm.txt"),
            &[
                (0xfeb0_0000, "8 x virtio-mmio"),
                (0xfeb0_2000, "8 x virtio-mmio"),
            ],
        );
    }

    #[test]
    fn aliases_are_moved_and_cut() {
        let text = "address-space: memory
  00000000d0000000-00000000d0000fff (prio 1, i/o): alias window @inner 0000000000001000-0000000000001fff
  00000000e0000000-00000000e0000fff (prio 1, i/o): alias off @inner 0000000000000000-0000000000000fff [disabled]

memory-region: inner
  0000000000100000-0000000000103fff (prio 0, i/o): inner
    0000000000100000-0000000000100fff (prio 0, i/o): before
    0000000000100800-00000000001017ff (prio 0, i/o): into
    0000000000101900-0000000000101aff (prio 0, i/o): in
    0000000000102000-0000000000102fff (prio 0, i/o): behind
";
        let mut found: Vec<_> = parse(text).unwrap();
        found.retain(|region| region.name != "inner");
        let found: Vec<_> = found
            .iter()
            .map(|region| (region.name.as_str(), region.start, region.last))
            .collect();
        let wanted = [
            ("into", 0xd000_0000, 0xd000_07ff),
            ("in", 0xd000_0900, 0xd000_0aff),
        ];
        assert_eq!(found, wanted);
    }

    /// Without -D, the line of a container that is switched off is missing.
    #[test]
    fn what_is_in_something_disabled() {
        let text = "address-space: memory
  0000000000000000-ffffffffffffffff (prio 0, i/o): system
      00000000d0000000-00000000d0000fff (prio 0, i/o): child-of-hidden
        00000000d0000000-00000000d0000fff (prio 0, i/o): grandchild
    00000000d0010000-00000000d001ffff (prio 0, i/o): off [disabled] owner:{dev id=net0}
      00000000d0010000-00000000d0010fff (prio 0, i/o): child-of-disabled parent:{obj path=/machine}
    00000000d0000000-00000000d000ffff (prio 1, i/o): live orphan
      00000000d0001000-00000000d0001fff (prio 1, i/o): child
";
        expect_names(
            text,
            &[
                (0xd000_0000, "live +0x0"),
                (0xd000_1000, "child"),
                (0xd001_0000, "0xd0010000"),
            ],
        );
    }

    #[test]
    fn owners_are_no_part_of_names() {
        let text = "address-space: memory
  0000000000000000-ffffffffffffffff (prio 0, i/o): system
    00000000d0000000-00000000d0000fff (prio 1, i/o): old-bar [disabled] owner:{dev id=net0}
    00000000d0000000-00000000d000ffff (prio 1, i/o): new-bar owner:{dev id=net1}
    00000000d0020000-00000000d0023fff (prio 1, i/o): off-container [disabled]
      00000000d0020000-00000000d0020fff (prio 0, i/o): child-of-disabled
    00000000d0020000-00000000d002ffff (prio 1, i/o): live-device
";
        let map = Map::from(parse(text).unwrap());
        assert_eq!(map.device(0xd000_0000), "new-bar");
        assert_eq!(map.device(0xd002_0000), "live-device");
    }

    #[test]
    fn aliases_of_themselves_end() {
        let text = "address-space: memory
  0000000000000000-ffffffffffffffff (prio 0, i/o): alias a @a 0000000000000000-ffffffffffffffff

memory-region: a
  0000000000000000-ffffffffffffffff (prio 0, i/o): a
    0000000000001000-ffffffffffffffff (prio 0, i/o): alias b @a 0000000000000000-ffffffffffffefff
    0000000000000000-0000000000000fff (prio 0, i/o): x
";
        assert!(format!("{:#}", parse(text).unwrap_err()).contains("aliases"));
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
            let line = format!("{start}-{last} (prio 0, i/o): {rest}\n");
            let _ = parse(&format!("address-space: memory\n  {line}memory-region: a\n{line}"));
        }
    }
}
