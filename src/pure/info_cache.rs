// SPDX-License-Identifier: GPL-2.0

//! A vCPU's cache of its last MMIO pages.
//!
//! KVM's own cache (`vcpu->arch.mmio_*`) holds one page, and the emulator looks there. This one
//! holds many, each in the place that its address selects: a vCPU that goes round device pages
//! finds each at the same cost. An entry holds as long as KVM's would:
//!
//! - until a memslot changes, which the generation tells;
//! - its GVA until the vCPU's translations may have changed, see [`InfoCache::clear`].

use crate::{
    addr::{Gpa, Gva, PAGE_SHIFT},
    generation::MemslotGeneration,
    mmio_info::MmioInfo, //
};

/// Entries of the cache, a power of two: as many pages as the devices of a large guest have.
const ENTRIES: usize = 1 << ENTRY_BITS;
const ENTRY_BITS: u32 = 8;

/// The entry of a page: neighbours do not share one, nor do a few pages at the same distance.
#[inline(always)]
const fn entry_of(page: u64) -> usize {
    (page ^ page >> ENTRY_BITS) as usize % ENTRIES
}

/// The entry that a page belongs in, by the address with which it is looked for.
const fn entry_for(info: &MmioInfo) -> usize {
    match info.gva {
        Gva(0) => entry_of(info.gfn.0),
        Gva(gva) => entry_of(gva >> PAGE_SHIFT),
    }
}

/// Which GVAs a change of translations concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clear {
    /// All: a CR3 switch, an unload or a sync of the MMU.
    All,
    /// The page of one address: INVLPG.
    Page(Gva),
}

/// A page, and which of the times that all virtual addresses were forgotten came before it.
#[derive(Clone, Copy, Debug)]
struct Entry {
    info: MmioInfo,
    clears: u32,
}

/// The cache. All zero, it knows nothing.
#[derive(Debug)]
pub struct InfoCache {
    entries: [Entry; ENTRIES],
    /// How often all virtual addresses were forgotten: a guest with shadow paging that switches
    /// CR3 must not pay for each entry.
    clears: u32,
}

impl InfoCache {
    /// A cache that knows nothing.
    pub const fn new() -> Self {
        Self {
            entries: [Entry {
                info: MmioInfo::EMPTY,
                clears: 0,
            }; ENTRIES],
            clears: 0,
        }
    }

    /// Finds the entry of a virtual address.
    #[inline(always)]
    pub fn find_gva(&self, gva: Gva, now: MemslotGeneration) -> Option<&MmioInfo> {
        let entry = &self.entries[entry_of(gva.0 >> PAGE_SHIFT)];
        (entry.info.matches_gva(gva, now) && entry.clears == self.clears).then_some(&entry.info)
    }

    /// Finds the entry of a physical address. One that came with a virtual address is found only
    /// if both are the same, as they are without paging.
    #[inline(always)]
    pub fn find_gpa(&self, gpa: Gpa, now: MemslotGeneration) -> Option<&MmioInfo> {
        let info = &self.entries[entry_of(gpa.gfn().0)].info;
        info.matches_gpa(gpa, now).then_some(info)
    }

    /// Remembers a page. Nothing is remembered while the memslots change, as nobody can tell
    /// which of the two sets the caller has seen.
    ///
    /// An entry of the same virtual address is replaced: there is at most one for each.
    ///
    /// # Examples
    ///
    /// ```
    /// use kvm_mmio_ext::addr::{Gfn, Gpa, Gva};
    /// use kvm_mmio_ext::{generation::MemslotGeneration, mmio_info::MmioInfo};
    /// use kvm_mmio_ext::pure::info_cache::{Clear, InfoCache};
    ///
    /// let now = MemslotGeneration(2);
    /// let mut cache = InfoCache::new();
    /// cache.insert(MmioInfo { gva: Gva(0x7000), gfn: Gfn(0xfeb00), access: 0, generation: now });
    /// assert!(cache.find_gva(Gva(0x7010), now).is_some());
    /// // The memslots have changed: nobody knows whether it is MMIO still.
    /// assert!(cache.find_gva(Gva(0x7010), MemslotGeneration(4)).is_none());
    /// cache.clear(Clear::Page(Gva(0x7000)));
    /// assert!(cache.find_gva(Gva(0x7010), now).is_none());
    /// ```
    pub fn insert(&mut self, info: MmioInfo) {
        if !info.generation.update_in_progress() {
            self.entries[entry_for(&info)] = Entry {
                info,
                clears: self.clears,
            };
        }
    }

