// SPDX-License-Identifier: GPL-2.0

//! Addresses where no device of the I/O bus is: an access there goes to userspace without a
//! search.
//!
//! Userspace's devices have few registers that are used often, and the devices on the bus rarely
//! change.

use super::vcpu::Vcpu;
use crate::addr::Gpa;
use kernel::prelude::*;
use kvm_bindings as bindings;
use pin_init::init_array_from_fn;

/// Addresses that are remembered, a power of two.
const ENTRIES: usize = 32;

/// What a vCPU knows about the addresses of its accesses, each in the entry that it selects.
pub(super) struct Vacancies {
    entries: [bindings::mmio_ext_vacancy; ENTRIES],
}

/// No access has no bytes.
const UNKNOWN: bindings::mmio_ext_vacancy = bindings::mmio_ext_vacancy {
    generation: 0,
    gpa: 0,
    len: 0,
    vacant: false,
};

impl Vacancies {
    pub(super) fn init() -> impl Init<Self> {
        init!(Self {
            entries <- init_array_from_fn(|_| UNKNOWN),
        })
    }

    /// The registers of a device are 4 bytes apart, devices often a page.
    #[inline(always)]
    fn entry(&mut self, gpa: Gpa) -> &mut bindings::mmio_ext_vacancy {
        &mut self.entries[(gpa.0 >> 2 ^ gpa.0 >> 12) as usize % ENTRIES]
    }
}

/// Whether no device on the bus can take an access of `size` bytes. Looks for one unless that is
/// known.
#[inline(always)]
pub(super) fn is_vacant(vcpu: &mut Vcpu<'_>, gpa: Gpa, size: u8) -> bool {
    let generation = vcpu.mmio_bus_generation();
    let entry = vcpu.vacancies().entry(gpa);

    if entry.gpa != gpa.0 || entry.len != u32::from(size) || entry.generation != generation {
        return look(vcpu, gpa, size);
    }
    entry.vacant
}

/// Looks whether no device on the bus can take an access, and remembers it.
#[cold]
fn look(vcpu: &mut Vcpu<'_>, gpa: Gpa, size: u8) -> bool {
    let raw = vcpu.raw();
    let entry = vcpu.vacancies().entry(gpa);

    *entry = bindings::mmio_ext_vacancy {
        gpa: gpa.0,
        len: size.into(),
        ..UNKNOWN
    };
    // SAFETY: The vCPU is in its own thread and `kvm->srcu` is held.
    unsafe { bindings::mmio_ext_find_vacancy(raw, entry) };
    entry.vacant
}
