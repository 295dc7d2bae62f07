// SPDX-License-Identifier: GPL-2.0
//! Memslot changes against a vCPU's accesses, in every order that their steps can have.
//!
//! The steps are those of `kvm_swap_active_memslots()` on one side, and on the other those of an
//! access: info cache, MMIO SPTE, lookup of the memslot, and filling of both. The info cache and the
//! generations are the extension's own; memslots, SRCU and page tables are modelled.

use kvm_mmio_ext_host_tests::addr::{Gfn, Gva};
use kvm_mmio_ext_host_tests::generation::{MemslotGeneration, MmioGeneration};
use kvm_mmio_ext_host_tests::info_cache::{InfoCache, MmioInfo};

/// `KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS`.
const IN_PROGRESS: u64 = 1 << 63;
/// The number of address spaces, by which generations advance.
const SPACES: u64 = 2;
const GFN: Gfn = Gfn(0xd0000);
/// Accesses that the vCPU makes.
const ACCESSES: usize = 3;

/// What the page is in a set of memslots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Page {
    Hole,
    Ram,
    /// `KVM_MEMSLOT_INVALID`: about to be deleted, accesses try again.
    Invalid,
}

/// What the page becomes, one swap of the memslots after the other: a slot is created, and deleted
/// in two steps.
const SWAPS: [Page; 3] = [Page::Ram, Page::Invalid, Page::Hole];

#[derive(Clone, Copy)]
struct Memslots {
    page: Page,
    generation: MemslotGeneration,
}

/// Where the thread that changes memslots is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Updater {
    Publish(usize),
    /// `synchronize_srcu()`: waits for the vCPU if that was inside at the publication.
    Wait(usize),
    EndOfUpdate(usize),
    Done,
}

/// Where the vCPU is.
#[derive(Clone, Copy)]
enum Vcpu {
    Enter,
    LookInCache,
    ReadSpte,
    CheckSpte(MmioGeneration),
    FindSlot,
    FillCache,
    MakeSpte,
    Leave,
    Done,
}

#[derive(Clone)]
struct World {
    srcu: bool,
    active: Memslots,
    updater: Updater,
    /// The vCPU's section began before the last publication.
    old_reader: bool,
    vcpu: Vcpu,
    accesses: usize,
    inside: bool,
    /// What the page is for sure, None during a change; and at the begin of the access, unless
    /// something has changed since.
    truth: Option<Page>,
    seen: Option<Page>,
    cache: InfoCacheCopy,
    spte: Option<MmioGeneration>,
}

/// An [`InfoCache`] as the list of what was put into it, because it cannot be cloned.
#[derive(Clone, Default)]
struct InfoCacheCopy(Vec<MmioInfo>);

impl InfoCacheCopy {
    fn cache(&self) -> InfoCache {
        let mut cache = InfoCache::new();
        self.0.iter().for_each(|info| cache.insert(*info));
        cache
    }
}

/// The orders that were tried, and what came of them.
#[derive(Default)]
struct Found {
    orders: u64,
    hits: u64,
    wrong: u64,
}

impl World {
    fn new(srcu: bool) -> Self {
        Self {
            srcu,
            active: Memslots {
                page: Page::Hole,
                generation: MemslotGeneration(SPACES),
            },
            updater: Updater::Publish(0),
            old_reader: false,
            vcpu: Vcpu::Enter,
            accesses: 0,
            inside: false,
            truth: Some(Page::Hole),
            seen: None,
            cache: InfoCacheCopy::default(),
            spte: None,
        }
    }

