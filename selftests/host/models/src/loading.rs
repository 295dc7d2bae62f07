// SPDX-License-Identifier: GPL-2.0
//! The life of the module, of VMs and of what hangs off a vCPU: `arch/x86/kvm/mmio_ext.c`, which
//! the patches add, and what it needs of `kernel/module/main.c`.

use crate::{
    kvm::VcpuState,
    linux::{Mistake, VM},
    prelude::KVBox,
    report::stats::Event,
    state::State,
};
use loom::{
    cell::UnsafeCell,
    sync::{
        atomic::{AtomicBool, Ordering::Relaxed},
        Mutex,
    },
};
use std::mem::ManuallyDrop;

/// `struct module`
struct Module {
    /// References, `None` when it is on its way out.
    references: Mutex<Option<usize>>,
    is_loaded: UnsafeCell<bool>,
}

impl Module {
    /// `try_module_get()`
    fn try_get(&self) -> bool {
        match &mut *self.references.lock().unwrap() {
            Some(references) => *references += 1,
            None => return false,
        }
        true
    }

    /// `module_put()`
    fn put(&self) {
        let mut references = self.references.lock().unwrap();
        *references.as_mut().expect("was got") -= 1;
    }

    /// Who runs code of the module.
    fn run<T>(&self, code: impl FnOnce() -> T) -> T {
        // SAFETY: loom sees to it that nobody writes meanwhile.
        let is_loaded = |is_loaded: *const bool| assert!(unsafe { *is_loaded }, "not loaded");
        self.is_loaded.with(is_loaded);
        let result = code();
        self.is_loaded.with(is_loaded);
        result
    }
}

/// What is protected by `kvm_mmio_ext_lock`.
#[derive(Default)]
struct Registration {
    /// `kvm_mmio_ext_ops`: there is but one extension.
    ops: bool,
    nr_vms: usize,
}

/// KVM as the module finds it.
pub(crate) struct Host {
    mistake: Option<Mistake>,
    module: Module,
    registration: Mutex<Registration>,
    /// The static key. It and the static calls are patched into code: no order but that of the
    /// locks holds for who runs it.
    key: AtomicBool,
    /// Whether the static calls go to the module.
    calls: AtomicBool,
}

/// `vcpu->arch.mmio_ext`: nobody but the module knows how to free it.
#[derive(Default)]
pub(crate) struct VcpuMemory(Option<ManuallyDrop<KVBox<State>>>);

impl Host {
    /// With the module in memory, not yet registered.
    pub(crate) fn new(mistake: Option<Mistake>) -> Self {
        Self {
            mistake,
            module: Module {
                references: Mutex::new(Some(0)),
                is_loaded: UnsafeCell::new(true),
            },
            registration: Mutex::default(),
            key: AtomicBool::new(false),
            calls: AtomicBool::new(false),
        }
    }

    fn makes(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    /// `kvm_mmio_ext_register()`
    pub(crate) fn register(&self) {
        let mut registration = self.registration.lock().unwrap();
        let has_vms = registration.nr_vms > 0 && !self.makes(Mistake::NoReference);
        assert!(!has_vms || self.module.try_get(), "being loaded");
        registration.ops = true;
        self.calls.store(true, Relaxed);
        self.key.store(true, Relaxed);
    }

    fn detach(&self, registration: &mut Registration) {
        self.key.store(false, Relaxed);
        self.calls.store(false, Relaxed);
        registration.ops = false;
    }

    /// `kvm_mmio_ext_enable()`
    pub(crate) fn enable(&self, enable: bool) {
        if self.registration.lock().unwrap().ops {
            self.key.store(enable, Relaxed);
        }
    }

    /// `rmmod`: false if the module is in use.
    pub(crate) fn unload(&self) -> bool {
        {
            let mut references = self.module.references.lock().unwrap();
            if *references != Some(0) {
                return false;
            }
            *references = None;
        }
        // `kvm_mmio_ext_unregister()`, when the registration is dropped.
        let mut registration = self.registration.lock().unwrap();
        if registration.ops {
            self.detach(&mut registration);
        }
        drop(registration);
        // SAFETY: loom sees to it that nobody reads meanwhile.
        let free = |is_loaded: *mut bool| unsafe { *is_loaded = false };
        self.module.is_loaded.with_mut(free);
        true
    }

    /// `kvm_mmio_ext_vm_init()`
    pub(crate) fn vm_init(&self) {
        let mut registration = self.registration.lock().unwrap();
        registration.nr_vms += 1;
        if registration.nr_vms == 1
            && registration.ops
            && !self.module.try_get()
            && !self.makes(Mistake::NoDetach)
        {
            self.detach(&mut registration);
        }
    }

    /// `kvm_mmio_ext_vm_destroy()`
    pub(crate) fn vm_destroy(&self) {
        let mut registration = self.registration.lock().unwrap();
        registration.nr_vms -= 1;
        let has_reference = registration.ops && !self.makes(Mistake::NoReference);
        if registration.nr_vms == 0 && has_reference {
            self.module.put();
        }
    }

    /// An access that the extension counts if it is on. Returns whether it has.
    pub(crate) fn access(&self, vcpu: &mut VcpuMemory) -> bool {
        if !self.key.load(Relaxed) || !self.calls.load(Relaxed) {
            return false;
        }
        self.module.run(|| {
            let state = vcpu
                .0
                .get_or_insert_with(|| ManuallyDrop::new(State::new(VM, 0).expect("has memory")));
            state.stats.count(Event::CacheFilled);
        });
        true
    }

    /// `kvm_mmio_ext_clear_info()`
    pub(crate) fn clear_info(&self, vcpu: &mut VcpuMemory) {
        if vcpu.0.is_some() && self.calls.load(Relaxed) {
            self.module.run(|| ());
        }
    }

    /// `kvm_mmio_ext_vcpu_free()`
    pub(crate) fn vcpu_free(&self, vcpu: &mut VcpuMemory) {
        let forwarded = !self.makes(Mistake::FreeOnlyWhileOn) || self.key.load(Relaxed);
        if let Some(state) = vcpu.0.take().filter(|_| forwarded) {
            self.module.run(|| drop(ManuallyDrop::into_inner(state)));
        }
    }
}
