// SPDX-License-Identifier: GPL-2.0
//! Names for guest-physical addresses: which device is behind a page.

mod builtin;
mod config;
mod mtree;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Bytes of a page, the unit in which the kernel counts.
pub const PAGE: u64 = 4096;

/// Who says that a range has a name. The first in this order is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A file of the user.
    User,
    /// QEMU's `info mtree`.
    Qemu,
    /// The conventions of PCs.
    Builtin,
}

/// A range of guest-physical addresses with a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    pub name: String,
    /// First byte.
    pub start: u64,
    /// Last byte.
    pub last: u64,
    pub source: Source,
}

impl Region {
    /// First byte of the first page that the range touches.
    fn first_page(&self) -> u64 {
        self.start & !(PAGE - 1)
    }

    fn has_page(&self, gpa: u64) -> bool {
        self.first_page() <= gpa && gpa <= self.last
    }

    /// What decides between two ranges that have the same page; the least wins. The closest fit
    /// in pages; of several parts of one page the largest.
    fn rank(&self) -> (bool, u64, Source, u64) {
        let pages = (self.last - self.first_page()) / PAGE;
        let size = self.last - self.start;
        (self.source != Source::User, pages, self.source, !size)
    }
}

/// All ranges that have names.
#[derive(Clone, Debug)]
pub struct Regions {
    /// In the order of [`Region::rank`].
    regions: Vec<Region>,
}

impl Default for Regions {
    /// What is known of every PC.
    fn default() -> Self {
        Self::from(Vec::new())
    }
}

impl From<Vec<Region>> for Regions {
    fn from(given: Vec<Region>) -> Self {
        let mut regions = given;
        regions.extend(builtin::regions());
        regions.sort_by_key(Region::rank);
        Self { regions }
    }
}

impl Regions {
    /// The range that a page is part of.
    pub fn find(&self, gpa: u64) -> Option<&Region> {
        self.regions.iter().find(|region| region.has_page(gpa))
    }

    /// The name of the range that a page is part of.
    pub fn device(&self, gpa: u64) -> &str {
        self.find(gpa).map_or("unknown", |region| &region.name)
    }

    /// The name of a page: that of its range, and where in it if it has several pages.
    pub fn page(&self, gpa: u64) -> String {
        let Some(region) = self.find(gpa) else {
            return "unknown".to_owned();
        };
        if region.last - region.first_page() < PAGE {
            return region.name.clone();
        }
        format!("{} +{:#x}", region.name, gpa - region.first_page())
    }
}

/// Reads the ranges of a TOML file.
pub fn read_config(path: &Path) -> Result<Vec<Region>> {
    config::parse(&read(path)?).with_context(|| format!("{}", path.display()))
}

/// Reads the ranges that QEMU's monitor has printed for `info mtree`.
pub fn read_mtree(path: &Path) -> Result<Vec<Region>> {
    mtree::parse(&read(path)?).with_context(|| format!("{}", path.display()))
}

fn read(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(name: &str, start: u64, last: u64, source: Source) -> Region {
        Region {
            name: name.to_owned(),
            start,
            last,
            source,
        }
    }

    #[test]
    fn what_every_pc_has() {
        let regions = Regions::default();
        for (gpa, name) in [
            (0xfee0_0000, "local APIC"),
            (0xfec0_0000, "IOAPIC"),
            (0xfed0_0000, "HPET"),
            (0xfee0_1000, "MSI range +0x1000"),
            (0xa_0000, "VGA window +0x0"),
            (0xd000_1000, "PCI hole +0x50001000"),
            (0x10_0000_2000, "64-bit PCI hole +0xf00002000"),
            (0x10_0000, "unknown"),
        ] {
            assert_eq!(regions.page(gpa), name, "{gpa:#x}");
        }
    }

    #[test]
    fn the_closest_fit_wins() {
        let regions = Regions::from(vec![
            region("bar", 0xfe00_0000, 0xfe00_3fff, Source::Qemu),
            region("notify", 0xfe00_3000, 0xfe00_3fff, Source::Qemu),
            region("msix", 0xfe00_1000, 0xfe00_1fff, Source::Qemu),
            region("table", 0xfe00_1000, 0xfe00_103f, Source::Qemu),
            region("apic-msi", 0xfee0_0000, 0xfeef_ffff, Source::Qemu),
        ]);
        assert_eq!(regions.page(0xfe00_0000), "bar +0x0");
        assert_eq!(regions.page(0xfe00_1000), "msix");
        assert_eq!(regions.page(0xfe00_3000), "notify");
        assert_eq!(regions.page(0xfee0_0000), "local APIC");
        assert_eq!(regions.page(0xfee0_1000), "apic-msi +0x1000");
    }

    #[test]
    fn the_user_is_always_believed() {
        let regions = Regions::from(vec![
            region("mine", 0xfe00_0000, 0xfeff_ffff, Source::User),
            region("notify", 0xfe00_3000, 0xfe00_3fff, Source::Qemu),
        ]);
        assert_eq!(regions.device(0xfe00_3000), "mine");
        assert_eq!(regions.device(0xfee0_0000), "mine");
    }

    #[test]
    fn the_last_page_there_is() {
        let regions = Regions::from(vec![region("end", u64::MAX, u64::MAX, Source::User)]);
        assert_eq!(regions.page(!(PAGE - 1)), "end");
    }
}
