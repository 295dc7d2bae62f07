// SPDX-License-Identifier: GPL-2.0
//! A VM, and what ioctls change of it.

use super::{
    bus::{Bus, Device, OldBus},
    memslots::{Memslots, Page},
    mistake::Mistake,
    mmu::Mmu,
    srcu::Srcu,
};
use crate::addr::{Gfn, Gpa};
use loom::sync::atomic::AtomicBool;
use std::rc::Rc;

/// The number of the one VM.
pub(crate) const VM: u64 = 1;

loom::lazy_static! {
    /// The parameter `fast`.
    pub(crate) static ref FAST: AtomicBool = AtomicBool::new(true);
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
    pub(crate) fn new(gfn: Gfn, page: Page, mistake: Option<Mistake>) -> Self {
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

    fn swap_active_memslots(&self, page: Page) {
        self.memslots
            .swap_active(page, self.mistake, || self.synchronize());
    }

    /// The ioctl that makes `page` of the page that changes.
    pub(crate) fn set_memslot(&self, page: Page) {
        if self.memslots.has_slot() {
            self.swap_active_memslots(Page::Invalid);
            self.mmu.zap();
        }
        self.swap_active_memslots(page);
    }

    /// `kvm_io_bus_register_dev()`
    pub(crate) fn register_dev(&self, device: &Rc<Device>) -> OldBus {
        let mut old = self.bus.add_dev(device);
        if self.makes(Mistake::BusFreedAtOnce) {
            old.free();
        }
        old
    }

    /// Frees buses some time later.
    pub(crate) fn free_later(&self, buses: impl IntoIterator<Item = OldBus>) {
        self.srcu.synchronize();
        buses.into_iter().for_each(|mut bus| bus.free());
    }

    /// `kvm_io_bus_unregister_dev()`
    pub(crate) fn unregister_dev(&self, device: &Rc<Device>) {
        let mut old = self.bus.remove_dev(device);
        self.synchronize();
        device.free();
        old.free();
    }

    /// `kvm_io_bus_write()`: whether a device takes a write.
    pub(crate) fn bus_write(&self, gpa: Gpa, value: u64, len: u8) -> bool {
        self.bus.write(gpa, value, len)
    }
}
