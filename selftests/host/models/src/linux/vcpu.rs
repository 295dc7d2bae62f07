// SPDX-License-Identifier: GPL-2.0
//! `struct kvm_vcpu`.

use super::{
    memory::{Insn, DEVICE},
    mmio_ext::State,
    vm::Kvm,
};
use crate::{
    access::FaultAddress,
    addr::{Gfn, Gpa, Gva},
    mmio_info::MmioInfo,
};
use std::{cell::Cell, rc::Rc};

/// Where the guest's page tables map the device.
pub(crate) const DEVICE_GVA: Gva = Gva(0x7000);

/// What an access has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// An access to memory, and to which.
    Ram(usize),
    /// An exit to userspace.
    Mmio { gfn: Gfn, size: u8 },
    /// A device on the bus has taken it.
    Bus,
}

/// Who goes on with a read when userspace has answered.
#[derive(Clone, Copy)]
pub(crate) enum Completion {
    Emulator,
    Extension,
}

/// `struct kvm_vcpu`
pub(crate) struct KvmVcpu {
    pub(crate) kvm: Rc<Kvm>,
    pub(crate) mmio_ext: Option<Box<State>>,
    /// `vcpu->arch.mmio_*`
    pub(crate) mmio_info: Cell<MmioInfo>,
    /// Guest paging is nothing to the MMU, as with TDP.
    pub(crate) direct: bool,
    /// L2 runs on page tables of L1's.
    pub(crate) nested: bool,
    pub(crate) regs: [u64; 16],
    pub(crate) rip: Gva,
    /// What the guest maps at [`DEVICE_GVA`].
    pub(crate) maps: Gfn,
    /// The offset into the page of the access.
    pub(crate) offset: u64,
    pub(crate) insn: Insn,
    pub(crate) completion: Option<Completion>,
    pub(crate) effects: Vec<Effect>,
}

impl KvmVcpu {
    pub(crate) fn new(kvm: &Rc<Kvm>, direct: bool) -> Self {
        Self {
            kvm: kvm.clone(),
            mmio_ext: None,
            mmio_info: Cell::new(MmioInfo::EMPTY),
            direct,
            nested: false,
            regs: [0; 16],
            rip: Gva(0),
            maps: DEVICE,
            offset: 0,
            insn: Insn::Store,
            completion: None,
            effects: Vec::new(),
        }
    }

    pub(crate) fn gva(&self) -> Gva {
        match self.direct {
            true => Gva(self.gpa().0),
            false => Gva(DEVICE_GVA.0 | self.offset),
        }
    }

    /// What the guest's own page tables say.
    pub(crate) fn gpa(&self) -> Gpa {
        Gpa(self.maps.gpa().0 | self.offset)
    }

    pub(crate) fn fault_address(&self) -> FaultAddress {
        FaultAddress::new(self.gva().0, self.direct)
    }

    /// `vcpu_match_mmio_gva()`, `vcpu_match_mmio_gpa()`
    pub(crate) fn knows_page(&self) -> bool {
        let now = self.kvm.memslots.generation();
        self.fault_address().matches(&self.mmio_info.get(), now)
    }

    pub(crate) fn exit_for_write(&mut self, gpa: Gpa, size: u8) {
        self.effects.push(Effect::Mmio {
            gfn: gpa.gfn(),
            size,
        });
    }

    /// A device on the bus has taken a write.
    pub(crate) fn rang(&mut self) {
        self.effects.push(Effect::Bus);
    }

    pub(crate) fn exit_for_read(&mut self, gpa: Gpa, size: u8, completion: Completion) {
        self.effects.push(Effect::Mmio {
            gfn: gpa.gfn(),
            size,
        });
        self.completion = Some(completion);
    }

    pub(crate) fn retire(&mut self, next_rip: Gva) {
        self.rip = next_rip;
    }
}
