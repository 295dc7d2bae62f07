// SPDX-License-Identifier: GPL-2.0
//! The I/O bus for MMIO.

use crate::addr::Gpa;
use loom::{
    cell::UnsafeCell,
    sync::atomic::{
        AtomicUsize,
        Ordering::{Acquire, Relaxed, Release},
    },
};
use std::{cell::RefCell, rc::Rc};

/// A device on the bus.
pub(crate) struct Device {
    pub(crate) gpa: u64,
    pub(crate) len: u32,
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

    pub(crate) fn is_ioeventfd(&self) -> bool {
        self.datamatch.is_some()
    }

    /// `kvm_iodevice_write()`: whether it takes the write.
    pub(crate) fn write(&self, gpa: u64, value: u64, len: u32) -> bool {
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

    pub(crate) fn signal(&self) {
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
pub(crate) struct State {
    pub(crate) generation: u64,
    pub(crate) range: Vec<Rc<Device>>,
    is_alive: UnsafeCell<bool>,
}

impl State {
    pub(crate) fn assert_alive(&self) {
        assert_alive(&self.is_alive, "bus");
    }
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
    pub(crate) fn active(&self) -> Rc<State> {
        let state = self.state(self.active.load(Acquire));
        state.assert_alive();
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
