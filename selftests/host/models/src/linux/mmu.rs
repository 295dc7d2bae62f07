// SPDX-License-Identifier: GPL-2.0
//! Shadow page tables of one entry.

use crate::pure::spte::{MmioFormat, Spte, NONPRESENT};
use kvm_mmio_ext::pure::mask::MmioMask;
use loom::sync::{
    atomic::{
        AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
    Mutex,
};

/// The width of a physical address of the host.
pub(crate) const PHYS_BITS: u32 = 46;

/// The host's.
pub(crate) const FORMAT: MmioFormat = MmioFormat {
    mask: MmioMask::paging(PHYS_BITS),
    caching: true,
    l1tf: 0,
    lower_gfn: (1 << PHYS_BITS) - (1 << 12),
};

/// An entry that maps memory: `SPTE_MMU_PRESENT_MASK` and the hardware's own bit.
const PRESENT: u64 = 1 << 11 | 1;

pub(crate) struct Mmu {
    spte: AtomicU64,
    /// `mmu_lock`. The guest's own accesses hold it, too: who has zapped an entry and flushed TLBs
    /// knows that none is under way.
    lock: Mutex<()>,
}

impl Mmu {
    pub(super) fn new() -> Self {
        Self {
            spte: AtomicU64::new(NONPRESENT.0),
            lock: Mutex::new(()),
        }
    }

    /// The entry, read without a lock.
    pub(crate) fn spte(&self) -> Spte {
        Spte(self.spte.load(Acquire))
    }

    /// An access by the guest: the memory that the entry maps, or the entry that has faulted.
    pub(crate) fn access(&self) -> Result<usize, Spte> {
        let _lock = self.lock.lock().unwrap();
        let spte = Spte(self.spte.load(Relaxed));
        if spte.is_shadow_present() {
            Ok((spte.0 >> 12) as usize)
        } else {
            Err(spte)
        }
    }

    /// Drops the entry, and with it what TLBs know.
    pub(crate) fn zap(&self) {
        self.set(NONPRESENT);
    }

    pub(crate) fn map(&self, ram: usize) {
        self.set(Spte((ram as u64) << 12 | PRESENT));
    }

    /// Makes an MMIO SPTE, unless another vCPU has mapped memory meanwhile. Returns whether there
    /// is one.
    pub(crate) fn map_mmio(&self, make: impl FnOnce() -> Spte) -> bool {
        let _lock = self.lock.lock().unwrap();
        let is_free = !Spte(self.spte.load(Relaxed)).is_shadow_present();
        if is_free {
            self.spte.store(make().0, Release);
        }
        is_free
    }

    fn set(&self, spte: Spte) {
        let _lock = self.lock.lock().unwrap();
        self.spte.store(spte.0, Release);
    }
}
