// SPDX-License-Identifier: GPL-2.0
//! Descriptor tables and system registers of a vCPU.

use kvm_bindings::{kvm_dtable, kvm_segment, kvm_sregs};

use super::layout::{GDT, IDT, STUB_SIZE, STUBS, TSS, TSS_SIZE, exception_stack, port};
use super::{Mode, Region};

pub const KERNEL_CODE: u16 = 0x08;
pub const KERNEL_DATA: u16 = 0x10;
pub const USER_CODE: u16 = 0x18 | 3;
pub const USER_DATA: u16 = 0x20 | 3;

pub const CR0_PE: u64 = 1 << 0;
const CR0_MP: u64 = 1 << 1;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
pub const CR0_WP: u64 = 1 << 16;
pub const CR0_PG: u64 = 1 << 31;
pub const CR4_PAE: u64 = 1 << 5;
pub const CR4_PGE: u64 = 1 << 7;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXMMEXCPT: u64 = 1 << 10;
const CR4_LA57: u64 = 1 << 12;
pub const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
pub const EFER_NXE: u64 = 1 << 11;
pub const EFER_SVME: u64 = 1 << 12;

const VECTORS: u64 = 32;

fn segment(mode: Mode, selector: u16, code: bool) -> kvm_segment {
    let long_code = mode.is_long() && code;
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        // Accessed; readable code or writable data.
        type_: if code { 0xb } else { 0x3 },
        present: 1,
        dpl: (selector & 3) as u8,
        db: u8::from(!long_code),
        s: 1,
        l: u8::from(long_code),
        g: 1,
        ..Default::default()
    }
}

/// The 8-byte descriptor that loads as `segment`.
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = u64::from(segment.limit >> 12);
    let access = u64::from(segment.type_)
        | u64::from(segment.s) << 4
        | u64::from(segment.dpl) << 5
        | u64::from(segment.present) << 7;
    let flags = u64::from(segment.l) << 1 | u64::from(segment.db) << 2 | u64::from(segment.g) << 3;
    (limit & 0xffff) | access << 40 | (limit >> 16) << 48 | flags << 52
}

/// Writes the tables that all vCPUs share: GDT, IDT and the handlers.
pub fn write_tables(ram: &Region, mode: Mode) {
    for (selector, code) in [
        (KERNEL_CODE, true),
        (KERNEL_DATA, false),
        (USER_CODE, true),
        (USER_DATA, false),
    ] {
        let entry = descriptor(&segment(mode, selector, code));
        ram.write_u64(GDT + u64::from(selector & !7), entry);
    }
    for vector in 0..VECTORS {
        let handler = STUBS + vector * STUB_SIZE;
        // mov al, vector; out FAULT, al; jmp to itself
        ram.write(
            handler,
            &[0xb0, vector as u8, 0xe6, port::FAULT, 0xeb, 0xfe],
        );
        // Present interrupt gate of 32 or 64 bits, for the kernel's code segment.
        let gate = (handler & 0xffff)
            | u64::from(KERNEL_CODE) << 16
            | 0x8e00 << 32
            | (handler >> 16 & 0xffff) << 48;
        if mode.is_long() {
            ram.write_u64(IDT + vector * 16, gate);
            ram.write_u64(IDT + vector * 16 + 8, 0);
        } else {
            ram.write_u64(IDT + vector * 8, gate);
        }
    }
}

/// Writes the task-state segment of one vCPU: only its stack for exceptions from user mode.
pub fn write_tss(ram: &Region, mode: Mode, id: u64) {
    let tss = TSS + id * TSS_SIZE;
    ram.write(tss + 4, &exception_stack(id).to_le_bytes());
    if !mode.is_long() {
        ram.write(tss + 8, &u32::from(KERNEL_DATA).to_le_bytes());
    }
}

/// Puts a vCPU into kernel code of `mode` with page tables at `root`.
pub fn set_sregs(sregs: &mut kvm_sregs, mode: Mode, id: u64, root: u64) {
    set_kernel_segments(sregs, mode);
    sregs.tr = kvm_segment {
        base: TSS + id * TSS_SIZE,
        limit: 0x67,
        selector: 0x28,
        // Busy TSS of 32 or 64 bits.
        type_: 0xb,
        present: 1,
        ..Default::default()
    };
    sregs.gdt = kvm_dtable {
        base: GDT,
        limit: 0x2f,
        ..Default::default()
    };
    let gate = if mode.is_long() { 16 } else { 8 };
    sregs.idt = kvm_dtable {
        base: IDT,
        limit: (VECTORS * gate - 1) as u16,
        ..Default::default()
    };

    sregs.cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP;
    sregs.cr4 = CR4_OSFXSR | CR4_OSXMMEXCPT;
    sregs.efer = 0;
    if mode.is_paged() {
        sregs.cr0 |= CR0_PG;
        sregs.cr3 = root;
    }
    if matches!(mode, Mode::Long | Mode::La57 | Mode::Pae) {
        sregs.cr4 |= CR4_PAE;
    }
    if mode == Mode::La57 {
        sregs.cr4 |= CR4_LA57;
    }
    if mode.is_long() {
        sregs.efer = EFER_LME | EFER_LMA;
    }
}

/// Back from user mode to the kernel's segments.
pub fn set_kernel_segments(sregs: &mut kvm_sregs, mode: Mode) {
    sregs.cs = segment(mode, KERNEL_CODE, true);
    let data = segment(mode, KERNEL_DATA, false);
    sregs.ds = data;
    sregs.es = data;
    sregs.fs = data;
    sregs.gs = data;
    sregs.ss = data;
}

/// Whether the processor pushes an error code for this vector.
pub fn has_error_code(vector: u8) -> bool {
    matches!(vector, 8 | 10..=14 | 17 | 21)
}
