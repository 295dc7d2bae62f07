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

/// Makes the guest's only processor ready to run its kernel from `entry` on. Without `xsave` it is
/// told of no extended states, and with them of no AVX.
pub fn set_up(
    kvm: &Kvm,
    vcpu: &VcpuFd,
    memory: &GuestMemoryMmap,
    entry: u64,
    xsave: bool,
) -> Result<()> {
    let mut cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
    describe(&mut cpuid, xsave);
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
fn describe(cpuid: &mut CpuId, xsave: bool) {
    const XSAVE_OSXSAVE_AVX: u32 = 1 << 26 | 1 << 27 | 1 << 28;
    const AVX2: u32 = 1 << 5;
    const PKU_OSPKE: u32 = 1 << 3 | 1 << 4;
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            1 => {
                // One processor, whose local APIC has the identifier 0.
                entry.ebx &= 0xffff;
                entry.ebx |= 1 << 16;
                // The timer that needs no calibration, which the in-kernel APIC has.
                entry.ecx |= 1 << 24;
                entry.ecx |= 1 << 31;
                if !xsave {
                    entry.ecx &= !XSAVE_OSXSAVE_AVX;
                }
            }
            7 if !xsave => {
                entry.ebx &= !AVX2;
                entry.ecx &= !PKU_OSPKE;
            }
            0xb | 0x1f => entry.edx = 0,
            0xd if !xsave => {
                (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
            }
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
    let code = segment(CODE_SELECTOR, 0xb, true);
    let data = segment(DATA_SELECTOR, 3, false);
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

fn segment(selector: u16, type_: u8, is_code: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        s: 1,
        l: is_code.into(),
        db: (!is_code).into(),
        g: 1,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvm_bindings::kvm_cpuid_entry2;

    fn leaf(function: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            eax: u32::MAX,
            ebx: u32::MAX,
            ecx: u32::MAX,
            edx: u32::MAX,
            ..Default::default()
        }
    }

    #[test]
    fn without_xsave_nothing_of_it_is_left() {
        let mut cpuid = CpuId::from_entries(&[leaf(1), leaf(7), leaf(0xd)]).unwrap();
        describe(&mut cpuid, false);
        let [one, seven, states] = cpuid.as_slice() else {
            panic!("three leaves");
        };
        assert_eq!(one.ecx & 0x1c00_0000, 0);
        assert_eq!(one.ebx >> 16, 1);
        assert_eq!(seven.ebx & 0x20, 0);
        assert_eq!((states.eax, states.ebx), (0, 0));
    }
}
