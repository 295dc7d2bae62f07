// SPDX-License-Identifier: GPL-2.0
//! Turning the parameters `enabled` and `fast` while a vCPU does MMIO: no access is lost, doubled
//! or goes where the guest does not map it any more, whoever handles it.

use super::explore;
use crate::exits::new_vcpu;
use crate::{
    addr::Gfn,
    linux::{
        effect::Effect,
        memory::{DEVICE, OTHER_DEVICE},
        memslots::Page,
        vcpu::KvmVcpu,
        Kvm, Mistake, FAST,
    },
};
use loom::{sync::atomic::Ordering::Relaxed, thread};
use std::rc::Rc;

/// What is switched off and on again.
#[derive(Clone, Copy)]
enum Parameter {
    Enabled,
    Fast,
}

fn switch(parameter: Parameter, direct: bool, mistake: Option<Mistake>, run: fn(&mut KvmVcpu)) {
    explore(move || {
        let kvm = Rc::new(Kvm::new(OTHER_DEVICE, Page::Hole, mistake));
        let mut vcpu = new_vcpu(&kvm, direct);
        store_and_check(&mut vcpu, DEVICE);

        let switcher = {
            let kvm = kvm.clone();
            thread::spawn(move || {
                for on in [false, true] {
                    match parameter {
                        Parameter::Enabled => kvm.enabled.store(on, Relaxed),
                        Parameter::Fast => FAST.store(on, Relaxed),
                    }
                }
            })
        };
        run(&mut vcpu);
        switcher.join().unwrap();

        vcpu.fast() > 0
    });
}

fn store_and_check(vcpu: &mut KvmVcpu, gfn: Gfn) {
    let effect = vcpu.store(0, 1);
    assert_eq!(effect, Effect::Mmio { gfn, size: 8 }, "is not mapped");
}

/// Stores to a page, and then to another that is mapped in its place.
fn remap(vcpu: &mut KvmVcpu) {
    store_and_check(vcpu, DEVICE);
    vcpu.remap(OTHER_DEVICE);
    store_and_check(vcpu, OTHER_DEVICE);
    store_and_check(vcpu, OTHER_DEVICE);
}

/// Loads what userspace answers.
fn load(vcpu: &mut KvmVcpu) {
    for value in [0x1234, 0x5678] {
        let (effect, loaded) = vcpu.load(value);
        let expected = Effect::Mmio {
            gfn: DEVICE,
            size: 8,
        };
        assert_eq!(effect, expected);
        assert_eq!(loaded, value);
    }
}

/// Meets an MMIO SPTE that a change of memslots has made stale.
fn refault(vcpu: &mut KvmVcpu) {
    store_and_check(vcpu, DEVICE);
    vcpu.kvm.set_memslot(Page::Ram(0));
    store_and_check(vcpu, DEVICE);
    store_and_check(vcpu, DEVICE);
}

#[test]
fn a_page_is_forgotten_on_or_off() {
    switch(Parameter::Enabled, false, None, remap);
}

#[test]
fn a_page_is_forgotten_fast_or_not() {
    switch(Parameter::Fast, false, None, remap);
}

#[test]
fn a_load_is_completed_on_or_off() {
    switch(Parameter::Enabled, true, None, load);
}

#[test]
fn a_load_is_completed_fast_or_not() {
    switch(Parameter::Fast, true, None, load);
}

#[test]
fn a_stale_entry_is_replaced_on_or_off() {
    switch(Parameter::Enabled, true, None, refault);
}

#[test]
#[should_panic(expected = "is not mapped")]
fn pages_must_be_forgotten_while_off() {
    let mistake = Some(Mistake::ClearOnlyWhileOn);
    switch(Parameter::Enabled, false, mistake, remap);
}

#[test]
#[should_panic(expected = "the guest goes on at")]
fn loads_must_be_completed_while_off() {
    let mistake = Some(Mistake::CompleteOnlyWhileOn);
    switch(Parameter::Enabled, true, mistake, load);
}
