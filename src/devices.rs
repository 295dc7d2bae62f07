// SPDX-License-Identifier: GPL-2.0

//! Which device an access of the fast path goes to, as KVM's emulator finds it.

use crate::{
    addr::Gpa,
    generation::MemslotGeneration,
    iodev::{Again, Answer, BellKind, Bus, Write},
    kvm::{mmio_is_traced, page_fault_is_traced, Exit},
    observe::fast as see_fast,
    pure::doorbell::{self, first_device},
    registers::{Bell, IoBus},
    report::stats::Taker,
    state::{PendingLoad, State, Vcpu}, //
};
use core::cell::Cell;

/// Whether KVM's own tracepoints are on, which the ordinary path serves.
#[inline(always)]
fn kvm_is_traced() -> bool {
    mmio_is_traced() || page_fault_is_traced()
}

/// For whom a write counts.
#[inline(always)]
fn taker(bell: BellKind) -> Taker {
    match bell {
        BellKind::Eventfd => Taker::Ioeventfd,
        BellKind::Device => Taker::Kernel,
    }
}

impl State {
    /// Whether a write to `gpa` may be worth a try with interrupts off. As cheap as can be: other
    /// exits pay for it.
    #[inline(always)]
    pub(crate) fn may_ring(&self, gpa: Gpa) -> bool {
        self.bells.may_be_at(gpa) && !kvm_is_traced()
    }
}

