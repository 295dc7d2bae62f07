// SPDX-License-Identifier: GPL-2.0
//! What is answered before interrupts are on again is a store that rings, where it has faulted, and
//! nobody counts it. Anything else takes the ordinary way, and nothing has happened.

use super::explore;
use crate::{
    addr::Gpa,
    exits::new_vcpu,
    linux::{
        bus::Device,
        effect::Effect,
        memory::{Insn, DEVICE},
        memslots::Page,
        vcpu::KvmVcpu,
        Kvm,
    },
    state::Vcpu,
};
use std::rc::Rc;

/// What all doorbells here wait for: what a load would write if it were a store.
const VALUE: u64 = 0;

/// Another doorbell.
const OTHER: u64 = 8;

const WRITE: u64 = Vcpu::PFERR_RSVD | Vcpu::PFERR_WRITE;

/// A VM with two doorbells, which has rung them until they are answered early; and loads.
struct Ringing {
    vcpu: KvmVcpu,
    bells: [Rc<Device>; 2],
}

impl Ringing {
    fn new() -> Self {
        let kvm = Rc::new(Kvm::new(DEVICE, Page::Hole, None));
        let at = [0, OTHER];
        let bells = at.map(|at| Device::ioeventfd(Gpa(DEVICE.gpa().0 + at), 8, VALUE));
        kvm.free_later(bells.each_ref().map(|bell| kvm.register_dev(bell)));
        let mut vcpu = new_vcpu(&kvm, true);
        for _ in 0..2 {
            vcpu.load(VALUE);
        }
        for offset in [0, OTHER, 0, OTHER] {
            assert_eq!(vcpu.store(offset, VALUE), Effect::Bus);
        }
        let mut this = Self { vcpu, bells };
        let before = this.early();
        this.vcpu.store(0, VALUE);
        assert_eq!(this.early(), before + 1, "it is known");
        this
    }

    fn early(&mut self) -> u64 {
        self.vcpu.rung_early()
    }

    /// How often each has rung.
    fn rings(&self) -> [usize; 2] {
        self.bells.each_ref().map(|bell| bell.writes())
    }

    /// Nothing happens when KVM asks of a fault at `offset`, while `insn` is at RIP, which accesses
    /// the first doorbell.
    fn expect_nothing(&mut self, insn: Insn, offset: u64, error_code: u64) {
        let rings = self.rings();
        self.vcpu.rip = insn.rip();
        self.vcpu.regs[0] = DEVICE.gpa().0;
        self.vcpu.regs[1] = VALUE;
        let done = self.vcpu.ring_at(Gpa(DEVICE.gpa().0 + offset), error_code);
        assert!(!done, "it is done");
        assert_eq!(self.rings(), rings, "something has rung");
        assert_eq!(self.vcpu.rip, insn.rip(), "the guest goes on");
    }
}

/// Each of these is one order of the one thread.
fn check(run: impl Fn(&mut Ringing) + Sync + Send + 'static) {
    explore(move || {
        run(&mut Ringing::new());
        true
    });
}

#[test]
fn a_guest_that_counts_instructions_is_answered_later() {
    check(|it| {
        it.vcpu.counts_instructions = true;
        it.expect_nothing(Insn::Store, 0, WRITE);
        let (early, rings) = (it.early(), it.rings());
        assert_eq!(it.vcpu.store(0, VALUE), Effect::Bus);
        assert_eq!((it.early(), it.rings()), (early, [rings[0] + 1, rings[1]]));

        it.vcpu.counts_instructions = false;
        it.vcpu.store(0, VALUE);
        assert_eq!(it.early(), early + 1, "it counts no more");
    });
}

/// The processor has written to the guest's page tables.
#[test]
fn a_walk_of_page_tables_rings_nothing() {
    const GUEST_PAGE: u64 = 1 << 33;
    check(|it| it.expect_nothing(Insn::Store, 0, WRITE | GUEST_PAGE));
}

/// Another instruction has faulted than the one that is at RIP now.
#[test]
fn a_store_to_elsewhere_rings_nothing() {
    check(|it| it.expect_nothing(Insn::Store, OTHER, WRITE));
}

/// With EPT a fault does not tell.
#[test]
fn a_load_rings_nothing() {
    check(|it| it.expect_nothing(Insn::Load, 0, Vcpu::PFERR_RSVD));
}
