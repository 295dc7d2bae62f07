// SPDX-License-Identifier: GPL-2.0
//! Changes of memslots against accesses: once an ioctl has returned, every access sees what it has
//! made, whichever cache knew something else (invariants 1 and 2).

use super::explore;
use crate::exits::new_vcpu;
use crate::{
    addr::Gfn,
    linux::{
        bus::Device,
        effect::Effect,
        memory::{store_size, CODE, DEVICE},
        memslots::Page,
        Kvm, Mistake,
    },
};
use loom::{
    sync::atomic::{
        AtomicUsize,
        Ordering::{Acquire, Release},
    },
    thread,
};
use std::{cell::Cell, rc::Rc};

/// What the page is, from the beginning on.
struct Truth {
    pages: &'static [Page],
    /// Changes that have begun.
    begun: Cell<usize>,
    /// Changes that have returned.
    returned: AtomicUsize,
}

impl Truth {
    fn new(pages: &'static [Page]) -> Self {
        Self {
            pages,
            begun: Cell::new(0),
            returned: AtomicUsize::new(0),
        }
    }

    fn make_changes(&self, kvm: &Kvm) {
        for (change, page) in self.pages.iter().enumerate().skip(1) {
            self.begun.set(change);
            kvm.set_memslot(*page);
            self.returned.store(change, Release);
        }
    }

    /// Has a vCPU make an access. One that overlaps a change may have either outcome.
    fn check(&self, access: impl FnOnce() -> Effect, expected: fn(Page) -> Effect) {
        let before = self.returned.load(Acquire);
        let effect = access();
        if self.begun.get() == before {
            assert_eq!(effect, expected(self.pages[before]), "is not the truth");
        }
    }
}

fn store_to(page: Page) -> Effect {
    match page {
        Page::Ram(ram) => Effect::Ram(ram),
        _ => Effect::Mmio {
            gfn: DEVICE,
            size: 8,
        },
    }
}

/// There is an ioeventfd where no memory is.
fn ring(page: Page) -> Effect {
    match page {
        Page::Ram(ram) => Effect::Ram(ram),
        _ => Effect::Bus,
    }
}

fn store_by(code: Page) -> Effect {
    let Page::Ram(code) = code else {
        unreachable!("the code is in memory");
    };
    Effect::Mmio {
        gfn: DEVICE,
        size: store_size(code),
    }
}

/// What stores come to, whether there is an ioeventfd for them where no memory is, and whether the
/// processor reports the bytes of the instruction.
#[derive(Clone, Copy)]
struct Stores {
    expected: fn(Page) -> Effect,
    has_bell: bool,
    assists: bool,
}

const TO_DEVICE: Stores = Stores {
    expected: store_to,
    has_bell: false,
    assists: false,
};
const TO_BELL: Stores = Stores {
    expected: ring,
    has_bell: true,
    assists: false,
};
/// The same where nothing is read to know the instruction.
const TO_BELL_ASSISTED: Stores = Stores {
    assists: true,
    ..TO_BELL
};
const BY_CODE: Stores = Stores {
    expected: store_by,
    has_bell: false,
    assists: false,
};

/// Changes of `gfn`, and a vCPU that makes some stores meanwhile, and some before so that its caches
/// know the first of the pages.
fn change(
    gfn: Gfn,
    pages: &'static [Page],
    before: usize,
    stores: Stores,
    mistake: Option<Mistake>,
) {
    explore(move || {
        let kvm = Rc::new(Kvm::new(gfn, pages[0], mistake));
        if stores.has_bell {
            kvm.free_later([kvm.register_dev(&Device::ioeventfd(DEVICE.gpa(), 8, 1))]);
        }
        let truth = Rc::new(Truth::new(pages));
        let mut vcpu = new_vcpu(&kvm, true);
        vcpu.assists = stores.assists;
        let mut store = |times| {
            (0..times).for_each(|_| truth.check(|| vcpu.store(0, 1), stores.expected));
        };
        store(before);

        let changer = {
            let (kvm, truth) = (kvm.clone(), truth.clone());
            thread::spawn(move || truth.make_changes(&kvm))
        };
        store(2);
        changer.join().unwrap();
        store(2);

        vcpu.hits() > 0 && stores.has_bell == (vcpu.rung_early() > 0)
    });
}

