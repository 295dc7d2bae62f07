// SPDX-License-Identifier: GPL-2.0
//! The I/O bus for MMIO: `kvm_io_bus_register_dev()` and its like.

use super::{
    bindings::{mmio_ext_doorbell, mmio_ext_vacancy},
    Kvm, Mistake,
};
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

    /// `overlaps()` of `rust/helpers.c`
    fn overlaps(&self, gpa: u64, len: u32) -> bool {
        self.gpa < gpa + u64::from(len) && gpa < self.gpa + u64::from(self.len.max(1))
    }

    /// `kvm_iodevice_write()`: whether it takes the write.
    fn write(&self, gpa: u64, value: u64, len: u32) -> bool {
        assert_alive(&self.is_alive, "device");
        let takes = match self.datamatch {
            Some(datamatch) => gpa == self.gpa && len == self.len && value == datamatch,
            None => self.gpa <= gpa && gpa + u64::from(len) <= self.gpa + u64::from(self.len),
        };
        if takes {
            self.writes.fetch_add(1, Relaxed);
        }
        takes
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
}

/// An old bus that is freed after a grace period, `call_srcu()`.
#[must_use]
pub(crate) struct OldBus(Option<Rc<State>>);

impl Kvm {
    /// `srcu_dereference()`
    fn bus(&self) -> Rc<State> {
        let bus = self.bus.state(self.bus.active.load(Acquire));
        assert_alive(&bus.is_alive, "bus");
        bus
    }

    fn replace_bus(&self, change: impl FnOnce(&mut Vec<Rc<Device>>)) -> Rc<State> {
        let old = self.bus.state(self.bus.active.load(Relaxed));
        let mut range = old.range.clone();
        change(&mut range);
        let new = self.bus.add(old.generation + 1, range);
        self.bus.active.store(new, Release);
        old
    }

    pub(crate) fn register_dev(&self, device: &Rc<Device>) -> OldBus {
        let old = self.replace_bus(|range| {
            let at = range.partition_point(|other| other.gpa <= device.gpa);
            range.insert(at, device.clone());
        });
        if self.makes(Mistake::BusFreedAtOnce) {
            free(&old.is_alive);
            return OldBus(None);
        }
        OldBus(Some(old))
    }

    /// Frees buses some time later.
    pub(crate) fn free_later(&self, buses: impl IntoIterator<Item = OldBus>) {
        self.srcu.synchronize();
        for bus in buses.into_iter().filter_map(|bus| bus.0) {
            free(&bus.is_alive);
        }
    }

    pub(crate) fn unregister_dev(&self, device: &Rc<Device>) {
        let old = self.replace_bus(|range| range.retain(|other| !Rc::ptr_eq(other, device)));
        self.synchronize();
        free(&device.is_alive);
        free(&old.is_alive);
    }

    /// `kvm_io_bus_write_cookie()`: the index of the device that takes a write.
    pub(crate) fn bus_write(&self, gpa: Gpa, value: u64, len: u8) -> Option<i32> {
        let bus = self.bus();
        let taken = |device: &Rc<Device>| device.write(gpa.0, value, len.into());
        bus.range.iter().position(taken).map(|index| index as i32)
    }

    /// `mmio_ext_ring_doorbell()` of `rust/helpers.c`
    pub(super) fn ring_doorbell(&self, doorbell: &mmio_ext_doorbell) -> bool {
        let bus = self.bus();
        if self.makes(Mistake::AnyBus) {
            let index = doorbell.dev_idx as usize;
            return doorbell.generation != 0
                && index < bus.range.len()
                && bus.range[index].write(doorbell.gpa, doorbell.val, doorbell.len);
        }
        bus.generation == doorbell.generation
            && bus.range[doorbell.dev_idx as usize].write(doorbell.gpa, doorbell.val, doorbell.len)
    }

    /// `mmio_ext_remember_doorbell()` of `rust/helpers.c`
    pub(super) fn remember_doorbell(&self, doorbell: &mut mmio_ext_doorbell) -> bool {
        let bus = self.bus();
        let index = doorbell.dev_idx as usize;
        let found = bus.range.get(index).filter(|device| device.is_ioeventfd());
        let same =
            found.is_some_and(|device| (device.gpa, device.len) == (doorbell.gpa, doorbell.len));
        let first =
            bus.range.iter().take(index).all(|device| {
                !device.overlaps(doorbell.gpa, doorbell.len) || device.is_ioeventfd()
            });
        doorbell.generation = if same && first { bus.generation } else { 0 };
        found.is_some()
    }

    /// `Vcpu::mmio_bus_generation()`
    pub(crate) fn bus_generation(&self) -> u64 {
        match self.makes(Mistake::AnyBus) {
            true => 0,
            false => self.bus().generation,
        }
    }

    /// `mmio_ext_find_vacancy()` of `rust/helpers.c`
    pub(super) fn find_vacancy(&self, vacancy: &mut mmio_ext_vacancy) {
        let mut range = self.bus().range.clone().into_iter();
        vacancy.generation = self.bus_generation();
        vacancy.vacant = !range.any(|device| device.overlaps(vacancy.gpa, vacancy.len));
    }
}