    /// Forgets virtual addresses: `vcpu_clear_mmio_info()`. That the frames are MMIO remains true.
    pub fn clear(&mut self, what: Clear) {
        match what {
            Clear::All => {
                self.clears = self.clears.wrapping_add(1);
                if self.clears == 0 {
                    self.forget_each();
                }
            }
            Clear::Page(gva) => {
                let info = &mut self.entries[entry_of(gva.0 >> PAGE_SHIFT)].info;
                if info.gva == gva.page() {
                    info.gva = Gva(0);
                }
            }
        }
    }

    /// What [`Clear::All`] comes to when it has come round: nothing may be as old as that.
    #[cold]
    fn forget_each(&mut self) {
        for entry in &mut self.entries {
            entry.info.gva = Gva(0);
        }
    }
}

impl Default for InfoCache {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Gfn;

    const NOW: MemslotGeneration = MemslotGeneration(42);
    const LATER: MemslotGeneration = MemslotGeneration(44);

    fn info(gva: u64, gfn: u64) -> MmioInfo {
        MmioInfo {
            gva: Gva(gva),
            gfn: Gfn(gfn),
            access: 6,
            generation: NOW,
        }
    }

    #[test]
    fn finds_what_was_inserted_for_the_whole_page() {
        let mut cache = InfoCache::new();
        cache.insert(info(0x7000, 0xfe000));
        assert_eq!(
            cache.find_gva(Gva(0x7fff), NOW),
            Some(&info(0x7000, 0xfe000))
        );
        cache.insert(info(0, 0xfe000));
        assert_eq!(
            cache.find_gpa(Gpa(0xfe00_0abc), NOW),
            Some(&info(0, 0xfe000))
        );
        assert_eq!(cache.find_gva(Gva(0x8000), NOW), None);
        assert_eq!(cache.find_gpa(Gpa(0xfe00_1000), NOW), None);
    }

    /// Though some have the same entry.
    #[test]
    fn finds_no_other_page() {
        let mut cache = InfoCache::new();
        cache.insert(info(0x7000, 0xfe000));
        cache.insert(info(0, 0xfe003));
        for page in 0..1 << 20 {
            let gva = Gva(page << PAGE_SHIFT);
            assert_eq!(cache.find_gva(gva, NOW).is_some(), page == 7);
            let gpa = Gfn(page).gpa();
            assert_eq!(cache.find_gpa(gpa, NOW).is_some(), page == 0xfe003);
        }
    }

    #[test]
    fn a_new_generation_hides_everything() {
        let mut cache = InfoCache::new();
        cache.insert(info(0x7000, 0xfe001));
        cache.insert(info(0, 0xfe000));
        assert_eq!(cache.find_gva(Gva(0x7000), LATER), None);
        assert_eq!(cache.find_gpa(Gpa(0xfe00_0000), LATER), None);
    }

    #[test]
    fn nothing_is_cached_or_found_during_an_update() {
        let updating = MemslotGeneration(NOW.0 | 1 << 63);
        let mut cache = InfoCache::new();
        cache.insert(MmioInfo {
            generation: updating,
            ..info(0, 0xfe000)
        });
        assert_eq!(cache.find_gpa(Gpa(0xfe00_0000), updating), None);
        cache.insert(info(0, 0xfe000));
        assert_eq!(cache.find_gpa(Gpa(0xfe00_0000), updating), None);
    }

