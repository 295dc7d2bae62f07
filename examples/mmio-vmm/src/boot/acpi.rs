// SPDX-License-Identifier: GPL-2.0
//! ACPI's tables, by which any distribution's kernel finds the devices and their interrupts.
//!
//! The hardware-reduced kind: no PIT, no PIC, no power management timer. Sections are those of the
//! ACPI specification 6.5.

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Memory32Fixed, Name,
    Package, Path, ResourceTemplate,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace as Space, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use anyhow::{Result, ensure};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::layout;

const OEM: [u8; 6] = *b"MMIOVM";
const TABLE: [u8; 8] = *b"MMIOVMM ";

/// Registers and interrupt of a virtio-mmio device.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    pub base: u64,
    pub irq: u32,
}

/// What the tables tell of.
#[derive(Clone, Debug, Default)]
pub struct Hardware {
    pub virtio: Vec<Region>,
    pub has_pci: bool,
}

/// Writes all tables, the root first, as the zero page names that.
pub fn write_tables(memory: &GuestMemoryMmap, hardware: &Hardware) -> Result<()> {
    let mut writer = Writer {
        memory,
        next: layout::ACPI + Rsdp::len() as u64,
    };
    let dsdt = writer.put(&dsdt(hardware))?;
    let fadt = writer.put(&fadt(dsdt))?;
    let madt = writer.put(&madt())?;
    let mut xsdt = XSDT::new(OEM, TABLE, 1);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    if hardware.has_pci {
        let mut mcfg = MCFG::new(OEM, TABLE, 1);
        mcfg.add_ecam(layout::ECAM, 0, 0, 0);
        xsdt.add_entry(writer.put(&mcfg)?);
    }
    let xsdt = writer.put(&xsdt)?;
    writer.next = layout::ACPI;
    writer.put(&Rsdp::new(OEM, xsdt))?;
    Ok(())
}

struct Writer<'a> {
    memory: &'a GuestMemoryMmap,
    next: u64,
}

impl Writer<'_> {
    /// Gives the table's address.
    fn put(&mut self, table: &dyn Aml) -> Result<u64> {
        let mut bytes = Vec::new();
        table.to_aml_bytes(&mut bytes);
        let address = self.next.next_multiple_of(16);
        self.next = address + bytes.len() as u64;
        ensure!(
            self.next <= layout::ACPI_END,
            "too many devices for ACPI's tables"
        );
        self.memory.write_slice(&bytes, GuestAddress(address))?;
        Ok(address)
    }
}

/// 5.2.9: how to switch off and reset; all else is in the DSDT.
fn fadt(dsdt: u64) -> impl Aml {
    const NO_VGA: u16 = 1 << 2;
    const NO_RTC: u16 = 1 << 5;
    let mut fadt = FADTBuilder::new(OEM, TABLE, 1)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup);
    let port = |port| GAS::new(Space::SystemIo, 8, 0, AccessSize::ByteAccess, port);
    fadt.iapc_boot_arch = (NO_VGA | NO_RTC).into();
    fadt.reset_reg = port(u64::from(layout::I8042_PORT) + 4);
    fadt.reset_value = 0xfe;
    fadt.sleep_control_reg = port(layout::SLEEP_PORT.into());
    fadt.sleep_status_reg = port(u64::from(layout::SLEEP_PORT) + 1);
    fadt.finalize()
}

/// 5.2.12: one processor, one IOAPIC.
fn madt() -> impl Aml {
    let local = LocalInterruptController::Address(layout::LOCAL_APIC);
    let mut madt = MADT::new(OEM, TABLE, 1, local);
    madt.add_structure(ProcessorLocalApic::new(0, 0, EnabledStatus::Enabled));
    madt.add_structure(IoApic::new(0, layout::IOAPIC, 0));
    madt
}

fn dsdt(hardware: &Hardware) -> impl Aml {
    let mut dsdt = Sdt::new(*b"DSDT", 36, 6, OEM, TABLE, 1);
    let mut aml = Vec::new();
    serial(&mut aml);
    // 7.4.2.6: the value for SLP_TYP to switch off with.
    let off = Package::new(vec![&5u8]);
    Name::new("_S5_".into(), &off).to_aml_bytes(&mut aml);
    for (number, region) in (0u8..).zip(&hardware.virtio) {
        virtio(number, region, &mut aml);
    }
    if hardware.has_pci {
        pci(&mut aml);
    }
    dsdt.append_slice(&aml);
    dsdt
}

/// An interrupt of an edge, that its device has for itself.
fn edge(irq: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, irq)
}

fn serial(aml: &mut Vec<u8>) {
    let (port, irq) = (
        IO::new(layout::SERIAL_PORT, layout::SERIAL_PORT, 1, 8),
        edge(layout::SERIAL_IRQ),
    );
    let resources = ResourceTemplate::new(vec![&port, &irq]);
    Device::new(
        Path::new("_SB_.COM1"),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0501")),
            &Name::new("_UID".into(), &0u8),
            &Name::new("_CRS".into(), &resources),
        ],
    )
    .to_aml_bytes(aml);
}

/// Linux' drivers/virtio/virtio_mmio.c goes by this name.
fn virtio(number: u8, region: &Region, aml: &mut Vec<u8>) {
    let registers = Memory32Fixed::new(true, region.base as u32, layout::PAGE as u32);
    let irq = edge(region.irq);
    let resources = ResourceTemplate::new(vec![&registers, &irq]);
    Device::new(
        Path::new(&format!("_SB_.VR{number:02}")),
        vec![
            &Name::new("_HID".into(), &"LNRO0005"),
            &Name::new("_UID".into(), &number),
            &Name::new("_CRS".into(), &resources),
        ],
    )
    .to_aml_bytes(aml);
}

/// A host bridge of one bus, without interrupt lines: its devices use messages.
fn pci(aml: &mut Vec<u8>) {
    let bus = AddressSpace::new_bus_number(0u16, 0u16);
    let end = layout::PCI_WINDOW + layout::PCI_WINDOW_SIZE - 1;
    let window = AddressSpace::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        layout::PCI_WINDOW as u32,
        end as u32,
        None,
    );
    let resources = ResourceTemplate::new(vec![&bus, &window]);
    Device::new(
        Path::new("_SB_.PCI0"),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0A08")),
            &Name::new("_CID".into(), &EISAName::new("PNP0A03")),
            &Name::new("_UID".into(), &0u8),
            &Name::new("_CRS".into(), &resources),
        ],
    )
    .to_aml_bytes(aml);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(memory: &GuestMemoryMmap, at: u64, length: usize) -> u8 {
        let mut bytes = vec![0; length];
        memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes.into_iter().fold(0, u8::wrapping_add)
    }

    #[test]
    fn tables_have_their_checksums() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let region = Region {
            base: layout::DEVICES,
            irq: 5,
        };
        let hardware = Hardware {
            virtio: vec![region],
            has_pci: true,
        };
        write_tables(&memory, &hardware).unwrap();
        assert_eq!(sum(&memory, layout::ACPI, Rsdp::len()), 0);
        let xsdt: u64 = memory.read_obj(GuestAddress(layout::ACPI + 24)).unwrap();
        for index in 0..3 {
            let entry = GuestAddress(xsdt + 36 + 8 * index);
            let table: u64 = memory.read_obj(entry).unwrap();
            let length: u32 = memory.read_obj(GuestAddress(table + 4)).unwrap();
            assert_eq!(sum(&memory, table, length as usize), 0, "table {index}");
        }
    }
}
