// SPDX-License-Identifier: GPL-2.0
//! An address of L2 is no virtual address of L1, though KVM has it in the same place (2017).

use super::explore;
use crate::exits::new_vcpu;
use crate::{
    access::FaultAddress,
    addr::Gva,
    fault::{emulator_knows_page, handle_mmio_page_fault, quickly_check_mmio_pf},
    kvm::PageFault,
    linux::{
        memory::OTHER_DEVICE,
        memslots::Page,
        vcpu::{KvmVcpu, DEVICE_GVA},
        Kvm,
    },
    state::Vcpu,
};
use std::rc::Rc;

#[test]
fn an_address_of_l2_is_not_cached_as_a_virtual_one() {
    explore(|| {
        let kvm = Rc::new(Kvm::new(OTHER_DEVICE, Page::Hole, None));
        let mut vcpu = new_vcpu(&kvm, false);
        vcpu.store(0, 1);

        // L2 faults on the same number, and an MMIO SPTE is there.
        let addr = FaultAddress::Virtual(DEVICE_GVA);
        let is_known = |vcpu: &mut KvmVcpu| {
            let vcpu = Vcpu::enter(vcpu);
            emulator_knows_page(&vcpu, addr, vcpu.memslots_generation())
        };
        assert!(quickly_check_mmio_pf(&mut Vcpu::enter(&mut vcpu), addr));
        assert!(is_known(&mut vcpu));
        vcpu.nested = true;
        assert!(!is_known(&mut vcpu));
        assert!(!quickly_check_mmio_pf(&mut Vcpu::enter(&mut vcpu), addr));
        let other = FaultAddress::Virtual(Gva(0x9000));
        let found = handle_mmio_page_fault(&mut Vcpu::enter(&mut vcpu), other).unwrap();
        assert_eq!(found, PageFault::Emulate);

        // L1 knows the page as before, and nothing at the address of L2.
        vcpu.nested = false;
        assert!(quickly_check_mmio_pf(&mut Vcpu::enter(&mut vcpu), addr));
        assert!(!quickly_check_mmio_pf(&mut Vcpu::enter(&mut vcpu), other));
        found == PageFault::Emulate
    });
}
