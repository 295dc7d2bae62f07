// SPDX-License-Identifier: GPL-2.0

//! What KVM remembers of an MMIO page.
//!
//! C header: [`arch/x86/include/asm/kvm_host.h`](srctree/arch/x86/include/asm/kvm_host.h),
//! `vcpu->arch.mmio_*`.

use super::{
    addr::{Gfn, Gpa, Gva},
    generation::MemslotGeneration, //
};

/// What is known of an MMIO page, as KVM's own cache holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioInfo {
    /// The page's virtual address, 0 if it is not known (as always with TDP).
    pub gva: Gva,
    /// The page's frame. Frame 0 is never found: it stands for an empty entry.
    pub gfn: Gfn,
    /// The rights that the guest's page tables give to the page, `ACC_*`.
    pub access: u32,
    /// The memslots that know nothing of the frame.
    pub generation: MemslotGeneration,
}

impl MmioInfo {
    /// An entry that is never found.
    pub const EMPTY: Self = Self {
        gva: Gva(0),
        gfn: Gfn(0),
        access: 0,
        generation: MemslotGeneration(0),
    };

    /// `vcpu_match_mmio_gva()`. `now` is the current generation of the memslots; as one of an
    /// update in progress is never cached, none matches during one.
    pub fn matches_gva(&self, gva: Gva, now: MemslotGeneration) -> bool {
        self.generation == now && gva.page() != Gva(0) && self.gva == gva.page()
    }

    /// `vcpu_match_mmio_gpa()`.
    pub fn matches_gpa(&self, gpa: Gpa, now: MemslotGeneration) -> bool {
        self.generation == now && gpa.gfn() != Gfn(0) && self.gfn == gpa.gfn()
    }
}
