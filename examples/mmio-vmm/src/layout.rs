// SPDX-License-Identifier: GPL-2.0
//! Where what is: guest-physical addresses, I/O ports, interrupt lines.

/// The zero page of the boot protocol.
pub const ZERO_PAGE: u64 = 0x7000;
/// The first page tables, three pages.
pub const PAGE_TABLES: u64 = 0x9000;
/// The first segment descriptors.
pub const GDT: u64 = 0x500;
/// The kernel's command line, and its greatest size in bytes.
pub const CMDLINE: u64 = 0x2_0000;
pub const CMDLINE_SIZE: usize = 2048;
/// Memory that is usable below 1 MiB ends here.
pub const LOW_END: u64 = 0x9_fc00;
/// Tables of ACPI, where a BIOS has them: Linux looks for them there as well.
pub const ACPI: u64 = 0xe_0000;
pub const ACPI_END: u64 = 0x10_0000;
/// Where the kernel is loaded, and memory that is usable goes on.
pub const HIGH: u64 = 0x10_0000;

/// Memory ends below this, in bytes; devices begin.
pub const DEVICES: u64 = 0xd000_0000;
/// Each device has one page.
pub const PAGE: u64 = 0x1000;

/// Where devices of PCI have their registers.
pub const PCI_WINDOW: u64 = 0xd400_0000;
pub const PCI_WINDOW_SIZE: u64 = 0x10_0000;

/// What the in-kernel interrupt controllers answer.
pub const IOAPIC: u32 = 0xfec0_0000;
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// Three pages that KVM needs on Intel, and one.
pub const TSS: usize = 0xfffb_d000;
pub const IDENTITY_MAP: u64 = 0xfffb_c000;

/// The serial console.
pub const SERIAL_PORT: u16 = 0x3f8;
pub const SERIAL_IRQ: u32 = 4;
/// Data and command of the keyboard's controller, which is here to reset the machine.
pub const I8042_PORT: u16 = 0x60;
/// ACPI's registers to switch off: control, status.
pub const SLEEP_PORT: u16 = 0x600;

/// Lines of the IOAPIC; those from here on are the devices'.
pub const IRQ_LINES: u32 = 24;
pub const FIRST_IRQ: u32 = 5;

/// KVM's number of the memory; devices have those behind it.
pub const RAM_SLOT: u32 = 0;
