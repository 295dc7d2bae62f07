// SPDX-License-Identifier: GPL-2.0
//! Ioeventfds that come and go while a vCPU writes to them: one that an ioctl has removed is not
//! signalled any more, one that it has added is, and the memory of neither is used too late. So on
//! the ordinary path, and before interrupts are on again.

use super::explore;
use crate::addr::Gpa;
use crate::exits::new_vcpu;
use crate::linux::{
    bus::Device, effect::Effect, memory::DEVICE, memslots::Page, vcpu::KvmVcpu, Kvm, Mistake,
};
use loom::{
    sync::atomic::{
        AtomicBool,
        Ordering::{Relaxed, Release},
    },
    thread,
};
use std::rc::Rc;

/// Bytes of each write.
const SIZE: u8 = 8;

const TO_USERSPACE: Effect = Effect::Mmio {
    gfn: DEVICE,
    size: SIZE,
};

fn ioeventfd(value: u64) -> Rc<Device> {
    Device::ioeventfd(DEVICE.gpa(), SIZE, value)
}

/// Where a doorbell that is known is answered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Path {
    Ordinary,
    IrqsOff,
}

const PATHS: [Path; 2] = [Path::Ordinary, Path::IrqsOff];

/// A VM with some devices, and a vCPU that has rung the last of them, whose value is `value`.
fn start(
    devices: &[&Rc<Device>],
    value: u64,
    path: Path,
    mistake: Option<Mistake>,
) -> (Rc<Kvm>, KvmVcpu) {
    let kvm = Rc::new(Kvm::new(DEVICE, Page::Hole, mistake));
    let old = devices.iter().map(|device| kvm.register_dev(device));
    if mistake != Some(Mistake::BusFreedAtOnce) {
        kvm.free_later(old);
    } else {
        old.for_each(drop);
    }
    let mut vcpu = new_vcpu(&kvm, true);
    vcpu.irqs_off = path == Path::IrqsOff;
    for _ in 0..3 {
        vcpu.store(0, value);
    }
    // It is known from the second of them on.
    let is_early = vcpu.irqs_off && !devices.is_empty();
    assert_eq!(vcpu.rung_early(), u64::from(is_early));
    (kvm, vcpu)
}

/// The ioctl that removes an ioeventfd returns, and the eventfd's user looks at it.
fn remove(path: Path, mistake: Option<Mistake>) {
    explore(move || {
        let bell = ioeventfd(1);
        let (kvm, mut vcpu) = start(&[&bell], 1, path, mistake);
        let before = bell.writes();

        let remover = {
            let bell = bell.clone();
            thread::spawn(move || {
                kvm.unregister_dev(&bell);
                bell.writes()
            })
        };
        let effects = [vcpu.store(0, 1), vcpu.store(0, 1)];
        let at_return = remover.join().unwrap();

        let rung = effects.iter().filter(|effect| **effect == Effect::Bus);
        assert_eq!(bell.writes(), before + rung.count(), "rung besides");
        assert_eq!(bell.writes(), at_return, "signalled after its removal");
        assert_eq!(vcpu.store(0, 1), TO_USERSPACE);
        effects == [Effect::Bus, TO_USERSPACE]
    });
}

/// Another ioeventfd takes the place of one, and the guest is told.
fn replace(path: Path, mistake: Option<Mistake>) {
    explore(move || {
        let (old, new) = (ioeventfd(1), ioeventfd(1));
        let (kvm, mut vcpu) = start(&[&old], 1, path, mistake);
        let told = Rc::new(AtomicBool::new(false));

        let changer = {
            let (told, old, new) = (told.clone(), old.clone(), new.clone());
            thread::spawn(move || {
                kvm.unregister_dev(&old);
                let bus = kvm.register_dev(&new);
                told.store(true, Release);
                kvm.free_later([bus]);
            })
        };
        // A load by the guest, ordered before what it does later only as KVM orders it.
        let is_told = told.load(Relaxed);
        let before = new.writes();
        vcpu.store(0, 1);
        if is_told {
            assert_eq!(new.writes(), before + 1, "an added ioeventfd is not seen");
        }
        changer.join().unwrap();
        is_told
    });
}

