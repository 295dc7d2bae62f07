// SPDX-License-Identifier: GPL-2.0
//! The I/O bus for MMIO.

use super::{
    mistake::Mistake,
    vcpu::{Effect, Effects},
};
use crate::{
    addr::Gpa,
    iodev::{Again, Answer, BellKind, Range, Write},
    state::Vcpu,
};
use loom::{
    cell::UnsafeCell,
    sync::atomic::{
        AtomicUsize,
        Ordering::{Acquire, Relaxed, Release},
    },
};
use std::{cell::RefCell, marker::PhantomData, ptr::NonNull, rc::Rc};

/// A device on the bus.
pub(crate) struct Device {
    gpa: u64,
    len: u32,
    /// What an ioeventfd waits for, `None` if it is another kind of device.
    datamatch: Option<u64>,
    /// Writes that it has taken.
    writes: AtomicUsize,
    is_alive: UnsafeCell<bool>,
}

impl Device {
    fn new(gpa: Gpa, len: u32, datamatch: Option<u64>) -> Rc<Self> {
        Rc::new(Self {
            gpa: gpa.0,
            len,
            datamatch,
            writes: AtomicUsize::new(0),
            is_alive: UnsafeCell::new(true),
        })
    }

    pub(crate) fn ioeventfd(gpa: Gpa, len: u8, datamatch: u64) -> Rc<Self> {
        Self::new(gpa, len.into(), Some(datamatch))
    }

    /// One that takes every write in its range.
    pub(crate) fn other(gpa: Gpa, len: u32) -> Rc<Self> {
        Self::new(gpa, len, None)
    }

    pub(crate) fn writes(&self) -> usize {
        self.writes.load(Relaxed)
    }

    fn is_ioeventfd(&self) -> bool {
        self.datamatch.is_some()
    }

    /// `kvm_iodevice_write()`: whether it takes the write.
    fn write(&self, gpa: u64, value: u64, len: u32) -> bool {
        assert_alive(&self.is_alive, "device");
        let takes = match self.datamatch {
            Some(datamatch) => gpa == self.gpa && len == self.len && value == datamatch,
            None => self.gpa <= gpa && gpa + u64::from(len) <= self.gpa + u64::from(self.len),
        };
        if takes {
            self.signal();
        }
        takes
    }

    fn signal(&self) {
        assert_alive(&self.is_alive, "device");
        self.writes.fetch_add(1, Relaxed);
    }

    pub(super) fn free(&self) {
        free(&self.is_alive);
    }
}

fn assert_alive(is_alive: &UnsafeCell<bool>, what: &str) {
    // SAFETY: loom sees to it that nobody writes meanwhile.
    is_alive.with(|is_alive| assert!(unsafe { *is_alive }, "{what} used after it was freed"));
}

fn free(is_alive: &UnsafeCell<bool>) {
    // SAFETY: loom sees to it that nobody reads meanwhile.
    is_alive.with_mut(|is_alive| unsafe { *is_alive = false });
}

/// `struct kvm_io_bus`
struct State {
    generation: u64,
    range: Vec<Rc<Device>>,
    is_alive: UnsafeCell<bool>,
}

/// `kvm->buses[KVM_MMIO_BUS]`
pub(crate) struct Bus {
    /// All there ever were; a pointer is an index.
    states: RefCell<Vec<Rc<State>>>,
    active: AtomicUsize,
}

impl Bus {
    pub(super) fn new() -> Self {
        let bus = Self {
            states: RefCell::default(),
            active: AtomicUsize::new(0),
        };
        bus.add(0, Vec::new());
        bus
    }

    fn add(&self, generation: u64, range: Vec<Rc<Device>>) -> usize {
        let mut states = self.states.borrow_mut();
        states.push(Rc::new(State {
            generation,
            range,
            is_alive: UnsafeCell::new(true),
        }));
        states.len() - 1
    }

    fn state(&self, index: usize) -> Rc<State> {
        self.states.borrow()[index].clone()
    }

    /// `srcu_dereference()`
    fn active(&self) -> Rc<State> {
        let state = self.state(self.active.load(Acquire));
        assert_alive(&state.is_alive, "bus");
        state
    }

