// SPDX-License-Identifier: GPL-2.0
//! The info cache against a model that remembers everything: the cache may forget, but never find
//! what the model does not hold.

use kvm_mmio_ext::addr::{Gfn, Gpa, Gva};
use kvm_mmio_ext::generation::MemslotGeneration;
use kvm_mmio_ext::mmio_info::MmioInfo;
use kvm_mmio_ext::pure::info_cache::{Clear, InfoCache};
use proptest::prelude::*;

/// What happens to a vCPU.
#[derive(Clone, Debug)]
enum Step {
    /// An MMIO page is found out. GVA 0 with TDP.
    Fill {
        gva: u64,
        gfn: u64,
        access: u32,
    },
    /// As above, while memslots change.
    FillInUpdate {
        gva: u64,
        gfn: u64,
    },
    ClearAll,
    ClearPage {
        address: u64,
    },
    /// A memslot change has ended.
    NewGeneration,
    Look {
        address: u64,
    },
}

const PAGE: u64 = 4096;

/// Few pages, so that they meet; 0 is special.
fn page() -> impl Strategy<Value = u64> {
    0..12u64
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (page(), page(), 0..8u32)
            .prop_map(|(gva, gfn, access)| Step::Fill { gva: gva * PAGE, gfn, access }),
        1 => (page(), page()).prop_map(|(gva, gfn)| Step::FillInUpdate { gva: gva * PAGE, gfn }),
        1 => Just(Step::ClearAll),
        1 => (page(), 0..PAGE).prop_map(|(p, at)| Step::ClearPage { address: p * PAGE + at }),
        1 => Just(Step::NewGeneration),
        6 => (page(), 0..PAGE).prop_map(|(p, at)| Step::Look { address: p * PAGE + at }),
    ]
}

/// Everything that is still true.
#[derive(Default)]
struct Model {
    infos: Vec<MmioInfo>,
}

impl Model {
    fn fill(&mut self, info: MmioInfo) {
        // A newer result for the same virtual address replaces the older one.
        self.infos
            .retain(|old| info.gva == Gva(0) || old.gva != info.gva);
        self.infos.push(info);
    }

    fn clear(&mut self, matches: impl Fn(Gva) -> bool) {
        for info in &mut self.infos {
            if matches(info.gva) {
                info.gva = Gva(0);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn finds_nothing_that_does_not_hold(steps in prop::collection::vec(step(), 0..60)) {
        let mut cache = InfoCache::new();
        let mut model = Model::default();
        let mut now = MemslotGeneration(2);
        for step in steps {
            match step {
                Step::Fill { gva, gfn, access } => {
                    let info =
                        MmioInfo { gva: Gva(gva), gfn: Gfn(gfn), access, generation: now };
                    cache.insert(info);
                    model.fill(info);
                    // What was found out last is there.
                    if gva != 0 {
                        prop_assert_eq!(cache.find_gva(Gva(gva), now), Some(&info));
                    } else if gfn != 0 {
                        let found = cache.find_gpa(Gfn(gfn).gpa(), now);
                        prop_assert_eq!(found.map(|found| found.gfn), Some(Gfn(gfn)));
                    }
                }
                Step::FillInUpdate { gva, gfn } => {
                    let generation = MemslotGeneration(now.0 | 1 << 63);
                    let info = MmioInfo { gva: Gva(gva), gfn: Gfn(gfn), access: 7, generation };
                    cache.insert(info);
                    prop_assert_eq!(cache.find_gva(Gva(gva), generation), None);
                    prop_assert_eq!(cache.find_gpa(Gfn(gfn).gpa(), generation), None);
                }
                Step::ClearAll => {
                    cache.clear(Clear::All);
                    model.clear(|_| true);
                }
                Step::ClearPage { address } => {
                    cache.clear(Clear::Page(Gva(address)));
                    model.clear(|gva| gva == Gva(address).page());
                }
                Step::NewGeneration => now = MemslotGeneration(now.0 + 2),
                Step::Look { address } => {
                    if let Some(found) = cache.find_gva(Gva(address), now) {
                        prop_assert!(address >= PAGE, "address 0 was found: {found:?}");
                        let held = model.infos.contains(found);
                        prop_assert!(held && found.generation == now, "{found:?} at {now:?}");
                        prop_assert_eq!(found.gva, Gva(address).page());
                    }
                    if let Some(found) = cache.find_gpa(Gpa(address), now) {
                        prop_assert!(address >= PAGE, "frame 0 was found: {found:?}");
                        prop_assert_eq!(found.gfn, Gpa(address).gfn());
                        let held = model.infos.iter().any(|info| {
                            info.gfn == found.gfn && info.generation == now
                        });
                        prop_assert!(held, "{found:?} at {now:?}");
                    }
                }
            }
        }
    }
}
