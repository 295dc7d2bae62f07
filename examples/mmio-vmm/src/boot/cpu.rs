// SPDX-License-Identifier: GPL-2.0
//! The processor as the 64-bit boot protocol wants it: `Documentation/arch/x86/boot.rst`.

use anyhow::{Context, Result};
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment};
use kvm_ioctls::{Kvm, VcpuFd};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::layout;

/// Flat segments, as `__BOOT_CS` and `__BOOT_DS` select them.
const CODE: u64 = 0x00af_9b00_0000_ffff;
const DATA: u64 = 0x00cf_9300_0000_ffff;
const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;

const CR0_PE: u64 = 1;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

/// Makes the guest's only processor ready to run its kernel from `entry` on.
pub fn set_up(kvm: &Kvm, vcpu: &VcpuFd, memory: &GuestMemoryMmap, entry: u64) -> Result<()> {
    let mut cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
    describe(&mut cpuid);
    vcpu.set_cpuid2(&cpuid).context("CPUID")?;
    write_gdt(memory)?;
    write_page_tables(memory)?;
    set_segments(vcpu)?;
    vcpu.set_regs(&kvm_regs {
        rip: entry,
        rsi: layout::ZERO_PAGE,
        rflags: 2,
        ..Default::default()
    })?;
    Ok(())
}

/// Changes what KVM can do to what this machine has.
fn describe(cpuid: &mut CpuId) {
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            1 => {
                // One processor, whose local APIC has the identifier 0.
                entry.ebx &= 0xffff;
                entry.ebx |= 1 << 16;
                // The timer that needs no calibration, which the in-kernel APIC has.
                entry.ecx |= 1 << 24;
                entry.ecx |= 1 << 31;
            }
            0xb | 0x1f => entry.edx = 0,
            _ => {}
        }
    }
}

fn write_gdt(memory: &GuestMemoryMmap) -> Result<()> {
    for (index, descriptor) in [0, 0, CODE, DATA].into_iter().enumerate() {
        memory.write_obj(descriptor, GuestAddress(layout::GDT + 8 * index as u64))?;
    }
    Ok(())
}

/// The first GiB at the same addresses, in pages of 2 MiB.
fn write_page_tables(memory: &GuestMemoryMmap) -> Result<()> {
    const PRESENT_WRITABLE: u64 = 3;
    const LARGE: u64 = 1 << 7;
    let [pml4, pdpt, pd] = [0, 1, 2].map(|table| layout::PAGE_TABLES + table * layout::PAGE);
    memory.write_obj(pdpt | PRESENT_WRITABLE, GuestAddress(pml4))?;
    memory.write_obj(pd | PRESENT_WRITABLE, GuestAddress(pdpt))?;
    for index in 0..512u64 {
        let entry = index << 21 | PRESENT_WRITABLE | LARGE;
        memory.write_obj(entry, GuestAddress(pd + 8 * index))?;
    }
    Ok(())
}

fn set_segments(vcpu: &VcpuFd) -> Result<()> {
    let data = kvm_segment {
        limit: u32::MAX,
        selector: DATA_SELECTOR,
        type_: 3,
        present: 1,
        s: 1,
        db: 1,
        g: 1,
        ..Default::default()
    };
    let code = kvm_segment {
        selector: CODE_SELECTOR,
        type_: 0xb,
        l: 1,
        db: 0,
        ..data
    };
    let mut sregs = vcpu.get_sregs()?;
    sregs.cs = code;
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.gdt.base = layout::GDT;
    sregs.gdt.limit = 4 * 8 - 1;
    sregs.cr3 = layout::PAGE_TABLES;
    sregs.cr4 |= CR4_PAE;
    sregs.cr0 |= CR0_PE | CR0_PG;
    sregs.efer |= EFER_LME | EFER_LMA;
    vcpu.set_sregs(&sregs).context("the first registers")
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvm_bindings::kvm_cpuid_entry2;

    #[test]
    fn one_processor_with_a_timer() {
        let [one, topology] = [1, 0xb].map(|function| kvm_cpuid_entry2 {
            function,
            ebx: u32::MAX,
            edx: u32::MAX,
            ..Default::default()
        });
        let mut cpuid = CpuId::from_entries(&[one, topology]).unwrap();
        describe(&mut cpuid);
        let [one, topology] = cpuid.as_slice() else {
            panic!("two leaves");
        };
        assert_eq!(one.ebx, 0x1_ffff);
        assert_eq!(one.ecx, 1 << 24 | 1 << 31);
        assert_eq!(topology.edx, 0);
    }
}
