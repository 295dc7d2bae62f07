// SPDX-License-Identifier: GPL-2.0
//! Loading, switching and unloading the module while a VM comes, does MMIO and goes: none of the
//! module's code runs after it was unloaded, and a vCPU's state is freed, and counted, once.

use super::explore;
use crate::{
    linux::Mistake,
    loading::{Host, VcpuMemory},
    report::{
        registry,
        stats::Event, //
    },
};
use loom::thread;
use std::rc::Rc;

/// What the administrator does, and before that.
#[derive(Clone, Copy)]
struct Deeds {
    before: fn(&Host),
    meanwhile: fn(&Host),
}

const LOAD_AND_UNLOAD: Deeds = Deeds {
    before: |_| (),
    meanwhile: |host| {
        host.register();
        host.unload();
    },
};

const UNLOAD: Deeds = Deeds {
    before: Host::register,
    meanwhile: |host| {
        host.unload();
    },
};

const SWITCH: Deeds = Deeds {
    before: Host::register,
    meanwhile: |host| {
        host.enable(false);
        host.enable(true);
    },
};

/// Reads the statistics, in which nothing is ever lost.
const READ: Deeds = Deeds {
    before: Host::register,
    meanwhile: |_| {
        let first = accesses();
        let second = accesses();
        assert!(first <= second, "{first} accesses, then {second}");
    },
};

/// Accesses of all vCPUs, those that are gone included.
fn accesses() -> u64 {
    registry::total().get(Event::CacheFilled)
}

/// A VM from its begin to its end. Returns how many of its accesses were counted.
fn run_vm(host: &Host) -> u64 {
    let mut vcpu = VcpuMemory::default();
    host.vm_init();
    let first = host.access(&mut vcpu);
    host.clear_info(&mut vcpu);
    let second = host.access(&mut vcpu);
    host.vcpu_free(&mut vcpu);
    host.vm_destroy();
    u64::from(first) + u64::from(second)
}

fn live(deeds: Deeds, mistake: Option<Mistake>) {
    explore(move || {
        let host = Rc::new(Host::new(mistake));
        (deeds.before)(&host);
        let administrator = {
            let host = host.clone();
            thread::spawn(move || (deeds.meanwhile)(&host))
        };
        let counted = run_vm(&host);
        administrator.join().unwrap();

        assert_eq!(accesses(), counted, "accesses counted");
        counted > 0
    });
}

#[test]
fn a_module_comes_and_goes_with_a_vm() {
    live(LOAD_AND_UNLOAD, None);
}

#[test]
fn unload_while_a_vm_comes_and_goes() {
    live(UNLOAD, None);
}

#[test]
fn switch_with_a_vm() {
    live(SWITCH, None);
}

#[test]
fn read_statistics_while_a_vcpu_goes() {
    live(READ, None);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn vms_must_hold_the_module() {
    live(LOAD_AND_UNLOAD, Some(Mistake::NoReference));
}

#[test]
#[should_panic(expected = "was got")]
fn a_module_on_its_way_out_must_be_detached() {
    live(UNLOAD, Some(Mistake::NoDetach));
}

#[test]
#[should_panic(expected = "leaked")]
fn state_must_be_freed_while_off() {
    live(SWITCH, Some(Mistake::FreeOnlyWhileOn));
}
