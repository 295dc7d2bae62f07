// SPDX-License-Identifier: GPL-2.0
//! The names of all pages of a VM.

use super::builtin;
use super::range::{PAGE, Region, Source};

/// Most names that a page has; of more devices it has their number.
const NAMED: usize = 3;

/// What a device has of a page that it shares, by its first and last byte.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    pub name: String,
    pub start: u64,
    pub last: u64,
}

impl Part {
    pub fn has(&self, gpa: u64) -> bool {
        self.start <= gpa && gpa <= self.last
    }
}

/// All ranges of a VM that have names.
#[derive(Clone, Debug)]
pub struct Map {
    /// In the order of [`Region::rank`].
    regions: Vec<Region>,
}

impl Default for Map {
    /// What is known of every PC.
    fn default() -> Self {
        Self::from(Vec::new())
    }
}

impl From<Vec<Region>> for Map {
    fn from(given: Vec<Region>) -> Self {
        let mut regions = given;
        regions.extend(builtin::regions());
        regions.sort_by_key(Region::rank);
        Self { regions }
    }
}

impl Map {
    /// The devices that have a part of a page, in the order of their addresses. What holds another
    /// of them, or is a part of it, is no other device.
    fn find(&self, gpa: u64) -> Vec<&Region> {
        let mut found: Vec<&Region> = Vec::new();
        for region in self.regions.iter().filter(|region| region.has_page(gpa)) {
            // Where PCs have something says nothing against what this VM has there.
            let guessed = region.source == Source::Builtin && !found.is_empty();
            let nested = |other: &&Region| are_nested(region.part(gpa), other.part(gpa));
            if !guessed && !found.iter().any(nested) {
                found.push(region);
            }
        }
        if found.len() > NAMED {
            // The registers of one device that QEMU shows apart are called as the device.
            found = self.holding(&found).map_or(found, |device| vec![device]);
        }
        found.sort_by_key(|region| region.start);
        found
    }

    /// The narrowest range of QEMU that has all of these.
    fn holding(&self, parts: &[&Region]) -> Option<&Region> {
        let has =
            |region: &Region, part: &Region| region.start <= part.start && part.last <= region.last;
        self.regions.iter().find(|region| {
            region.source == Source::Qemu && parts.iter().all(|part| has(region, part))
        })
    }

    /// The name of the device that a page is part of, or of those that share it. Its address if
    /// nobody knows what is there, so that unknown devices are not taken for one.
    pub fn device(&self, gpa: u64) -> String {
        match self.find(gpa).as_slice() {
            [] => format!("{gpa:#x}"),
            [region] => region.name.clone(),
            several => names(several),
        }
    }

    /// The devices that share a page; none if it is part of one only.
    pub fn shared(&self, gpa: u64) -> Vec<String> {
        self.parts(gpa).into_iter().map(|part| part.name).collect()
    }

    /// The same, with what each has of the page.
    pub fn parts(&self, gpa: u64) -> Vec<Part> {
        let found = self.find(gpa);
        let several = if found.len() > 1 { found } else { Vec::new() };
        let part = |region: &Region| {
            let (start, last) = region.part(gpa);
            let name = region.name.clone();
            Part { name, start, last }
        };
        several.into_iter().map(part).collect()
    }

    /// The name of a page: that of its range, and where in it if it has several pages. Its address
    /// if nobody knows what is there.
    pub fn page(&self, gpa: u64) -> String {
        match self.find(gpa).as_slice() {
            [] => format!("{gpa:#x}"),
            [region] if region.last - region.first_page() < PAGE => region.name.clone(),
            [region] => format!("{} +{:#x}", region.name, gpa - region.first_page()),
            several => names(several),
        }
    }
}

/// Whether one of two ranges is a part of the other.
fn are_nested(a: (u64, u64), b: (u64, u64)) -> bool {
    let within = |a: (u64, u64), b: (u64, u64)| b.0 <= a.0 && a.1 <= b.1;
    within(a, b) || within(b, a)
}