    #[test]
    fn clearing_forgets_addresses_but_not_frames() {
        let mut cache = InfoCache::new();
        cache.insert(info(0x7000, 0xfe000));
        cache.insert(info(0x9000, 0xfe001));
        // Without paging, both addresses are the same.
        cache.insert(info(0xfe00_2000, 0xfe002));
        cache.clear(Clear::Page(Gva(0x7123)));
        assert_eq!(cache.find_gva(Gva(0x7000), NOW), None);
        assert!(cache.find_gva(Gva(0x9000), NOW).is_some());
        cache.clear(Clear::All);
        assert_eq!(cache.find_gva(Gva(0x9000), NOW), None);
        assert_eq!(cache.find_gva(Gva(0xfe00_2000), NOW), None);
        assert!(cache.find_gpa(Gpa(0xfe00_2000), NOW).is_some());
    }

    #[test]
    fn finds_addresses_again_after_a_clear() {
        let mut cache = InfoCache::new();
        for _ in 0..3 {
            cache.insert(info(0x7000, 0xfe000));
            assert!(cache.find_gva(Gva(0x7000), NOW).is_some());
            cache.clear(Clear::All);
        }
    }

    /// Even if the number of times comes round to what it was for an entry.
    #[test]
    fn forgotten_addresses_do_not_come_back() {
        let mut cache = InfoCache::new();
        cache.insert(info(0x7000, 0xfe000));
        cache.clears = u32::MAX;
        assert_eq!(cache.find_gva(Gva(0x7000), NOW), None);
        cache.clear(Clear::All);
        assert_eq!(cache.find_gva(Gva(0x7000), NOW), None);
    }

    #[test]
    fn a_remapped_address_replaces_its_entry() {
        let mut cache = InfoCache::new();
        cache.insert(info(0x7000, 0xfe000));
        cache.insert(info(0x7000, 0xfe001));
        assert_eq!(
            cache.find_gva(Gva(0x7000), NOW),
            Some(&info(0x7000, 0xfe001))
        );
    }

    #[test]
    fn frame_and_address_zero_are_never_found() {
        let mut cache = InfoCache::new();
        assert_eq!(cache.find_gpa(Gpa(0), MemslotGeneration(0)), None);
        cache.insert(info(0, 0));
        assert_eq!(cache.find_gva(Gva(0), NOW), None);
        assert_eq!(cache.find_gpa(Gpa(0), NOW), None);
    }

    #[test]
    fn as_many_pages_as_entries() {
        let mut cache = InfoCache::new();
        for round in 0..3 {
            for page in 0..ENTRIES as u64 {
                if round > 0 {
                    assert!(cache.find_gpa(Gfn(0xfe000 + page).gpa(), NOW).is_some());
                }
                cache.insert(info(0, 0xfe000 + page));
            }
        }
    }

    /// Against the obvious model: a list of all that was inserted, newest first. The cache may
    /// have forgotten, but what it finds must be what the model finds.
    #[test]
    fn never_finds_what_a_perfect_cache_would_not() {
        let mut seed = 1u64;
        let mut random = |n: u64| {
            seed = seed
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (seed >> 33) % n
        };
        let mut cache = InfoCache::new();
        let mut model: Vec<MmioInfo> = Vec::new();
        let mut now = MemslotGeneration(2);
        for _ in 0..200_000 {
            let gva = Gva(random(12) << 12);
            match random(10) {
                0 => now.0 += 2,
                1 => {
                    cache.clear(Clear::All);
                    model.iter_mut().for_each(|info| info.gva = Gva(0));
                }
                2 => {
                    cache.clear(Clear::Page(gva));
                    model
                        .iter_mut()
                        .filter(|info| info.gva == gva)
                        .for_each(|info| info.gva = Gva(0));
                }
                3..=5 => {
                    let info = MmioInfo {
                        gva,
                        gfn: Gfn(random(12)),
                        access: random(8) as u32,
                        generation: now,
                    };
                    cache.insert(info);
                    model.insert(0, info);
                    model.truncate(64);
                }
                _ => {
                    let found = cache.find_gva(gva, now).copied();
                    let truth = model
                        .iter()
                        .find(|info| info.matches_gva(gva, now))
                        .copied();
                    assert!(found.is_none() || found == truth, "{found:?} {truth:?}");
                    let gpa = Gfn(random(12)).gpa();
                    if cache.find_gpa(gpa, now).is_some() {
                        assert!(model.iter().any(|info| info.matches_gpa(gpa, now)));
                    }
                }
            }
        }
    }
}