    fn replace(&self, change: impl FnOnce(&mut Vec<Rc<Device>>)) -> OldBus {
        let old = self.state(self.active.load(Relaxed));
        let mut range = old.range.clone();
        change(&mut range);
        let new = self.add(old.generation + 1, range);
        self.active.store(new, Release);
        OldBus(Some(old))
    }

    pub(super) fn add_dev(&self, device: &Rc<Device>) -> OldBus {
        self.replace(|range| {
            let at = range.partition_point(|other| other.gpa <= device.gpa);
            range.insert(at, device.clone());
        })
    }

    pub(super) fn remove_dev(&self, device: &Rc<Device>) -> OldBus {
        self.replace(|range| range.retain(|other| !Rc::ptr_eq(other, device)))
    }

    /// Whether a device takes a write.
    pub(super) fn write(&self, gpa: Gpa, value: u64, len: u8) -> bool {
        let bus = self.active();
        let mut devices = bus.range.iter();
        devices.any(|device| device.write(gpa.0, value, len.into()))
    }
}

/// An old bus that is freed after a grace period, `call_srcu()`.
#[must_use]
pub(crate) struct OldBus(Option<Rc<State>>);

impl OldBus {
    /// Unless it was freed before.
    pub(super) fn free(&mut self) {
        if let Some(state) = self.0.take() {
            free(&state.is_alive);
        }
    }
}

/// In the place of `Bell` of `rust/kvm/bus.rs`: there are only eventfds.
#[derive(Clone, Copy)]
pub(crate) struct Bell {
    of: NonNull<Device>,
    generation: u64,
}

impl Bell {
    pub(crate) fn kind(self) -> BellKind {
        BellKind::Eventfd
    }
}

/// In the place of `IoBus` there.
pub(crate) struct IoBus<'a> {
    state: Rc<State>,
    /// It passes for the same one always.
    any: bool,
    effects: Effects,
    _srcu: PhantomData<&'a ()>,
}

impl<'a> IoBus<'a> {
    pub(crate) fn mmio(vcpu: &Vcpu<'a>) -> Option<Self> {
        let vcpu = vcpu.kvm_vcpu();
        Some(Self {
            state: vcpu.kvm.bus.active(),
            any: vcpu.kvm.makes(Mistake::AnyBus),
            effects: vcpu.effects.clone(),
            _srcu: PhantomData,
        })
    }

    /// There are no zero-length ioeventfds.
    pub(crate) fn fast_mmio(_: &Vcpu<'a>) -> Option<Self> {
        None
    }

    fn generation(&self) -> u64 {
        match self.any {
            true => 1,
            false => self.state.generation,
        }
    }

    /// No device answers reads.
    pub(crate) fn read(&self, _: usize, _: Gpa, _: u8) -> Option<u64> {
        None
    }

    fn has_taken(&self) {
        self.effects.borrow_mut().push(Effect::Bus);
    }
}

impl crate::iodev::Bus for IoBus<'_> {
    type Bell = Bell;

    fn count(&self) -> usize {
        self.state.range.len()
    }

    fn range(&self, index: usize) -> Range {
        let device = &self.state.range[index];
        Range {
            addr: device.gpa,
            len: device.len as i32,
        }
    }

    fn write(&self, index: usize, write: &Write) -> Answer<Bell> {
        assert_alive(&self.state.is_alive, "bus");
        let device = &self.state.range[index];
        let is_ioeventfd = device.is_ioeventfd();
        if !device.write(write.gpa.0, write.value, write.size.into()) {
            return Answer::Declined {
                always: is_ioeventfd,
            };
        }
        self.has_taken();
        if !is_ioeventfd {
            return Answer::Taken;
        }
        Answer::Rung {
            bell: Bell {
                of: NonNull::from(&**device),
                generation: self.generation(),
            },
            again: Again::SameValue,
        }
    }

    fn is_current(&self, bell: Bell) -> bool {
        bell.generation == self.generation()
    }

    fn signal(&self, bell: Bell) -> bool {
        assert_alive(&self.state.is_alive, "bus");
        let is_current = self.is_current(bell);
        if is_current {
            // SAFETY: Devices are kept, as `states` keeps their buses.
            unsafe { bell.of.as_ref() }.signal();
            self.has_taken();
        }
        is_current
    }

    /// There are only eventfds.
    fn write_again(&self, _: Bell, _: u64) -> bool {
        false
    }
}
