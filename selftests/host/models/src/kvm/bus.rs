// SPDX-License-Identifier: GPL-2.0
//! In the place of `rust/kvm/bus.rs`: there are only eventfds, and others that are not the module's.

use super::vcpu::{Vcpu, VcpuState};
use crate::{
    addr::Gpa,
    iodev::{Again, Answer, BellKind, Range, Write},
    linux::{
        bus::{Device, State},
        effect::{Effect, Effects},
        Mistake,
    },
};
use std::{marker::PhantomData, ptr::NonNull, rc::Rc};

/// What is rung.
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

/// A bus as a vCPU sees it while `kvm->srcu` is held.
pub(crate) struct IoBus<'a> {
    state: Rc<State>,
    /// It passes for the same one always.
    any: bool,
    effects: Effects,
    _srcu: PhantomData<&'a ()>,
}

impl<'a> IoBus<'a> {
    pub(crate) fn mmio<S: VcpuState>(vcpu: &Vcpu<'a, S>) -> Option<Self> {
        let vcpu = vcpu.kvm_vcpu();
        Some(Self {
            state: vcpu.kvm.bus.active(),
            any: vcpu.kvm.makes(Mistake::AnyBus),
            effects: vcpu.effects.clone(),
            _srcu: PhantomData,
        })
    }

    /// There are no zero-length ioeventfds.
    pub(crate) fn fast_mmio<S: VcpuState>(_: &Vcpu<'a, S>) -> Option<Self> {
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
        self.state.assert_alive();
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
        self.state.assert_alive();
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