    /// The updater's next step; false if it can make none.
    fn step_updater(&mut self) -> bool {
        self.updater = match self.updater {
            Updater::Publish(swap) => {
                self.active = Memslots {
                    page: SWAPS[swap],
                    generation: MemslotGeneration(self.active.generation.0 | IN_PROGRESS),
                };
                self.old_reader = self.inside;
                self.truth = None;
                self.seen = None;
                Updater::Wait(swap)
            }
            Updater::Wait(_) if self.srcu && self.old_reader => return false,
            Updater::Wait(swap) => Updater::EndOfUpdate(swap),
            Updater::EndOfUpdate(swap) => {
                let generation = (self.active.generation.0 & !IN_PROGRESS) + SPACES;
                self.active.generation = MemslotGeneration(generation);
                if SWAPS[swap] == Page::Invalid || SWAPS[swap] == Page::Hole {
                    // What mapped the old page is zapped, MMIO SPTEs with it.
                    self.spte = None;
                }
                if SWAPS[swap] != Page::Invalid {
                    self.truth = Some(SWAPS[swap]);
                }
                match swap + 1 < SWAPS.len() {
                    true => Updater::Publish(swap + 1),
                    false => Updater::Done,
                }
            }
            Updater::Done => return false,
        };
        true
    }

    /// The vCPU's next step; false if all accesses are done.
    fn step_vcpu(&mut self, found: &mut Found) -> bool {
        let now = self.active.generation;
        self.vcpu = match self.vcpu {
            Vcpu::Enter => {
                self.inside = true;
                self.seen = self.truth;
                Vcpu::LookInCache
            }
            Vcpu::LookInCache => match self.cache.cache().find_gpa(GFN.gpa(), now) {
                Some(_) => {
                    found.hits += 1;
                    self.outcome(Page::Hole, found)
                }
                None => Vcpu::ReadSpte,
            },
            Vcpu::ReadSpte => match self.spte {
                Some(made) => Vcpu::CheckSpte(made),
                None => Vcpu::FindSlot,
            },
            Vcpu::CheckSpte(made) if !now.update_in_progress() && now.mmio() == made => {
                found.hits += 1;
                self.fill_cache(now);
                self.outcome(Page::Hole, found)
            }
            Vcpu::CheckSpte(_) => Vcpu::FindSlot,
            Vcpu::FindSlot => match self.active.page {
                Page::Hole => Vcpu::FillCache,
                Page::Ram => self.outcome(Page::Ram, found),
                Page::Invalid => Vcpu::Leave,
            },
            Vcpu::FillCache => {
                self.fill_cache(now);
                Vcpu::MakeSpte
            }
            Vcpu::MakeSpte => {
                self.spte = Some(now.mmio());
                self.outcome(Page::Hole, found)
            }
            Vcpu::Leave => {
                self.inside = false;
                self.old_reader = false;
                self.accesses += 1;
                match self.accesses < ACCESSES {
                    true => Vcpu::Enter,
                    false => Vcpu::Done,
                }
            }
            Vcpu::Done => return false,
        };
        true
    }

    fn fill_cache(&mut self, generation: MemslotGeneration) {
        self.cache.0.push(MmioInfo {
            gva: Gva(0),
            gfn: GFN,
            access: 0,
            generation,
        });
    }

    /// An access has had its effect.
    fn outcome(&mut self, page: Page, found: &mut Found) -> Vcpu {
        found.wrong += u64::from(self.seen.is_some_and(|truth| truth != page));
        Vcpu::Leave
    }
}

/// Tries every order of the steps that remain, until one goes wrong.
fn explore(world: &World, found: &mut Found) {
    if found.wrong > 0 {
        return;
    }
    let mut ends = true;
    let mut next = world.clone();
    if next.step_updater() {
        ends = false;
        explore(&next, found);
    }
    let mut next = world.clone();
    if next.step_vcpu(found) {
        ends = false;
        explore(&next, found);
    }
    found.orders += u64::from(ends);
}

#[test]
fn no_order_of_steps_shows_an_old_page() {
    let mut found = Found::default();
    explore(&World::new(true), &mut found);
    println!("{} orders, {} hits", found.orders, found.hits);
    assert!(found.orders > 100_000, "only {} orders", found.orders);
    assert!(found.hits > 0, "no cache was ever hit");
    assert_eq!(found.wrong, 0, "of {} orders", found.orders);
}

/// The model does see a mistake: an access that began before a change and ends after it stores what
/// it knew under the new generation.
#[test]
fn without_srcu_old_pages_are_seen() {
    let mut found = Found::default();
    explore(&World::new(false), &mut found);
    assert!(found.wrong > 0, "in none of {} orders", found.orders);
}