/// Stores after which everything is known, that is known at all.
const WARM: usize = 3;
const COLD: usize = 0;

const CREATED: &[Page] = &[Page::Hole, Page::Ram(0)];
const DELETED: &[Page] = &[Page::Ram(0), Page::Hole];
const REPLACED: &[Page] = &[Page::Ram(0), Page::Ram(1)];
const OPENED: &[Page] = &[Page::ReadOnly, Page::Ram(0)];
const CLOSED: &[Page] = &[Page::Ram(0), Page::ReadOnly];

#[test]
fn a_new_slot_is_memory() {
    change(DEVICE, CREATED, COLD, TO_DEVICE, None);
    change(DEVICE, CREATED, WARM, TO_DEVICE, None);
}

#[test]
fn a_deleted_slot_is_mmio() {
    change(DEVICE, DELETED, COLD, TO_DEVICE, None);
    change(DEVICE, DELETED, WARM, TO_DEVICE, None);
}

/// What the guest could not write it can, and the other way round.
#[test]
fn a_read_only_slot_is_mmio_for_writes() {
    change(DEVICE, OPENED, COLD, TO_DEVICE, None);
    change(DEVICE, OPENED, WARM, TO_DEVICE, None);
    change(DEVICE, CLOSED, COLD, TO_DEVICE, None);
}

/// A doorbell there is no doorbell where there is memory to write, nor while KVM makes it.
#[test]
fn a_doorbell_of_an_old_slot_is_forgotten() {
    for stores in [TO_BELL, TO_BELL_ASSISTED] {
        change(DEVICE, OPENED, WARM, stores, None);
        change(DEVICE, CLOSED, COLD, stores, None);
        change(DEVICE, CREATED, WARM, stores, None);
    }
}

/// The instruction that was read before is not executed.
#[test]
fn code_of_an_old_slot_is_forgotten() {
    change(CODE, REPLACED, COLD, BY_CODE, None);
    change(CODE, REPLACED, WARM, BY_CODE, None);
}

/// An access that began before the change stores what it knew under the new generation.
#[test]
#[should_panic(expected = "is not the truth")]
fn a_new_slot_needs_a_grace_period() {
    let mistake = Some(Mistake::NoGracePeriod);
    change(DEVICE, CREATED, COLD, TO_DEVICE, mistake);
}

/// An access that began before the change maps what is then deleted.
#[test]
#[should_panic(expected = "is not the truth")]
fn a_deleted_slot_needs_a_grace_period() {
    let mistake = Some(Mistake::NoGracePeriod);
    change(DEVICE, DELETED, COLD, TO_DEVICE, mistake);
}

#[test]
#[should_panic(expected = "is not the truth")]
fn a_new_generation_must_wait() {
    let mistake = Some(Mistake::GenerationAtOnce);
    change(DEVICE, CREATED, COLD, TO_DEVICE, mistake);
}

#[test]
#[should_panic(expected = "is not the truth")]
fn a_new_slot_needs_a_new_generation() {
    let mistake = Some(Mistake::SameGeneration);
    change(DEVICE, CREATED, WARM, TO_DEVICE, mistake);
}

#[test]
#[should_panic(expected = "is not the truth")]
fn code_needs_a_new_generation() {
    let mistake = Some(Mistake::SameGeneration);
    change(CODE, REPLACED, WARM, BY_CODE, mistake);
}

#[test]
#[should_panic(expected = "is not the truth")]
fn doorbells_need_a_new_generation() {
    let mistake = Some(Mistake::SameGeneration);
    change(DEVICE, OPENED, WARM, TO_BELL, mistake);
}
