// SPDX-License-Identifier: GPL-2.0
//! KVM's instruction emulator.

use super::{
    effect::Effect,
    memory::{store_size, Insn},
    memslots::Page,
    vcpu::{Completion, KvmVcpu},
};
use crate::addr::Gpa;

impl KvmVcpu {
    /// `x86_emulate_instruction()`
    pub(crate) fn emulate(&mut self) -> i32 {
        // The instruction is read again; its slot may be about to be deleted.
        let code = self.kvm.translate_fetch(self.rip);
        let Page::Ram(code) = self.kvm.page(code.gfn()) else {
            return 1;
        };
        let size = match self.insn {
            Insn::Store => store_size(code),
            Insn::Load => 8,
        };
        match self.mmio_gva_to_gpa() {
            Ok(ram) => self.has(Effect::Ram(ram)),
            Err(gpa) if self.insn == Insn::Load => {
                self.exit_for_read(gpa, size, Completion::Emulator);
                return 0;
            }
            Err(gpa) => {
                self.write(gpa, self.stored(), size);
            }
        }
        self.retire(self.insn.next_rip());
        1
    }

    /// Where the emulator finds the operand: in memory or not.
    fn mmio_gva_to_gpa(&self) -> Result<usize, Gpa> {
        if self.knows_page() {
            return Err(Gpa(self.mmio_info.get().gfn.gpa().0 | self.offset));
        }
        match self.kvm.page(self.maps) {
            Page::Ram(ram) => Ok(ram),
            Page::Hole | Page::ReadOnly | Page::Invalid => Err(self.gpa()),
        }
    }

    /// Writes to the bus, or else leaves it to userspace.
    fn write(&mut self, gpa: Gpa, value: u64, size: u8) {
        match self.kvm.bus_write(gpa, value, size) {
            true => self.has(Effect::Bus),
            false => self.exit_for_write(gpa, size),
        }
    }
}
