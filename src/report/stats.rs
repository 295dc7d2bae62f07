// SPDX-License-Identifier: GPL-2.0

//! What the extension did, counted for each vCPU.

use crate::{
    kvm::counter::Counter,
    pure::access_kind::Kind, //
};
use core::{array, fmt, slice};
use kernel::{
    prelude::*,
    sync::atomic::{Atomic, Relaxed}, //
};
use pin_init::init_array_from_fn;

/// MMIO SPTEs that were zapped. That is done to a VM rather than by a vCPU, and rarely.
static ZAPPED: Atomic<i64> = Atomic::new(0);

/// Counts an MMIO SPTE that is zapped. To be called in any context.
pub(crate) fn count_zap() {
    ZAPPED.add(1, Relaxed);
}

/// How many MMIO SPTEs were zapped.
pub(crate) fn zapped() -> i64 {
    ZAPPED.load(Relaxed)
}

/// Declares the events with the names under which debugfs shows them.
macro_rules! events {
    ($($(#[doc = $doc:literal])* $event:ident = $name:literal,)*) => {
        /// Something that is counted.
        #[derive(Clone, Copy)]
        pub(crate) enum Event {
            $($(#[doc = $doc])* $event,)*
        }

        const NAMES: &[&str] = &[$($name),*];
    };
}

events! {
    /// An MMIO fault was found in the vCPU's info cache.
    CacheHit = "cache_hit",
    /// An MMIO fault was found as an MMIO SPTE of the current generation.
    SpteHit = "spte_hit",
    /// The fast path took a write that is MMIO as its memslot is read-only.
    ReadOnly = "read_only",
    /// There was an MMIO SPTE of another generation; the page is faulted in anew.
    SpteStale = "spte_stale",
    /// There was no MMIO SPTE any more; the guest tries again.
    Retry = "retry",
    /// An access signalled a zero-length ioeventfd.
    Wildcard = "wildcard",
    /// The fast path refused: the vCPU is not running plain code of L1, 64-bit or 32-bit with flat
    /// segments.
    RefusedContext = "refused_context",
    /// The fast path refused: the instruction could not be read, or it is close to a page's end.
    RefusedFetch = "refused_fetch",
    /// The fast path refused: the instruction is not one that it knows.
    RefusedInsn = "refused_insn",
    /// The fast path refused: the operand's address is not the fault's, or crosses a page.
    RefusedAddress = "refused_address",
    /// The fast path refused: the guest's page tables do not allow the access.
    RefusedAccess = "refused_access",
    /// An exit was left to KVM's C code, which asks again only whether the fault is MMIO.
    Passed = "passed",
    /// An MMIO SPTE was encoded.
    SpteMade = "spte_made",
    /// An MMIO SPTE was kept when its shadow page was synchronized.
    SpteSynced = "spte_synced",
    /// An MMIO SPTE was dropped then, the guest's page table maps something else.
    SpteSyncDropped = "spte_sync_dropped",
    /// A page was put into the info cache.
    CacheFilled = "cache_filled",
    /// Virtual addresses in the info cache were forgotten.
    CacheCleared = "cache_cleared",
}

/// What took an access of the fast path.
#[derive(Clone, Copy)]
pub(crate) enum Taker {
    /// An ioeventfd.
    Ioeventfd,
    /// Another device in the kernel, the local APIC and coalescing rings included.
    Kernel,
    /// Userspace.
    Userspace,
}

impl Taker {
    const COUNT: usize = Self::Userspace as usize + 1;
}

/// Sizes of operands that are shown separately, in bytes.
const SIZES: [usize; 4] = [1, 2, 4, 8];

/// Counters by size in bytes, modulo 16.
type Sizes = [Counter; 16];

/// The counters of one vCPU.
pub(crate) struct Stats {
    events: [Counter; NAMES.len()],
    /// Accesses of the fast path, after a search and of which all was known: by what took them, by
    /// direction (reads, writes), and by the size itself. It completes nothing that is not counted
    /// here. To know all takes an info cache's knowing the page, so that the latter need not be
    /// counted as [`Event::CacheHit`] as well.
    fast: [[[Sizes; 2]; Taker::COUNT]; 2],
    /// Writes that were done with interrupts off, by an ioeventfd and by another device in the
    /// kernel, by the size itself: the same holds of them.
    rung: [Sizes; 2],
    /// Those that the fast path has refused, of pages that KVM's info cache knows: by the event
    /// that tells why; first those that nobody has looked at. Each is a hit, which is not counted
    /// once more.
    refused: [[Counter; NAMES.len()]; 2],
    /// Others that went to the emulator while nobody looked.
    unseen: Counter,
    /// Accesses of the emulator while somebody looked: by size in bytes, modulo 16, and by kind.
    emulated: [[Counter; Kind::EMULATED_COUNT]; 16],
    /// MMIO faults that KVM's own handler had asked about and that were MMIO.
    left_to_kvm: Counter,
    /// Others of them, which were hits and are not counted once more: first those that nobody has
    /// looked at.
    hits_left_to_kvm: [Counter; 2],
    /// Accesses that heat has no record of, though it was on.
    heat_dropped: Counter,
}

impl Stats {
    /// Nothing is counted yet. To be made in place: it is too large for a stack.
    pub(crate) fn init() -> impl Init<Self> {
        init!(Self {
            events: array::from_fn(|_| Counter::default()),
            fast <- init_array_from_fn(|_| <[[Sizes; 2]; Taker::COUNT]>::default()),
            rung <- init_array_from_fn(|_| Sizes::default()),
            refused <- init_array_from_fn(|_| array::from_fn(|_| Counter::default())),
            unseen: Counter::default(),
            emulated <- init_array_from_fn(|_| array::from_fn(|_| Counter::default())),
            left_to_kvm: Counter::default(),
            hits_left_to_kvm: array::from_fn(|_| Counter::default()),
            heat_dropped: Counter::default(),
        })
    }

    /// Counts an event. As all of this, to be called in the vCPU's thread only.
    #[inline(always)]
    pub(crate) fn count(&self, event: Event) {
        self.events[event as usize].inc();
    }

    /// Counts an access of `size` bytes, fewer than 16, that the fast path has completed, and of
    /// which all was `known` or a hit has been counted.
    #[inline(always)]
    pub(crate) fn count_fast(&self, known: bool, taker: Taker, write: bool, size: u8) {
        let sizes = &self.fast[usize::from(known)][taker as usize][usize::from(write)];
        sizes[usize::from(size) & 15].inc();
    }

    /// Counts a doorbell that was answered with interrupts off, a write of `size` bytes, fewer than
    /// 16.
    #[inline(always)]
    pub(crate) fn count_rung(&self, taker: Taker, size: u8) {
        let by_device = usize::from(!matches!(taker, Taker::Ioeventfd));
        self.rung[by_device][usize::from(size) & 15].inc();
    }

    /// Counts an access that goes to the emulator at once, where somebody looks or not.
    #[inline(always)]
    pub(crate) fn count_refused(&self, reason: Event, seen: bool) {
        self.refused[usize::from(seen)][reason as usize].inc();
    }

    /// Counts another that goes to the emulator while nobody looks.
    pub(crate) fn count_unseen(&self) {
        self.unseen.inc();
    }

    /// Counts an access of the emulator, of `size` bytes, fewer than 16, while somebody looked.
    #[inline(always)]
    pub(crate) fn count_emulated(&self, kind: Kind, size: u32) {
        self.emulated[size as usize & 15][kind.emulated_number()].inc();
    }

    /// Counts a fault that is MMIO and that KVM's own handler goes on with.
    pub(crate) fn count_left_to_kvm(&self) {
        self.left_to_kvm.inc();
    }

    /// Counts another one, which is a hit as well, where somebody looks or not.
    #[inline(always)]
    pub(crate) fn count_hit_left_to_kvm(&self, seen: bool) {
        self.hits_left_to_kvm[usize::from(seen)].inc();
    }

    /// Counts an access that heat has no room for.
    pub(crate) fn count_heat_dropped(&self) {
        self.heat_dropped.inc();
    }

    /// The counters now. Each is right, but they may be of slightly different times.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let mut now = Snapshot::ZERO;
        self.add_to(&mut now);
        now
    }

    /// Adds the counters to those of other vCPUs.
    pub(crate) fn add_to(&self, sums: &mut Snapshot) {
        // Before the hits, lest there are more of them than hits.
        let [searched, known] = &self.fast;
        add_by_size(sums.fast.as_flattened_mut(), searched.as_flattened());
        let known_hits = add_by_size(sums.fast.as_flattened_mut(), known.as_flattened());
        let mut rung = 0;
        for (taker, sizes) in [Taker::Ioeventfd, Taker::Kernel]
            .into_iter()
            .zip(&self.rung)
        {
            let writes = &mut sums.fast[taker as usize][1];
            rung += add_by_size(slice::from_mut(writes), slice::from_ref(sizes));
        }
        sums.irqsoff += rung;

        for (sum, count) in sums.events.iter_mut().zip(&self.events) {
            *sum += count.get();
        }
        let [unseen, seen] = &self.refused;
        let unseen = sums.add_refused(unseen);
        let refused_hits = unseen + sums.add_refused(seen);
        let [unseen_left, seen_left] = self.hits_left_to_kvm.each_ref().map(Counter::get);
        let left = unseen_left + seen_left;
        sums.events[Event::CacheHit as usize] += known_hits + rung + refused_hits + left;
        sums.unseen += unseen + unseen_left + self.unseen.get();

        for (size, kinds) in self.emulated.iter().enumerate() {
            for (number, count) in kinds.iter().enumerate() {
                // The number of a write is odd, see `Kind::emulated()`.
                sums.emulated[number % 2][size_place(size)] += count.get();
            }
        }
        sums.left_to_kvm += self.left_to_kvm.get() + left;
        sums.heat_dropped += self.heat_dropped.get();
    }
}

/// Where accesses of a size are shown.
fn size_place(size: usize) -> usize {
    let place = SIZES.iter().position(|&known| known == size);
    place.unwrap_or(SIZES.len())
}

/// Adds counters by size to such sums. Returns how much that was in all.
fn add_by_size(sums: &mut [BySize], counters: &[Sizes]) -> u64 {
    let mut all = 0;
    for (sums, sizes) in sums.iter_mut().zip(counters) {
        for (size, count) in sizes.iter().enumerate() {
            let count = count.get();
            sums[size_place(size)] += count;
            all += count;
        }
    }
    all
}

/// Counts by size: of each of [`SIZES`], then of all others.
pub(crate) type BySize = [u64; SIZES.len() + 1];

/// The values of the counters, of a vCPU or of several.
#[derive(Clone, Copy)]
pub(crate) struct Snapshot {
    events: [u64; NAMES.len()],
    fast: [[BySize; 2]; Taker::COUNT],
    emulated: [BySize; 2],
    irqsoff: u64,
    unseen: u64,
    left_to_kvm: u64,
    heat_dropped: u64,
}

impl Snapshot {
    /// Nothing has happened.
    pub(crate) const ZERO: Self = Self {
        events: [0; NAMES.len()],
        fast: [[[0; SIZES.len() + 1]; 2]; Taker::COUNT],
        emulated: [[0; SIZES.len() + 1]; 2],
        irqsoff: 0,
        unseen: 0,
        left_to_kvm: 0,
        heat_dropped: 0,
    };

    /// How often an event has happened.
    pub(crate) const fn get(&self, event: Event) -> u64 {
        self.events[event as usize]
    }

    /// Accesses that were completed by the fast path, without the emulator.
    pub(crate) fn fast(&self) -> u64 {
        sum(self.fast.as_flattened().as_flattened())
    }

    /// Of these, those that one kind of device took.
    pub(crate) fn fast_by(&self, taker: Taker) -> u64 {
        sum(self.fast[taker as usize].as_flattened())
    }

    /// Of these, doorbells that were answered before interrupts were on again.
    pub(crate) const fn irqsoff(&self) -> u64 {
        self.irqsoff
    }

    /// Accesses that were found to be MMIO.
    const fn hits(&self) -> u64 {
        self.get(Event::CacheHit) + self.get(Event::SpteHit) + self.get(Event::ReadOnly)
    }

    /// Accesses that were found to be MMIO and went to the instruction emulator.
    pub(crate) fn emulated(&self) -> u64 {
        self.hits().saturating_sub(self.fast())
    }

    /// Of these, those that nobody has looked at: neither direction nor size is known.
    pub(crate) const fn unseen(&self) -> u64 {
        self.unseen
    }

    /// MMIO faults (EPT misconfigurations, with a reserved bit, or writes to read-only memslots) that
    /// were handled here: each has one outcome.
    pub(crate) const fn faults(&self) -> u64 {
        self.hits()
            + self.get(Event::SpteStale)
            + self.get(Event::Retry)
            + self.get(Event::Wildcard)
    }

    /// Of the accesses that were found to be MMIO, those that KVM's own handler went on with.
    pub(crate) const fn left_to_kvm(&self) -> u64 {
        self.left_to_kvm
    }

    /// Accesses that heat has no record of, though it was on.
    pub(crate) const fn heat_dropped(&self) -> u64 {
        self.heat_dropped
    }

    /// Reads, or writes, by size, as far as they were seen.
    pub(crate) fn by_size(&self, write: bool) -> BySize {
        let way = usize::from(write);
        let mut all = self.emulated[way];
        for fast in &self.fast {
            all.iter_mut().zip(fast[way]).for_each(|(sum, n)| *sum += n);
        }
        all
    }

    /// Adds counts of refused accesses to those of the reasons. Returns how many there are.
    fn add_refused(&mut self, counters: &[Counter]) -> u64 {
        let mut all = 0;
        for (sum, count) in self
            .events
            .iter_mut()
            .zip(counters.iter().map(Counter::get))
        {
            *sum += count;
            all += count;
        }
        all
    }
}

fn sum(numbers: &[u64]) -> u64 {
    numbers.iter().sum()
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "faults {}", self.faults())?;
        writeln!(f, "emulated {}", self.emulated())?;
        writeln!(f, "fast {}", self.fast())?;
        writeln!(f, "fast_ioeventfd {}", self.fast_by(Taker::Ioeventfd))?;
        writeln!(f, "fast_irqsoff {}", self.irqsoff())?;
        writeln!(f, "fast_kernel {}", self.fast_by(Taker::Kernel))?;
        writeln!(f, "fast_userspace {}", self.fast_by(Taker::Userspace))?;
        NAMES
            .iter()
            .zip(self.events)
            .try_for_each(|(name, n)| writeln!(f, "{name} {n}"))
    }
}
