// SPDX-License-Identifier: GPL-2.0
//! What it takes to have nested guests: the VMCB, the page tables, and the code that enters them.
//! L1 and L2 share FS, GS and all registers but RAX, RSP, RIP and RFLAGS.

use anyhow::{Context, Result, ensure};
use kvm_bindings::{Msrs, kvm_msr_entry, kvm_segment, kvm_sregs};

use super::space::{RAM, Root, WINDOW, WINDOW_PAGES};
use crate::guest::cpu::EFER_SVME;
use crate::guest::layout::port;
use crate::guest::paging::{SUPERVISOR, USER};
use crate::guest::{Machine, PAGE, Svm, Vcpu};

/// The VMCB of every L2, apart from what the programs access.
const VMCB: u64 = RAM + 16 * PAGE;

/// How often an L2 has come to its end, 4 bytes.
pub const COUNT: u64 = VMCB + PAGE;

/// Where the processor may save the state of L1.
const HOST_SAVE: u64 = VMCB + 2 * PAGE;

const MSR_VM_HSAVE_PA: u32 = 0xc001_0117;

/// Offsets in the VMCB.
mod vmcb {
    /// Of exceptions, then in the upper half of others.
    pub const INTERCEPTS: u64 = 0x008;
    pub const MORE_INTERCEPTS: u64 = 0x010;
    /// And, in the upper half, what is flushed.
    pub const ASID: u64 = 0x058;
    pub const EXIT_CODE: u8 = 0x70;
    pub const NESTED_CONTROL: u32 = 0x090;
    pub const NESTED_CR3: u64 = 0x0b0;
    pub const SEGMENTS: u64 = 0x400;
    pub const EFER: u64 = 0x4d0;
    pub const CR4: u64 = 0x548;
    pub const CR3: u32 = 0x550;
    pub const CR0: u64 = 0x558;
    pub const DR7: u64 = 0x560;
    pub const DR6: u64 = 0x568;
    pub const RFLAGS: u32 = 0x570;
    pub const RIP: u32 = 0x578;
    pub const RSP: u32 = 0x5d8;
    pub const RAX: u32 = 0x5f8;
    pub const PAT: u64 = 0x668;
}

/// All exceptions, and SHUTDOWN.
const INTERCEPTS: u64 = 0xffff_ffff | 1 << 63;
/// VMRUN, which must be, and VMMCALL.
const MORE_INTERCEPTS: u64 = 0b11;
/// The first that is not the host's, and all of the TLB.
const ASID: u64 = 1 | 1 << 32;
/// Only the bit that is always set.
const RFLAGS: u64 = 2;
/// What DR6, DR7 and the PAT are after a reset.
const DR6: u64 = 0xffff_0ff0;
const DR7: u64 = 0x400;
const PAT: u64 = 0x0007_0406_0007_0406;

const EXIT_VMMCALL: u32 = 0x81;

/// The last instruction of every L2: VMMCALL.
pub const END: [u8; 3] = [0x0f, 0x01, 0xd9];

/// What L1 has for its guests.
pub struct Hypervisor {
    /// A page table that only guests with nested paging can use, if there are any.
    pub nested_root: Option<u64>,
}

/// How an L2 is entered.
#[derive(Clone, Copy)]
pub struct Entry {
    pub cr3: u64,
    pub nested_paging: bool,
}

impl Entry {
    /// What L1 does to run the code at `rip` as L2.
    pub fn code(&self, rip: u64) -> Vec<u8> {
        let mut code = Vec::new();
        // mov eax, VMCB
        code.push(0xb8);
        code.extend((VMCB as u32).to_le_bytes());
        for (field, value) in [
            (vmcb::RIP, rip),
            (vmcb::CR3, self.cr3),
            (vmcb::NESTED_CONTROL, u64::from(self.nested_paging)),
            // What the L2 before has left behind.
            (vmcb::RFLAGS, RFLAGS),
            (vmcb::RSP, 0),
            (vmcb::RAX, 0),
        ] {
            // mov qword ptr [rax + field], value
            code.extend([0x48, 0xc7, 0x80]);
            code.extend(field.to_le_bytes());
            code.extend((value as u32).to_le_bytes());
        }
        // vmrun; stgi
        code.extend([0x0f, 0x01, 0xd8, 0x0f, 0x01, 0xdc]);
        // cmp dword ptr [rax + EXIT_CODE], EXIT_VMMCALL; je over the report
        code.extend([0x81, 0x78, vmcb::EXIT_CODE]);
        code.extend(EXIT_VMMCALL.to_le_bytes());
        code.extend([0x74, 0x05]);
        // mov eax, [rax + EXIT_CODE]; out REPORT, eax
        code.extend([0x8b, 0x40, vmcb::EXIT_CODE, 0xe7, port::REPORT]);
        // inc dword ptr [rax + COUNT - VMCB]
        code.extend([0xff, 0x80]);
        code.extend(((COUNT - VMCB) as u32).to_le_bytes());
        code
    }
}

