// SPDX-License-Identifier: GPL-2.0
//! The instruction at RIP is not the one that has faulted: the fast path leaves it to the emulator.

use super::explore;
use crate::exits::new_vcpu;
use crate::linux::{effect::Effect, memory::DEVICE, memslots::Page, Kvm};
use std::rc::Rc;

#[test]
fn a_store_is_not_what_has_faulted_on_a_read() {
    explore(|| {
        let kvm = Rc::new(Kvm::new(DEVICE, Page::Hole, None));
        let mut vcpu = new_vcpu(&kvm, false);
        vcpu.store(0, 1);
        let before = vcpu.fast();
        let effect = vcpu.store(0, 1);
        assert_eq!(vcpu.fast(), before + 1, "it is known");

        assert_eq!(vcpu.store_for_load(), effect);
        assert_eq!(vcpu.fast(), before + 1, "for another instruction's fault");
        matches!(effect, Effect::Mmio { .. })
    });
}
