// SPDX-License-Identifier: GPL-2.0
//! What KVM does around the extension, as far as threads share it.

pub(crate) mod bindings;
pub(crate) mod bus;
pub(crate) mod memory;
pub(crate) mod memslots;
pub(crate) mod mmu;
pub(crate) mod module;
pub(crate) mod srcu;
pub(crate) mod vcpu;

use bus::Bus;
use loom::sync::atomic::AtomicBool;
use memslots::{Memslots, Page};
use mmu::Mmu;
use srcu::Srcu;

loom::lazy_static! {
    /// The parameter `fast`.
    pub(crate) static ref FAST: AtomicBool = AtomicBool::new(true);
}

/// What can be made wrong, to see that it is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mistake {
    /// Who changes memslots or a bus does not wait for those who use the old ones.
    NoGracePeriod,
    /// New memslots have their generation from the start, as until 2014.
    GenerationAtOnce,
    /// New memslots have the generation of the old ones.
    SameGeneration,
    /// What a vCPU has cached is not cleared while the extension is off.
    ClearOnlyWhileOn,
    /// A load that the fast path began is forgotten if the extension is switched off meanwhile.
    CompleteOnlyWhileOn,
    /// An old bus is freed while somebody may use it.
    BusFreedAtOnce,
    /// What the exit handler reads may be older than what the guest has seen before it.
    NoBarrier,
    /// What is known of a doorbell, or that there is none, outlives the bus.
    AnyBus,
    /// A VM that runs when the module is loaded holds no reference to it.
    NoReference,
    /// A module that is being unloaded stays registered when a VM comes.
    NoDetach,
    /// A vCPU's state is freed only while the extension is on.
    FreeOnlyWhileOn,
}

/// `struct kvm`.
pub(crate) struct Kvm {
    mistake: Option<Mistake>,
    pub(crate) srcu: Srcu,
    pub(crate) memslots: Memslots,
    pub(crate) mmu: Mmu,
    pub(crate) bus: Bus,
    /// The static key.
    pub(crate) enabled: AtomicBool,
}

impl Kvm {
    /// A VM in which `gfn` is what `page` says.
    pub(crate) fn new(gfn: crate::addr::Gfn, page: Page, mistake: Option<Mistake>) -> Self {
        Self {
            mistake,
            srcu: Srcu::new(mistake != Some(Mistake::NoBarrier)),
            memslots: Memslots::new(gfn, page),
            mmu: Mmu::new(),
            bus: Bus::new(),
            enabled: AtomicBool::new(true),
        }
    }

    pub(crate) fn makes(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    /// `synchronize_srcu(&kvm->srcu)`
    fn synchronize(&self) {
        if !self.makes(Mistake::NoGracePeriod) {
            self.srcu.synchronize();
        }
    }
}