/// Gives the machine what VMRUN needs.
pub fn prepare(
    machine: &Machine,
    vcpu: &Vcpu,
    sregs: &mut kvm_sregs,
    roots: &[Root],
    svm: Svm,
) -> Result<Hypervisor> {
    sregs.efer |= EFER_SVME;
    let msrs = Msrs::from_entries(&[kvm_msr_entry {
        index: MSR_VM_HSAVE_PA,
        data: HOST_SAVE,
        ..Default::default()
    }])?;
    let set = vcpu.fd().set_msrs(&msrs).context("KVM_SET_MSRS")?;
    ensure!(set == 1, "VM_HSAVE_PA cannot be set");

    write_vmcb(machine, sregs);
    if svm.npt {
        let nested_cr3 = nested_tables(machine, roots);
        machine.ram().write_u64(VMCB + vmcb::NESTED_CR3, nested_cr3);
    }
    Ok(Hypervisor {
        nested_root: svm.npt.then(|| nested_root(machine)),
    })
}

/// What is the same in all VMCBs. No exception is delivered in L2: it needs no descriptor tables.
fn write_vmcb(machine: &Machine, sregs: &kvm_sregs) {
    let write = |field: u64, value: u64| machine.ram().write_u64(VMCB + field, value);
    write(vmcb::INTERCEPTS, INTERCEPTS);
    write(vmcb::MORE_INTERCEPTS, MORE_INTERCEPTS);
    write(vmcb::ASID, ASID);
    let segments = [sregs.es, sregs.cs, sregs.ss, sregs.ds];
    for (segment, at) in segments.iter().zip((vmcb::SEGMENTS..).step_by(16)) {
        write(at, descriptor(segment));
        write(at + 8, segment.base);
    }
    write(vmcb::EFER, sregs.efer);
    write(vmcb::CR4, sregs.cr4);
    write(vmcb::CR0, sregs.cr0);
    write(vmcb::DR7, DR7);
    write(vmcb::DR6, DR6);
    write(vmcb::PAT, PAT);
}

/// Selector, attributes and limit, as in a VMCB.
fn descriptor(segment: &kvm_segment) -> u64 {
    let bits = [
        (segment.type_, 0),
        (segment.s, 4),
        (segment.dpl, 5),
        (segment.present, 7),
        (segment.avl, 8),
        (segment.l, 9),
        (segment.db, 10),
        (segment.g, 11),
    ];
    let attributes = bits
        .iter()
        .fold(0, |all, (value, shift)| all | u64::from(*value) << shift);
    u64::from(segment.selector) | attributes << 16 | u64::from(segment.limit) << 32
}

/// Nested page tables: no page of the window is for L2 what it is for L1, and what is a GVA of the
/// window for L1 is a GPA of L2, too, but of another page.
fn nested_tables(machine: &Machine, roots: &[Root]) -> u64 {
    let tables = machine.new_tables();
    let map = |gpa, page| tables.map(gpa, page, SUPERVISOR | USER);
    for entry in roots.iter().flat_map(|root| &root.entries) {
        let frame = entry.value & !(PAGE - 1);
        map(frame, frame);
    }
    for page in 0..WINDOW_PAGES {
        map(machine.gpa(page), machine.gpa(page ^ 3));
        map(WINDOW + page * PAGE, machine.gpa(page ^ 6));
    }
    tables.root()
}

/// The page table of an L2 whose GPA of a page is the GVA of the next one: an access to both must not
/// take the one for the other.
fn nested_root(machine: &Machine) -> u64 {
    let tables = machine.new_tables();
    for page in 0..WINDOW_PAGES {
        let next = WINDOW + (page + 1) % WINDOW_PAGES * PAGE;
        tables.map(WINDOW + page * PAGE, next, SUPERVISOR);
    }
    tables.root()
}
