// SPDX-License-Identifier: GPL-2.0
//! Where things are in a guest. Everything below [`RAM_SIZE`] is mapped at its own address.

use super::PAGE;

/// Size of memslot 0, which starts at GPA 0.
pub const RAM_SIZE: u64 = 0x40_0000;

pub const GDT: u64 = 0x1000;
pub const IDT: u64 = 0x2000;
/// One task-state segment per vCPU, [`TSS_SIZE`] bytes apart.
pub const TSS: u64 = 0x3000;
pub const TSS_SIZE: u64 = 0x80;
/// Exception handlers, [`STUB_SIZE`] bytes apart: each reports its vector and stops.
pub const STUBS: u64 = 0x4000;
pub const STUB_SIZE: u64 = 16;

/// Each vCPU has one of these areas: code from its start, the stacks at its end.
const VCPU_AREA: u64 = 0x1_0000;
pub const VCPU_AREA_SIZE: u64 = 0x1_0000;

/// Where vCPU 0 starts in SMM after a reset: SMBASE + 8000h. Only the third vCPU has its code there.
pub const SMM_HANDLER: u64 = 0x3_8000;

/// Page-table pages are taken from here on.
pub const TABLES: u64 = 0x10_0000;
pub const TABLES_END: u64 = 0x18_0000;

/// RAM for the tests' own use.
pub const SCRATCH: u64 = 0x20_0000;

/// First GPA of the window in which tests do MMIO: no memslot is there.
pub const MMIO_GPA: u64 = 0xd000_0000;

/// Where that window is mapped when the guest pages. Unlike the GPA on purpose, so that a GVA
/// taken for a GPA is noticed.
pub const MMIO_GVA: u64 = 0x5000_0000;

/// The same with 5-level paging: in the upper half, where kernels have devices, and not canonical
/// with 4 levels.
pub const MMIO_GVA_LA57: u64 = 0xffa0_0000_5000_0000;

/// Pages of the window that are mapped from the start.
pub const MMIO_PAGES: u64 = 16;

/// Ports that the guest tells its host by.
pub mod port {
    pub const DONE: u8 = 0xf4;
    pub const FAULT: u8 = 0xf5;
    pub const REPORT: u8 = 0xf6;
    /// The host is to do something.
    pub const HOST: u8 = 0xf7;
    /// Nothing listens here: for measuring port I/O.
    pub const BENCH: u16 = 0x510;
}

/// First byte of vCPU `id`'s code.
pub const fn code(id: u64) -> u64 {
    VCPU_AREA + id * VCPU_AREA_SIZE
}

/// One past the last byte of vCPU `id`'s code.
pub const fn code_end(id: u64) -> u64 {
    code(id) + VCPU_AREA_SIZE - 2 * PAGE
}

/// Top of the stack on which an exception from user mode is delivered.
pub const fn exception_stack(id: u64) -> u64 {
    code(id) + VCPU_AREA_SIZE - PAGE
}

/// Top of the ordinary stack.
pub const fn stack(id: u64) -> u64 {
    code(id) + VCPU_AREA_SIZE - 16
}

/// Most vCPUs that fit below [`TABLES`].
pub const MAX_VCPUS: u64 = (TABLES - VCPU_AREA) / VCPU_AREA_SIZE;
