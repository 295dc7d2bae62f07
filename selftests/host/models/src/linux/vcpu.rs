// SPDX-License-Identifier: GPL-2.0
//! `struct kvm_vcpu`.

use super::{
    effect::{Effect, Effects},
    memory::{Insn, DEVICE},
    vm::Kvm,
};
use crate::{
    access::FaultAddress,
    addr::{Gfn, Gpa, Gva},
    mmio_info::MmioInfo,
};
use std::{any::Any, cell::Cell, rc::Rc};

/// Where the guest's page tables map the device.
pub(crate) const DEVICE_GVA: Gva = Gva(0x7000);

/// Who goes on with a read when userspace has answered.
#[derive(Clone, Copy)]
pub(crate) enum Completion {
    Emulator,
    Extension,
}

/// `kvm_mmio_ext_bell()`: a bit for the addresses that KVM does not tell apart.
pub(crate) fn bell(gpa: Gpa) -> u64 {
    1 << (gpa.0 / 8 % 64)
}

/// `struct kvm_vcpu`
pub(crate) struct KvmVcpu {
    pub(crate) kvm: Rc<Kvm>,
    pub(crate) mmio_ext: Option<Box<dyn Any>>,
    /// `kvm_mmu_page_fault()`, which the extension calls, and which calls the extension.
    pub(crate) page_fault: fn(&mut Self, bool) -> i32,
    /// `vcpu->arch.mmio_ext_bells`
    pub(crate) bells: u64,
    /// The parameter `irqsoff`.
    pub(crate) irqs_off: bool,
    /// `vcpu->arch.mmio_*`
    pub(crate) mmio_info: Cell<MmioInfo>,
    /// Guest paging is nothing to the MMU, as with TDP.
    pub(crate) direct: bool,
    /// The processor reports the bytes of the instruction, and whether it writes: NPT with decode
    /// assists, and not EPT.
    pub(crate) assists: bool,
    /// A performance counter of the guest counts instructions.
    pub(crate) counts_instructions: bool,
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
    /// What userspace answers to a read.
    pub(crate) provided: u64,
    pub(crate) effects: Effects,
}

impl KvmVcpu {
    pub(crate) fn new(kvm: &Rc<Kvm>, direct: bool, page_fault: fn(&mut Self, bool) -> i32) -> Self {
        Self {
            kvm: kvm.clone(),
            page_fault,
            mmio_ext: None,
            bells: 0,
            irqs_off: true,
            mmio_info: Cell::new(MmioInfo::EMPTY),
            direct,
            assists: false,
            counts_instructions: false,
            nested: false,
            regs: [0; 16],
            rip: Gva(0),
            maps: DEVICE,
            offset: 0,
            insn: Insn::Store,
            completion: None,
            provided: 0,
            effects: Effects::default(),
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
        self.has(Effect::Mmio {
            gfn: gpa.gfn(),
            size,
        });
    }

    pub(crate) fn has(&self, effect: Effect) {
        self.effects.borrow_mut().push(effect);
    }

    pub(crate) fn exit_for_read(&mut self, gpa: Gpa, size: u8, completion: Completion) {
        self.exit_for_write(gpa, size);
        self.completion = Some(completion);
    }

    /// What the guest's store stores: RCX.
    pub(super) fn stored(&self) -> u64 {
        self.regs[1]
    }

    pub(crate) fn retire(&mut self, next_rip: Gva) {
        self.rip = next_rip;
    }
}