impl<'a> Vcpu<'a> {
    /// The zero-length ioeventfds, if there are any. Most VMs have none.
    #[inline(always)]
    fn wildcards(&self) -> Option<IoBus<'a>> {
        IoBus::fast_mmio(self).filter(|bus| bus.count() != 0)
    }

    /// Whether there is any zero-length ioeventfd.
    #[inline(always)]
    pub(crate) fn has_wildcards(&self) -> bool {
        self.wildcards().is_some()
    }

    /// Whether there is a zero-length ioeventfd at `gpa`.
    pub(crate) fn has_wildcard(&self, gpa: Gpa) -> bool {
        self.wildcards()
            .is_some_and(|bus| first_device(&bus, gpa, 0).is_some())
    }

    /// Writes up to 8 bytes and goes on at `next_rip`. If all of it was `known`, no hit was counted
    /// yet.
    #[inline(always)]
    pub(crate) fn write_mmio(&mut self, write: Write, next_rip: u64, known: bool) -> Exit {
        if mmio_is_traced() {
            self.trace_mmio_write(&write);
        }
        match self.write_to_device(&write) {
            Taker::Userspace => self.leave_write_to_userspace(&write, next_rip, known),
            taker => {
                self.see_write(&write, taker, known);
                self.retire(next_rip)
            }
        }
    }

    /// Offers a write to the devices in the kernel, as `vcpu_mmio_write()` does. Returns who takes
    /// it.
    #[inline(always)]
    pub(crate) fn write_to_device(&mut self, write: &Write) -> Taker {
        // The local APIC comes first; its page can be anywhere.
        if self.is_apic_page(write.gpa) && self.write_to_apic(write) {
            return Taker::Kernel;
        }
        let Some(bus) = IoBus::mmio(self) else {
            return Taker::Userspace;
        };
        if self.state().bells.may_be_at(write.gpa) {
            if let Some(bell) = self.rings_known(&bus, write) {
                return taker(bell);
            }
        }
        self.find_device(&bus, write)
    }

    /// Signals the zero-length ioeventfd at `gpa`, as KVM does at the exit. Returns whether there is
    /// one.
    #[inline(always)]
    pub(crate) fn signal_wildcard(&mut self, gpa: Gpa) -> bool {
        match self.wildcards() {
            Some(bus) => self.signal_one_of(&bus, gpa),
            None => false,
        }
    }

    #[inline(never)]
    fn signal_one_of(&mut self, bus: &IoBus<'_>, gpa: Gpa) -> bool {
        // KVM does not know more of it.
        let write = Write {
            gpa,
            value: 0,
            size: 0,
        };
        let slots = self.memslots_generation();
        let is_signalled =
            self.state().bells.ring(bus, &write, slots, |_| ()) || self.find_wildcard(bus, &write);
        if is_signalled {
            self.trace_fast_mmio(gpa);
        }
        is_signalled
    }

    #[cold]
    #[inline(never)]
    fn find_wildcard(&mut self, bus: &IoBus<'_>, write: &Write) -> bool {
        !matches!(self.find_device(bus, write), Taker::Userspace)
    }

    /// Offers a write to the devices of its bus. Returns who takes it.
    #[inline(always)]
    fn find_device(&mut self, bus: &IoBus<'_>, write: &Write) -> Taker {
        match doorbell::write(bus, write) {
            Some(Answer::Rung { bell, again }) => {
                self.remember_bell(bus, write, (bell, again));
                taker(bell.kind())
            }
            Some(_) => Taker::Kernel,
            None => Taker::Userspace,
        }
    }

    #[cold]
    #[inline(never)]
    fn remember_bell(&mut self, bus: &IoBus<'_>, write: &Write, bell: (Bell, Again)) {
        let slots = self.memslots_generation();
        self.state_mut().bells.remember(bus, write, slots, bell);
        // Only 64-bit code is answered with interrupts off, and what has a length.
        if write.size != 0 && self.is_in_long_mode() {
            self.add_bell(write.gpa);
        }
    }

    /// Does a write that is remembered. Returns what has done it.
    #[inline(never)]
    fn rings_known(&self, bus: &IoBus<'_>, write: &Write) -> Option<BellKind> {
        let kind = Cell::new(None);
        let slots = self.memslots_generation();
        let bells = &self.state().bells;
        bells.ring(bus, write, slots, |done| kind.set(Some(done)));
        kind.get()
    }

    /// The same with interrupts off; `slots` is the memslots' generation. Returns whether it is done.
    #[inline(always)]
    pub(crate) fn ring(&self, write: &Write, slots: MemslotGeneration) -> bool {
        // The local APIC's page can be anywhere.
        if self.is_apic_page(write.gpa) {
            return false;
        }
        let Some(bus) = IoBus::mmio(self) else {
            return false;
        };
        let count = |done| self.stats().count_rung(taker(done), write.size);
        self.state().bells.ring(&bus, write, slots, count)
    }

    #[inline(never)]
    fn leave_write_to_userspace(&mut self, write: &Write, next_rip: u64, known: bool) -> Exit {
        // Before RIP is that of the next instruction.
        self.see_write(write, Taker::Userspace, known);
        self.exit_for_write(write, next_rip);
        Exit::USERSPACE
    }

    #[inline(always)]
    fn see_write(&mut self, write: &Write, taker: Taker, known: bool) {
        see_fast(
            self,
            write.gpa,
            (true, write.size),
            write.value,
            taker,
            known,
        );
    }

    /// Reads up to 8 bytes. `None` if userspace has to provide them, what goes on with the load
    /// then takes it from [`Vcpu::take_pending_load`]. If all of it was `known`, no hit was counted
    /// yet.
    #[inline(always)]
    pub(crate) fn read_mmio(&mut self, load: PendingLoad, known: bool) -> Option<u64> {
        let (gpa, size) = (load.gpa, load.size);
        let device = IoBus::mmio(self)
            .and_then(|bus| first_device(&bus, gpa, size).map(|index| (bus, index)));
        let vacant = device.is_none();
        if let Some((bus, index)) = device {
            if let Some(value) = self.read_from_device(&bus, index, gpa, size) {
                see_fast(self, gpa, (false, size), value, Taker::Kernel, known);
                return Some(value);
            }
        }
        self.state_mut().pending_load = Some(load);
        let (value, done) = self.read_mmio_at(gpa, size, vacant);
        let taker = if done {
            Taker::Kernel
        } else {
            Taker::Userspace
        };
        see_fast(self, gpa, (false, size), value, taker, known);
        done.then_some(value)
    }

    /// Offers a read to the first device at its address. KVM's own search does what is left: to ask
    /// the local APIC, whose page can be anywhere, and the devices that come after.
    #[inline(always)]
    fn read_from_device(&self, bus: &IoBus<'_>, index: usize, gpa: Gpa, size: u8) -> Option<u64> {
        if self.is_apic_page(gpa) || mmio_is_traced() {
            return None;
        }
        bus.read(index, gpa, size)
    }

    /// Takes the load that waits for userspace, and the value that it has provided.
    #[inline]
    pub(crate) fn take_pending_load(&mut self) -> Option<(PendingLoad, u64)> {
        let load = self.state_mut().pending_load.take()?;
        Some((load, self.provided_value(load.gpa, load.size)))
    }
}
