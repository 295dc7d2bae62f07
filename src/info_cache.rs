// SPDX-License-Identifier: GPL-2.0

//! A vCPU's cache of its last MMIO pages.
//!
//! KVM's own cache (`vcpu->arch.mmio_*`) holds one page, and the emulator looks there. This one
//! holds several: a vCPU that goes round a few device pages finds each without a walk of page
//! tables, and copies what it finds to KVM's cache. An entry holds as long as KVM's would:
//!
//! - until a memslot changes, which the generation tells;
//! - its GVA until the vCPU's translations may have changed, see [`InfoCache::clear`].

use super::{
    addr::{Gfn, Gpa, Gva},
    generation::MemslotGeneration, //
};

/// Entries of the cache.
const ENTRIES: usize = 8;

/// What is known of an MMIO page, as KVM's own cache holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioInfo {
    /// The page's virtual address, 0 if it is not known (as always with TDP).
    pub gva: Gva,
    /// The page's frame. Frame 0 is never found: it stands for an empty entry.
    pub gfn: Gfn,
    /// The rights that the guest's page tables give to the page, `ACC_*`.
    pub access: u32,
    /// The memslots that know nothing of the frame.
    pub generation: MemslotGeneration,
}

impl MmioInfo {
    /// An entry that is never found.
    pub const EMPTY: Self = Self {
        gva: Gva(0),
        gfn: Gfn(0),
        access: 0,
        generation: MemslotGeneration(0),
    };

    /// `vcpu_match_mmio_gva()`. `now` is the current generation of the memslots; as one of an
    /// update in progress is never cached, none matches during one.
    pub fn matches_gva(&self, gva: Gva, now: MemslotGeneration) -> bool {
        self.generation == now && self.gva != Gva(0) && self.gva == gva.page()
    }

    /// `vcpu_match_mmio_gpa()`.
    pub fn matches_gpa(&self, gpa: Gpa, now: MemslotGeneration) -> bool {
        self.generation == now && self.gfn != Gfn(0) && self.gfn == gpa.gfn()
    }

    /// Whether both describe the same page at the same virtual address, if one is known.
    fn same_page(&self, other: &Self) -> bool {
        self.gva == other.gva && (self.gva != Gva(0) || self.gfn == other.gfn)
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

/// The cache.
#[derive(Debug)]
pub struct InfoCache {
    entries: [MmioInfo; ENTRIES],
    /// The entry to replace next, round robin.
    next: usize,
}

impl InfoCache {
    /// A cache that knows nothing.
    pub const fn new() -> Self {
        Self {
            entries: [MmioInfo::EMPTY; ENTRIES],
            next: 0,
        }
    }

    /// Finds the entry of a virtual address.
    pub fn find_gva(&self, gva: Gva, now: MemslotGeneration) -> Option<MmioInfo> {
        self.find(|info| info.matches_gva(gva, now))
    }

    /// Finds an entry of a physical address.
    pub fn find_gpa(&self, gpa: Gpa, now: MemslotGeneration) -> Option<MmioInfo> {
        self.find(|info| info.matches_gpa(gpa, now))
    }

    fn find(&self, matches: impl Fn(&MmioInfo) -> bool) -> Option<MmioInfo> {
        self.entries.iter().find(|info| matches(info)).copied()
    }

    /// Remembers a page. Nothing is remembered while the memslots change, as nobody can tell
    /// which of the two sets the caller has seen.
    ///
    /// An entry of the same virtual address is replaced: there is at most one for each.
    pub fn insert(&mut self, info: MmioInfo) {
        if info.generation.update_in_progress() {
            return;
        }

        let slot = match self.entries.iter().position(|old| old.same_page(&info)) {
            Some(slot) => slot,
            None => {
                let slot = self.next % ENTRIES;
                self.next = slot + 1;
                slot
            }
        };
        self.entries[slot] = info;
    }

    /// Forgets virtual addresses: `vcpu_clear_mmio_info()`. That the frames are MMIO remains true.
    pub fn clear(&mut self, what: Clear) {
        for info in &mut self.entries {
            if match what {
                Clear::All => true,
                Clear::Page(gva) => info.gva == gva.page(),
            } {
                info.gva = Gva(0);
            }
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
            Some(info(0x7000, 0xfe000))
        );
        assert_eq!(
            cache.find_gpa(Gpa(0xfe00_0abc), NOW),
            Some(info(0x7000, 0xfe000))
        );
        assert_eq!(cache.find_gva(Gva(0x8000), NOW), None);
        assert_eq!(cache.find_gpa(Gpa(0xfe00_1000), NOW), None);
    }

    #[test]
    fn a_new_generation_hides_everything() {
        let mut cache = InfoCache::new();
        cache.insert(info(0x7000, 0xfe000));
        assert_eq!(cache.find_gva(Gva(0x7000), LATER), None);
        assert_eq!(cache.find_gpa(Gpa(0xfe00_0000), LATER), None);
    }

    #[test]
    fn nothing_is_cached_or_found_during_an_update() {
        let updating = MemslotGeneration(NOW.0 | 1 << 63);
        let mut cache = InfoCache::new();
        cache.insert(MmioInfo {
            generation: updating,
            ..info(0x7000, 0xfe000)
        });
        assert_eq!(cache.find_gpa(Gpa(0xfe00_0000), updating), None);
        cache.insert(info(0x7000, 0xfe000));
        assert_eq!(cache.find_gpa(Gpa(0xfe00_0000), updating), None);
    }

    #[test]
    fn clearing_forgets_addresses_but_not_frames() {
        let mut cache = InfoCache::new();
        cache.insert(info(0x7000, 0xfe000));
        cache.insert(info(0x9000, 0xfe001));
        cache.clear(Clear::Page(Gva(0x7123)));
        assert_eq!(cache.find_gva(Gva(0x7000), NOW), None);
        assert!(cache.find_gva(Gva(0x9000), NOW).is_some());
        cache.clear(Clear::All);
        assert_eq!(cache.find_gva(Gva(0x9000), NOW), None);
        assert!(cache.find_gpa(Gpa(0xfe00_1000), NOW).is_some());
    }

    #[test]
    fn a_remapped_address_replaces_its_entry() {
        let mut cache = InfoCache::new();
        cache.insert(info(0x7000, 0xfe000));
        cache.insert(info(0x7000, 0xfe001));
        assert_eq!(
            cache.find_gva(Gva(0x7000), NOW),
            Some(info(0x7000, 0xfe001))
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
                    let found = cache.find_gva(gva, now);
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
