// SPDX-License-Identifier: GPL-2.0
//! ACPI's tables, by which any distribution's kernel finds the devices and their interrupts.
//!
//! The hardware-reduced kind: no PIT, no PIC, no power management timer. Sections are those of the
//! ACPI specification 6.5.

use anyhow::{Result, ensure};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::aml;
use crate::layout;

const OEM: [u8; 6] = *b"MMIOVM";
const HEADER: usize = 36;
const RSDP: usize = 36;

/// Registers and interrupt of a virtio-mmio device.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    pub base: u64,
    pub irq: u32,
}

/// Writes all tables, the root where the zero page says.
pub fn write_tables(memory: &GuestMemoryMmap, virtio: &[Region], has_pci: bool) -> Result<()> {
    let mut next = layout::ACPI + RSDP as u64;
    // Gives where the table is.
    let mut put = |table: Vec<u8>| {
        let address = next.next_multiple_of(16);
        next = address + table.len() as u64;
        ensure!(next <= layout::ACPI_END, "too many devices for ACPI");
        memory.write_slice(&table, GuestAddress(address))?;
        Ok(address)
    };
    let dsdt = put(table(b"DSDT", 2, &dsdt(virtio, has_pci)))?;
    let fadt = put(table(b"FACP", 6, &fadt(dsdt)))?;
    let madt = put(table(b"APIC", 5, &madt()))?;
    let entries = [fadt, madt].map(u64::to_le_bytes).concat();
    let xsdt = put(table(b"XSDT", 1, &entries))?;
    memory.write_slice(&rsdp(xsdt), GuestAddress(layout::ACPI))?;
    Ok(())
}

/// 5.2.6
fn table(signature: &[u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut table = signature.to_vec();
    table.extend(((HEADER + body.len()) as u32).to_le_bytes());
    table.extend([revision, 0]);
    table.extend(OEM);
    table.extend(b"MMIOVMM \x01\0\0\0RUST\x01\0\0\0");
    table.extend(body);
    table[9] = checksum(&table);
    table
}

/// Makes the sum of all bytes 0.
fn checksum(bytes: &[u8]) -> u8 {
    bytes
        .iter()
        .fold(0, |sum: u8, byte| sum.wrapping_sub(*byte))
}

/// 5.2.5.3
fn rsdp(xsdt: u64) -> Vec<u8> {
    let mut table = b"RSD PTR \0".to_vec();
    table.extend(OEM);
    table.extend([2, 0, 0, 0, 0]);
    table[8] = checksum(&table);
    table.extend((RSDP as u32).to_le_bytes());
    table.extend(xsdt.to_le_bytes());
    table.extend([0; 4]);
    table[32] = checksum(&table);
    table
}

/// 5.2.9: how to switch off and reset; all else is in the DSDT. Offsets are in the table.
fn fadt(dsdt: u64) -> Vec<u8> {
    const NO_VGA_NO_RTC: u16 = 1 << 2 | 1 << 5;
    const RESET: u32 = 1 << 10;
    const HARDWARE_REDUCED: u32 = 1 << 20;
    let mut body = vec![0; 276 - HEADER];
    let mut put = |at: usize, bytes: &[u8]| {
        body[at - HEADER..][..bytes.len()].copy_from_slice(bytes);
    };
    put(109, &NO_VGA_NO_RTC.to_le_bytes());
    put(112, &(RESET | HARDWARE_REDUCED).to_le_bytes());
    put(116, &port(layout::I8042_PORT + 4));
    put(128, &[0xfe]);
    put(131, &[5]);
    put(140, &dsdt.to_le_bytes());
    put(244, &port(layout::SLEEP_PORT));
    put(256, &port(layout::SLEEP_PORT + 1));
    body
}

/// 5.2.3.2: the address of a port of a byte.
fn port(port: u16) -> [u8; 12] {
    let [low, high] = port.to_le_bytes();
    [1, 8, 0, 1, low, high, 0, 0, 0, 0, 0, 0]
}

/// 5.2.12: one processor, one IOAPIC.
fn madt() -> Vec<u8> {
    let mut body = layout::LOCAL_APIC.to_le_bytes().to_vec();
    body.extend([0; 4]);
    body.extend([0, 8, 0, 0, 1, 0, 0, 0]);
    body.extend([1, 12, 0, 0]);
    body.extend(layout::IOAPIC.to_le_bytes());
    body.extend([0; 4]);
    body
}

fn dsdt(virtio: &[Region], has_pci: bool) -> Vec<u8> {
    // 7.4.2.6: the value of SLP_TYP to switch off with.
    let mut body = aml::name("_S5_", aml::package(5));
    let ports = aml::ports(layout::SERIAL_PORT, 8);
    let console = [ports, aml::interrupt(layout::SERIAL_IRQ)];
    body.extend(aml::device("COM1", aml::eisa("PNP0501"), 0, &console));
    for (number, region) in (0..).zip(virtio) {
        let registers = aml::memory(region.base, layout::PAGE);
        let has = [registers, aml::interrupt(region.irq)];
        // Linux' drivers/virtio/virtio_mmio.c goes by this name.
        let id = aml::string("LNRO0005");
        body.extend(aml::device(&format!("VR{number:02}"), id, number, &has));
    }
    if has_pci {
        let window = aml::window(layout::PCI_WINDOW, layout::PCI_WINDOW_SIZE);
        let has = [aml::bus(), window];
        body.extend(aml::device("PCI0", aml::eisa("PNP0A03"), 0, &has));
    }
    body
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
        write_tables(&memory, &[region], true).unwrap();
        assert_eq!(sum(&memory, layout::ACPI, 20), 0);
        assert_eq!(sum(&memory, layout::ACPI, RSDP), 0);
        let xsdt: u64 = memory.read_obj(GuestAddress(layout::ACPI + 24)).unwrap();
        for index in 0..2 {
            let entry = GuestAddress(xsdt + HEADER as u64 + 8 * index);
            let table: u64 = memory.read_obj(entry).unwrap();
            let length: u32 = memory.read_obj(GuestAddress(table + 4)).unwrap();
            assert_eq!(sum(&memory, table, length as usize), 0, "table {index}");
        }
    }
}
