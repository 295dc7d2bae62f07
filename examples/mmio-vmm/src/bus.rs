// SPDX-License-Identifier: GPL-2.0
//! Accesses to devices that exited, by address.

/// Registers in memory. Offsets are in bytes.
pub trait Mmio {
    fn read(&mut self, offset: u64, data: &mut [u8]);
    fn write(&mut self, offset: u64, data: &[u8]);
}

struct Place {
    base: u64,
    size: u64,
    device: Box<dyn Mmio>,
}

/// All devices of the guest's only vCPU, in whose thread they are: none needs a lock for its
/// registers.
#[derive(Default)]
pub struct Bus(Vec<Place>);

impl Bus {
    /// A device of `size` bytes, which overlaps none that is there.
    pub fn add(&mut self, base: u64, size: u64, device: Box<dyn Mmio>) {
        self.0.push(Place { base, size, device });
    }

    /// Where nothing is, all bits are read as 1.
    pub fn read(&mut self, gpa: u64, data: &mut [u8]) {
        match self.find(gpa) {
            Some((offset, device)) => device.read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// What is written where nothing is, is lost.
    pub fn write(&mut self, gpa: u64, data: &[u8]) {
        if let Some((offset, device)) = self.find(gpa) {
            device.write(offset, data);
        }
    }

    fn find(&mut self, gpa: u64) -> Option<(u64, &mut dyn Mmio)> {
        let place = self.0.iter_mut().find(|place| {
            gpa.checked_sub(place.base)
                .is_some_and(|at| at < place.size)
        })?;
        Some((gpa - place.base, place.device.as_mut()))
    }
}

/// The value of a write of 4 bytes to a register, which is what drivers do.
pub fn word(data: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(data.try_into().ok()?))
}