/// How several devices are called together, as "rtc + 7 x virtio-mmio" or "12 devices".
fn names(devices: &[&Region]) -> String {
    let mut groups: Vec<(&str, usize)> = Vec::new();
    for device in devices {
        match groups.iter_mut().find(|(name, _)| *name == device.name) {
            Some((_, count)) => *count += 1,
            None => groups.push((&device.name, 1)),
        }
    }
    if groups.len() > NAMED {
        return format!("{} devices", devices.len());
    }
    let group = |&(name, count): &(&str, usize)| match count {
        1 => name.to_owned(),
        _ => format!("{count} x {name}"),
    };
    groups.iter().map(group).collect::<Vec<_>>().join(" + ")
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
        let map = Map::default();
        for (gpa, name) in [
            (0xfee0_0000, "local APIC"),
            (0xfec0_0000, "IOAPIC"),
            (0xfed0_0000, "HPET"),
            (0xfee0_1000, "MSI range +0x1000"),
            (0xa_0000, "VGA window +0x0"),
            (0xd000_1000, "0xd0001000"),
            (0x10_0000_2000, "0x1000002000"),
            (0x10_0000, "0x100000"),
        ] {
            assert_eq!(map.page(gpa), name, "{gpa:#x}");
        }
    }

    #[test]
    fn an_unknown_device_is_an_address() {
        let map = Map::default();
        for (gpa, name) in [
            (0xd000_1000, "0xd0001000"),
            (0xfeb0_0000, "0xfeb00000"),
            (0x10_0000_2000, "0x1000002000"),
            (0x10_0000, "0x100000"),
        ] {
            assert_eq!(map.device(gpa), name);
        }
    }

    #[test]
    fn the_closest_fit_wins() {
        let map = Map::from(vec![
            region("bar", 0xfe00_0000, 0xfe00_3fff, Source::Qemu),
            region("notify", 0xfe00_3000, 0xfe00_3fff, Source::Qemu),
            region("msix", 0xfe00_1000, 0xfe00_1fff, Source::Qemu),
            region("table", 0xfe00_1000, 0xfe00_103f, Source::Qemu),
            region("apic-msi", 0xfee0_0000, 0xfeef_ffff, Source::Qemu),
        ]);
        assert_eq!(map.page(0xfe00_0000), "bar +0x0");
        assert_eq!(map.page(0xfe00_1000), "msix");
        assert_eq!(map.page(0xfe00_3000), "notify");
        assert_eq!(map.page(0xfee0_0000), "local APIC");
        assert_eq!(map.page(0xfee0_1000), "apic-msi +0x1000");
    }

    #[test]
    fn the_user_is_always_believed() {
        let map = Map::from(vec![
            region("mine", 0xfe00_0000, 0xfeff_ffff, Source::User),
            region("notify", 0xfe00_3000, 0xfe00_3fff, Source::Qemu),
        ]);
        assert_eq!(map.device(0xfe00_3000), "mine");
        assert_eq!(map.device(0xfee0_0000), "mine");
    }

    #[test]
    fn a_page_of_several_devices_is_of_all() {
        let map = Map::from(vec![
            region("a", 0xd000_0000, 0xd000_01ff, Source::User),
            region("b", 0xd000_0200, 0xd000_11ff, Source::User),
            region("c", 0xd000_1200, 0xd000_13ff, Source::Qemu),
            region("part of c", 0xd000_1200, 0xd000_120f, Source::Qemu),
            region("c", 0xd000_1400, 0xd000_15ff, Source::Qemu),
        ]);
        assert_eq!(map.page(0xd000_0000), "a + b");
        assert_eq!(map.device(0xd000_1000), "b + 2 x c");
        assert_eq!(map.shared(0xd000_1000), ["b", "c", "c"]);
        assert!(map.shared(0xfec0_0000).is_empty());
        let four = ["a", "b", "c", "d"].into_iter().zip(0u64..);
        let four = four.map(|(name, at)| region(name, at * 512, at * 512 + 511, Source::Qemu));
        assert_eq!(Map::from(four.collect::<Vec<_>>()).page(0), "4 devices");
    }

    #[test]
    fn the_last_page_there_is() {
        let map = Map::from(vec![region("end", u64::MAX, u64::MAX, Source::User)]);
        assert_eq!(map.page(!(PAGE - 1)), "end");
    }
}
