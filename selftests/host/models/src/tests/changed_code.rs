// SPDX-License-Identifier: GPL-2.0
//! The instruction at RIP is not the one that has faulted: the fast path leaves it to the emulator.

use super::explore;
use crate::linux::{
    memory::DEVICE,
    memslots::Page,
    vcpu::{Effect, KvmVcpu},
    Kvm,
};
use std::rc::Rc;

#[test]
fn a_store_is_not_what_has_faulted_on_a_read() {
    explore(|| {
        let kvm = Rc::new(Kvm::new(DEVICE, Page::Hole, None));
        let mut vcpu = KvmVcpu::new(&kvm, false);
        vcpu.store(0, 1);
        let before = vcpu.fast();
        let effect = vcpu.store(0, 1);
        assert_eq!(vcpu.fast(), before + 1, "it is known");

        assert_eq!(vcpu.store_for_load(), effect);
        assert_eq!(vcpu.fast(), before + 1, "for another instruction's fault");
        matches!(effect, Effect::Mmio { .. })
    });
}