/// An ioeventfd comes to where there was nothing, and the guest is told.
fn fill(mistake: Option<Mistake>) {
    explore(move || {
        let bell = ioeventfd(1);
        let (kvm, mut vcpu) = start(&[], 1, Path::IrqsOff, mistake);
        let told = Rc::new(AtomicBool::new(false));

        let changer = {
            let (told, bell) = (told.clone(), bell.clone());
            thread::spawn(move || {
                let bus = kvm.register_dev(&bell);
                told.store(true, Release);
                kvm.free_later([bus]);
            })
        };
        let is_told = told.load(Relaxed);
        let effect = vcpu.store(0, 1);
        if is_told {
            assert_eq!(effect, Effect::Bus, "the place is not vacant any more");
        }
        changer.join().unwrap();
        is_told
    });
}

/// A device of another kind comes to be in front of a doorbell that stays where it was in the
/// order.
fn put_in_front(path: Path, mistake: Option<Mistake>) {
    explore(move || {
        let (first, bell) = (ioeventfd(1), ioeventfd(2));
        let other = Device::other(Gpa(DEVICE.gpa().0 - 8), 32);
        let (kvm, mut vcpu) = start(&[&first, &bell], 2, path, mistake);

        let changer = {
            let (first, other) = (first.clone(), other.clone());
            thread::spawn(move || {
                let bus = kvm.register_dev(&other);
                kvm.unregister_dev(&first);
                kvm.free_later([bus]);
            })
        };
        vcpu.store(0, 2);
        changer.join().unwrap();

        let before = other.writes();
        vcpu.store(0, 2);
        assert_eq!(other.writes(), before + 1, "the device in front is missed");
        true
    });
}

#[test]
fn a_removed_ioeventfd_is_not_signalled() {
    for path in PATHS {
        remove(path, None);
    }
}

#[test]
fn an_added_ioeventfd_is_signalled() {
    for path in PATHS {
        replace(path, None);
    }
}

#[test]
fn an_ioeventfd_at_a_vacant_place_is_signalled() {
    fill(None);
}

#[test]
fn a_device_in_front_is_not_missed() {
    for path in PATHS {
        put_in_front(path, None);
    }
}

#[test]
#[should_panic(expected = "Causality violation")]
fn removal_needs_a_grace_period() {
    remove(Path::Ordinary, Some(Mistake::NoGracePeriod));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn removal_needs_a_grace_period_with_interrupts_off() {
    remove(Path::IrqsOff, Some(Mistake::NoGracePeriod));
}

#[test]
#[should_panic(expected = "an added ioeventfd is not seen")]
fn addition_needs_a_barrier() {
    replace(Path::Ordinary, Some(Mistake::NoBarrier));
}

#[test]
#[should_panic(expected = "an added ioeventfd is not seen")]
fn addition_needs_a_barrier_with_interrupts_off() {
    replace(Path::IrqsOff, Some(Mistake::NoBarrier));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn an_old_bus_needs_a_grace_period() {
    replace(Path::Ordinary, Some(Mistake::BusFreedAtOnce));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn an_old_bus_needs_a_grace_period_with_interrupts_off() {
    replace(Path::IrqsOff, Some(Mistake::BusFreedAtOnce));
}

#[test]
#[should_panic(expected = "the device in front is missed")]
fn doorbells_need_the_generation() {
    put_in_front(Path::Ordinary, Some(Mistake::AnyBus));
}

#[test]
#[should_panic(expected = "the device in front is missed")]
fn doorbells_need_the_generation_with_interrupts_off() {
    put_in_front(Path::IrqsOff, Some(Mistake::AnyBus));
}

#[test]
#[should_panic(expected = "the place is not vacant any more")]
fn vacancies_need_a_barrier() {
    fill(Some(Mistake::NoBarrier));
}
