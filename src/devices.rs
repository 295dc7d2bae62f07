// SPDX-License-Identifier: GPL-2.0

//! Which device an access of the fast path goes to, as KVM's emulator finds it.

use crate::{
    addr::Gpa,
    generation::MemslotGeneration,
    iodev::{Again, Answer, Bus, Write},
    kvm::{
        access_is_traced, heat_is_on, irqsoff, mmio_is_traced, page_fault_is_traced, tdp_enabled,
        Eventfd, Exit, IoBus,
    },
    observe::fast as see_fast,
    pure::{
        bells::Epoch,
        doorbell::first_device, //
    },
    report::stats::Taker,
    state::{PendingLoad, State, Vcpu}, //
};

/// Whether somebody wants to see each access, which the ordinary path shows.
#[inline(always)]
fn is_watched() -> bool {
    heat_is_on() || access_is_traced() || mmio_is_traced() || page_fault_is_traced()
}

impl State {
    /// Whether a write to `gpa` may be worth a try with interrupts off. As cheap as can be: other
    /// exits pay for it.
    #[inline(always)]
    pub(crate) fn may_ring(&self, gpa: Gpa) -> bool {
        self.bells.may_be_at(gpa) && !is_watched()
    }
}

impl Vcpu<'_> {
    /// Whether there is any zero-length ioeventfd. Most VMs have none.
    #[inline(always)]
    pub(crate) fn has_wildcards(&self) -> bool {
        IoBus::fast_mmio(self).is_some_and(|bus| bus.count() != 0)
    }

    /// Whether there is a zero-length ioeventfd at `gpa`.
    pub(crate) fn has_wildcard(&self, gpa: Gpa) -> bool {
        IoBus::fast_mmio(self).is_some_and(|bus| first_device(&bus, gpa, 0).is_some())
    }

    /// Writes up to 8 bytes and goes on at `next_rip`. If all of it was `known`, no hit was counted
    /// yet.
    #[inline(always)]
    pub(crate) fn write_mmio(&mut self, write: Write, next_rip: u64, known: bool) -> Exit {
        if mmio_is_traced() {
            self.trace_mmio_write(&write);
        }
        match self.write_to_device(&write) {
            Some(Answer::Signalled { eventfd, again }) => {
                self.see_write(&write, Taker::Ioeventfd, known);
                self.remember_bell(&write, eventfd, again);
                self.retire(next_rip)
            }
            Some(_) => {
                self.see_write(&write, Taker::Kernel, known);
                self.retire(next_rip)
            }
            None => self.leave_write_to_userspace(&write, next_rip, known),
        }
    }

    /// Offers a write to the devices in the kernel, as `vcpu_mmio_write()` does.
    #[inline(always)]
    pub(crate) fn write_to_device(&mut self, write: &Write) -> Option<Answer<Eventfd>> {
        // The local APIC comes first; its page can be anywhere.
        if self.is_apic_page(write.gpa) && self.write_to_apic(write) {
            return Some(Answer::Taken);
        }
        let bus = IoBus::mmio(self)?;
        self.state_mut().doorbells.write(&bus, write)
    }

    /// Remembers what a write has signalled, if that may be done with interrupts off next time.
    #[inline(always)]
    fn remember_bell(&mut self, write: &Write, eventfd: Eventfd, again: Again) {
        if irqsoff() && !is_watched() && tdp_enabled() {
            self.insert_bell(write, eventfd, again);
        }
    }

    #[cold]
    fn insert_bell(&mut self, write: &Write, eventfd: Eventfd, again: Again) {
        let slots = self.memslots_generation();
        // Nobody can tell what is at the address while they change.
        if slots.update_in_progress() {
            return;
        }
        if let Some(bus) = IoBus::mmio(self).map(|bus| bus.generation()) {
            let epoch = Epoch { bus, slots };
            self.state_mut().bells.insert(write, epoch, again, eventfd);
        }
    }

    /// Signals what a write is remembered to signal. Returns whether it is. `slots` is the
    /// memslots' generation. Interrupts may be off.
    #[inline(always)]
    pub(crate) fn ring(&mut self, write: &Write, slots: MemslotGeneration) -> bool {
        // The local APIC's page can be anywhere.
        if self.is_apic_page(write.gpa) {
            return false;
        }
        let Some(bus) = IoBus::mmio(self) else {
            return false;
        };
        let epoch = Epoch {
            bus: bus.generation(),
            slots,
        };
        let Some(eventfd) = self.state().bells.find(write, epoch) else {
            return false;
        };
        let is_signalled = bus.signal(eventfd);
        if is_signalled {
            self.stats().count_rung(write.size);
        }
        is_signalled
    }

    #[inline(never)]
    fn leave_write_to_userspace(&mut self, write: &Write, next_rip: u64, known: bool) -> Exit {
        self.exit_for_write(write, next_rip);
        self.see_write(write, Taker::Userspace, known);
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
        let vacant = IoBus::mmio(self).is_none_or(|bus| first_device(&bus, gpa, size).is_none());
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

    /// Takes the load that waits for userspace, and the value that it has provided.
    #[inline]
    pub(crate) fn take_pending_load(&mut self) -> Option<(PendingLoad, u64)> {
        let load = self.state_mut().pending_load.take()?;
        Some((load, self.provided_value(load.gpa, load.size)))
    }
}
