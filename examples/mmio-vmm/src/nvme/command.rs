// SPDX-License-Identifier: GPL-2.0
//! Commands: their fields, and those of the NVM command set, sections 4.2 and 6.

use anyhow::Result;
use vm_memory::{GuestAddress, GuestMemory, GuestMemoryMmap, ReadVolatile, WriteVolatile};

use super::data::{self, MDTS};
use crate::disk::{Disk, SECTOR};
use crate::layout::PAGE;

/// In bytes.
pub const COMMAND: u64 = 64;
/// The same.
pub const COMPLETION: u64 = 16;
/// 1.4, as the register has it.
pub const VERSION: u32 = 0x0001_0400;

/// What a completion says of a command that has failed, section 4.6.1.2.1; it is 0 otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    InvalidOpcode = 1,
    InvalidField = 2,
    TransferError = 4,
    InvalidNamespace = 0xb,
    OutOfRange = 0x80,
    InvalidCompletions = 0x100,
    InvalidQueue = 0x101,
    InvalidSize = 0x102,
    InvalidDeletion = 0x10c,
}

/// The outcome of a command: a status, or a value.
pub type Outcome = Result<u32, Status>;

/// An entry of a submission queue, as 32-bit words.
#[derive(Clone, Copy, Debug)]
pub struct Command(pub [u32; 16]);

impl Command {
    /// The one at that address.
    pub fn read(memory: &GuestMemoryMmap, at: u64) -> Result<Self> {
        let mut bytes = [0; COMMAND as usize];
        memory
            .get_slice(GuestAddress(at), bytes.len())?
            .copy_to(&mut bytes);
        let mut words = [0; 16];
        for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = u32::from_le_bytes(chunk.try_into().expect("4 bytes"));
        }
        Ok(Self(words))
    }

    /// What to do.
    pub fn opcode(&self) -> u8 {
        self.0[0] as u8
    }

    /// What the driver calls it.
    pub fn id(&self) -> u32 {
        self.0[0] >> 16
    }

    fn namespace(&self) -> u32 {
        self.0[1]
    }

    /// Where its data is.
    pub fn prp(&self) -> [u64; 2] {
        [self.long(6), self.long(8)]
    }

    fn long(&self, index: usize) -> u64 {
        u64::from(self.0[index]) | u64::from(self.0[index + 1]) << 32
    }

    /// Both halves of a word.
    pub fn halves(&self, index: usize) -> (u16, u16) {
        (self.0[index] as u16, (self.0[index] >> 16) as u16)
    }
}

/// Reads, writes, flushes; sections 6.7 to 6.15.
pub fn input_output(command: &Command, disk: &mut Disk, memory: &GuestMemoryMmap) -> Outcome {
    const FLUSH: u8 = 0;
    const WRITE: u8 = 1;
    const READ: u8 = 2;
    const FORCE_UNIT_ACCESS: u32 = 1 << 30;
    let failed = |_| Status::TransferError;
    let opcode = command.opcode();
    if opcode == FLUSH {
        return disk.flush().map(|()| 0).map_err(failed);
    }
    if opcode != WRITE && opcode != READ {
        return Err(Status::InvalidOpcode);
    }
    if command.namespace() != 1 {
        return Err(Status::InvalidNamespace);
    }
    let length = (u64::from(command.halves(12).0) + 1) * SECTOR;
    let file = disk
        .at(command.long(10), length as usize)
        .map_err(|_| Status::OutOfRange)?;
    let pieces = data::pieces(memory, command.prp(), length).map_err(|_| Status::TransferError)?;
    for (at, size) in pieces {
        let mut piece = memory
            .get_slice(GuestAddress(at), size)
            .map_err(|_| Status::TransferError)?;
        match opcode {
            WRITE => file.write_all_volatile(&piece),
            _ => file.read_exact_volatile(&mut piece),
        }
        .map_err(|_| Status::TransferError)?;
    }
    if opcode == WRITE && command.0[12] & FORCE_UNIT_ACCESS != 0 {
        disk.flush().map_err(failed)?;
    }
    Ok(0)
}

/// Section 5.15: what controller and namespace are.
pub fn identify(command: &Command, disk: &Disk, memory: &GuestMemoryMmap) -> Outcome {
    const NAMESPACE: u8 = 0;
    const CONTROLLER: u8 = 1;
    const NAMESPACES: u8 = 2;
    const DESCRIPTORS: u8 = 3;
    let mut page = [0; PAGE as usize];
    match command.0[10] as u8 {
        NAMESPACE => describe_namespace(&mut page, disk),
        CONTROLLER => describe_controller(&mut page),
        // Those above the one that is named.
        NAMESPACES if command.namespace() == 0 => page[0] = 1,
        NAMESPACES | DESCRIPTORS => {}
        _ => return Err(Status::InvalidField),
    }
    data::put(memory, command.prp(), &page).map_err(|_| Status::TransferError)?;
    Ok(0)
}

fn describe_namespace(page: &mut [u8], disk: &Disk) {
    // Its size, its capacity and what is used, and one format: sectors of 2^9 bytes.
    for at in [0, 8, 16] {
        put(page, at, &(disk.size() / SECTOR).to_le_bytes());
    }
    page[130] = 9;
}

fn describe_controller(page: &mut [u8]) {
    put(page, 4, b"1                   ");
    put(page, 24, format!("{:40}", "mmio-vmm").as_bytes());
    put(page, 64, b"1       ");
    page[77] = MDTS;
    put(page, 80, &VERSION.to_le_bytes());
    // Sizes of entries as powers of two, one namespace, a cache that can be flushed.
    put(page, 512, &[0x66, 0x44]);
    page[516] = 1;
    page[525] = 1;
    put(
        page,
        768,
        b"nqn.2014-08.org.nvmexpress:uuid:00000000-0000-0000-0000-000000000001",
    );
}

fn put(page: &mut [u8], at: usize, bytes: &[u8]) {
    page[at..][..bytes.len()].copy_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn survives_any_command(words in any::<[u32; 16]>(), opcode in 0..4u32, near in any::<bool>()) {
            let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x4000)]).unwrap();
            let file = tempfile::tempfile().unwrap();
            file.set_len(0x10000).unwrap();
            let mut disk = Disk::from_file(file).unwrap();
            let mut command = Command(words);
            command.0[0] = opcode;
            if near {
                (command.0[1], command.0[11], command.0[7], command.0[9]) = (1, 0, 0, 0);
                for word in [6, 8, 10, 12] {
                    command.0[word] %= 0x4000;
                }
            }
            let _ = input_output(&command, &mut disk, &memory);
            let _ = identify(&command, &disk, &memory);
        }
    }
}
