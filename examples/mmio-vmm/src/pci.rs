// SPDX-License-Identifier: GPL-2.0
//! PCI's configuration space by two ports, for a host bridge and one function.

/// Address and data of the configuration mechanism #1.
pub const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;
pub const DATA_END: u16 = DATA + 3;
const ENABLE: u32 = 1 << 31;

const BAR: usize = 4;
const CAPABILITY: usize = 0x10;
const HOST_BRIDGE: u32 = 0x0600_0000;

/// The first registers of a function, and which of their bits can be written.
#[derive(Clone)]
struct Function {
    registers: [u32; 64],
    writable: [u32; 64],
}

impl Function {
    fn new(id: u32, class: u32) -> Self {
        let mut function = Self {
            registers: [0; 64],
            writable: [0; 64],
        };
        function.registers[0] = id;
        function.registers[2] = class;
        // Memory and bus master.
        function.writable[1] = 0b0110;
        function
    }
}

/// A function with registers in memory, whose interrupts are messages (MSI-X).
pub struct Device {
    /// Device and vendor.
    pub id: u32,
    /// Class, subclass, programming interface, and a byte of 0.
    pub class: u32,
    pub base: u32,
    /// In bytes, a power of two.
    pub size: u32,
    pub vectors: u16,
    /// Where the table and the pending bits are, in bytes from the base.
    pub table: u32,
    pub pending: u32,
}

impl Device {
    fn function(&self) -> Function {
        const HAS_CAPABILITIES: u32 = 1 << 20;
        const MSIX: u32 = 0x11;
        const MSIX_ENABLE_MASK: u32 = 0b11 << 30;
        let mut function = Function::new(self.id, self.class);
        function.registers[1] = HAS_CAPABILITIES;
        function.registers[BAR] = self.base;
        function.writable[BAR] = !(self.size - 1);
        function.registers[13] = 4 * CAPABILITY as u32;
        function.registers[CAPABILITY] = MSIX | (u32::from(self.vectors) - 1) << 16;
        function.writable[CAPABILITY] = MSIX_ENABLE_MASK;
        function.registers[CAPABILITY + 1] = self.table;
        function.registers[CAPABILITY + 2] = self.pending;
        function
    }
}

/// The bus, of functions 0 of devices 0 and 1. Devices stay where they are put: Linux moves none
/// that is in its bridge's window.
pub struct Pci {
    address: u32,
    functions: [Function; 2],
}

impl Pci {
    /// With that device, and a host bridge.
    pub fn new(device: &Device) -> Self {
        Self {
            address: 0,
            functions: [Function::new(0x0002_1234, HOST_BRIDGE), device.function()],
        }
    }

    /// Of 1, 2 or 4 bytes.
    pub fn read(&mut self, port: u16, data: &mut [u8]) {
        let value = match port {
            ADDRESS => self.address,
            DATA..=DATA_END => self.selected().map_or(u32::MAX, |(function, index)| {
                function.registers[index] >> (8 * (port - DATA))
            }),
            _ => u32::MAX,
        };
        let bytes = value.to_le_bytes();
        let length = data.len().min(4);
        data[..length].copy_from_slice(&bytes[..length]);
    }

    /// The same; bits that cannot be written stay.
    pub fn write(&mut self, port: u16, data: &[u8]) {
        let mut bytes = [0; 4];
        let length = data.len().min(4);
        bytes[..length].copy_from_slice(&data[..length]);
        let value = u32::from_le_bytes(bytes);
        match port {
            ADDRESS if length == 4 => self.address = value,
            DATA..=DATA_END => {
                let shift = 8 * u32::from(port - DATA);
                let touched = (u32::MAX >> (32 - 8 * length as u32)) << shift;
                if let Some((function, index)) = self.selected() {
                    let mask = function.writable[index] & touched;
                    let register = &mut function.registers[index];
                    *register = *register & !mask | (value << shift) & mask;
                }
            }
            _ => {}
        }
    }

    fn selected(&mut self) -> Option<(&mut Function, usize)> {
        // Bus 0, function 0.
        if self.address & (ENABLE | 0x00ff_0700) != ENABLE {
            return None;
        }
        let function = self
            .functions
            .get_mut((self.address >> 11 & 0x1f) as usize)?;
        Some((function, (self.address >> 2 & 0x3f) as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pci() -> Pci {
        Pci::new(&Device {
            id: 0x1234_5678,
            class: 0x0108_0200,
            base: 0xd400_0000,
            size: 0x4000,
            vectors: 2,
            table: 0x2000,
            pending: 0x3000,
        })
    }

    fn register(pci: &mut Pci, index: u32) -> u32 {
        pci.write(ADDRESS, &(ENABLE | 1 << 11 | index << 2).to_le_bytes());
        let mut data = [0; 4];
        pci.read(DATA, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn tells_its_size() {
        let mut pci = pci();
        assert_eq!(register(&mut pci, 0), 0x1234_5678);
        assert_eq!(register(&mut pci, 4), 0xd400_0000);
        pci.write(DATA, &u32::MAX.to_le_bytes());
        assert_eq!(register(&mut pci, 4), !0x3fff);
    }

    proptest! {
        #[test]
        fn survives_any_access(address in any::<u32>(), port in ADDRESS..=DATA_END,
                               data in proptest::collection::vec(any::<u8>(), 1..=4)) {
            let mut pci = pci();
            pci.write(ADDRESS, &address.to_le_bytes());
            pci.write(port, &data);
            pci.read(port, &mut data.clone());
            prop_assert_eq!(register(&mut pci, 0), 0x1234_5678);
        }
    }
}
