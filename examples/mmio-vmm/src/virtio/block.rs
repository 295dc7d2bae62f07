// SPDX-License-Identifier: GPL-2.0
//! A disk: section 5.2 of the specification.

use std::io::{self, Read, Write};

use anyhow::{Context, Result, ensure};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK,
    VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use virtio_queue::{Queue, Reader, Writer};
use vm_memory::GuestMemoryMmap;

use super::device::{Backend, Description};
use super::queue::{Chain, drain};
use crate::disk::{Disk, SECTOR};

const NAME: &[u8; VIRTIO_BLK_ID_BYTES as usize] = b"mmio-vmm            ";

/// The device, with a disk behind it, whose only queue is of requests.
pub struct Block(pub Disk);

impl Block {
    /// A header, the data, a byte for the status. Gives the number of bytes written.
    fn request(&mut self, chain: Chain, memory: &GuestMemoryMmap) -> Result<u32> {
        let mut reader = chain.clone().reader(memory).context("a request")?;
        let mut writer = chain.writer(memory).context("a request")?;
        let mut header = [0; 16];
        reader
            .read_exact(&mut header)
            .context("the header of a request")?;
        let space = writer.available_bytes();
        ensure!(space > 0, "a request without a place for its status");
        let mut status = writer.split_at(space - 1).context("the status")?;
        let outcome = self.carry_out(&header, &mut reader, &mut writer);
        status.write_all(&[outcome.unwrap_or(VIRTIO_BLK_S_IOERR) as u8])?;
        Ok(writer.bytes_written() as u32 + 1)
    }

    /// Gives the status.
    fn carry_out(
        &mut self,
        header: &[u8; 16],
        reader: &mut Reader,
        writer: &mut Writer,
    ) -> io::Result<u32> {
        let kind = u32::from_le_bytes(header[..4].try_into().expect("4 bytes"));
        let sector = u64::from_le_bytes(header[8..].try_into().expect("8 bytes"));
        match kind {
            VIRTIO_BLK_T_IN => {
                let length = writer.available_bytes();
                let file = self.0.at(sector, length)?;
                copy(&mut file.take(length as u64), writer, length)?;
            }
            VIRTIO_BLK_T_OUT => {
                let length = reader.available_bytes();
                copy(reader, self.0.at(sector, length)?, length)?;
            }
            VIRTIO_BLK_T_FLUSH => self.0.flush()?,
            VIRTIO_BLK_T_GET_ID => writer.write_all(NAME)?,
            _ => return Ok(VIRTIO_BLK_S_UNSUPP),
        }
        Ok(VIRTIO_BLK_S_OK)
    }
}

/// All bytes from here to there: a file may have become shorter than the disk.
fn copy(from: &mut impl Read, to: &mut impl Write, length: usize) -> io::Result<()> {
    if io::copy(from, to)? < length as u64 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

impl Backend for Block {
    fn describe(&self) -> Description {
        Description {
            id: VIRTIO_ID_BLOCK,
            features: 1 << VIRTIO_BLK_F_FLUSH,
            config: (self.0.size() / SECTOR).to_le_bytes().to_vec(),
            queues: 1,
        }
    }

    fn serve(&mut self, queues: &mut [Queue], memory: &GuestMemoryMmap) -> Result<bool> {
        let [queue] = queues else {
            return Ok(false);
        };
        drain(queue, memory, |chain| self.request(chain, memory))
    }
}

#[cfg(test)]
mod tests {
    use super::super::queue::tests::{BUFFERS, Buffer, memory, queue};
    use super::*;
    use proptest::prelude::*;
    use vm_memory::{Bytes, GuestAddress};

    const SECTORS: u64 = 300;
    const DATA: u64 = BUFFERS + 0x100;
    const STATUS: u64 = BUFFERS + 0x80;

    fn block() -> Block {
        let file = tempfile::tempfile().unwrap();
        file.set_len(SECTORS * SECTOR).unwrap();
        Block(Disk::from_file(file).unwrap())
    }

    /// One request of data that the device reads or writes; gives the status.
    fn ask(block: &mut Block, memory: &GuestMemoryMmap, kind: u32, sector: u64, len: u32) -> u8 {
        memory.write_obj(kind, GuestAddress(BUFFERS)).unwrap();
        memory.write_obj(sector, GuestAddress(BUFFERS + 8)).unwrap();
        memory.write_obj(0xffu8, GuestAddress(STATUS)).unwrap();
        let is_write = kind != VIRTIO_BLK_T_OUT;
        let mut chain = vec![(BUFFERS, 16, false)];
        if len > 0 {
            chain.push((DATA, len, is_write));
        }
        chain.push((STATUS, 1, true));
        let mut queues = [queue(memory, &[chain])];
        block.serve(&mut queues, memory).unwrap();
        memory.read_obj(GuestAddress(STATUS)).unwrap()
    }

    #[test]
    fn statuses() {
        let (mut block, memory) = (block(), memory());
        let mut ask = |kind, sector, len| u32::from(ask(&mut block, &memory, kind, sector, len));
        assert_eq!(ask(VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
        assert_eq!(ask(VIRTIO_BLK_T_FLUSH, 0, 0), VIRTIO_BLK_S_OK);
        assert_eq!(ask(VIRTIO_BLK_T_IN, SECTORS - 1, 1024), VIRTIO_BLK_S_IOERR);
        assert_eq!(ask(VIRTIO_BLK_T_OUT, u64::MAX, 512), VIRTIO_BLK_S_IOERR);
        assert_eq!(ask(VIRTIO_BLK_T_GET_ID, 0, 20), VIRTIO_BLK_S_OK);
        assert_eq!(ask(77, 0, 512), VIRTIO_BLK_S_UNSUPP);
    }

    proptest! {
        /// What was written is read, also across chunks, and nothing else changes.
        #[test]
        fn reads_what_was_written(writes in proptest::collection::vec(
            (0..SECTORS, 1..200u64, any::<u8>()), 1..6)) {
            let (mut block, memory) = (block(), memory());
            let mut model = vec![0; (SECTORS * SECTOR) as usize];
            for (sector, count, value) in writes {
                let count = count.min(SECTORS - sector);
                let data = vec![value; (count * SECTOR) as usize];
                memory.write_slice(&data, GuestAddress(DATA)).unwrap();
                let status = ask(&mut block, &memory, VIRTIO_BLK_T_OUT, sector, data.len() as u32);
                prop_assert_eq!(u32::from(status), VIRTIO_BLK_S_OK);
                model[(sector * SECTOR) as usize..][..data.len()].copy_from_slice(&data);
            }
            ask(&mut block, &memory, VIRTIO_BLK_T_IN, 0, model.len() as u32);
            let mut got = vec![0; model.len()];
            memory.read_slice(&mut got, GuestAddress(DATA)).unwrap();
            prop_assert!(got == model);
        }

        /// A driver's mistakes are errors, and nothing worse.
        #[test]
        fn survives_any_request(kind in 0..9u32, sector in any::<u64>(),
            chain in proptest::collection::vec(
                (prop_oneof![Just(BUFFERS), any::<u64>()], any::<u32>(), any::<bool>()), 1..5)) {
            let (mut block, memory) = (block(), memory());
            memory.write_obj(kind, GuestAddress(BUFFERS)).unwrap();
            memory.write_obj(sector, GuestAddress(BUFFERS + 8)).unwrap();
            let chain: Vec<Buffer> = chain;
            let _ = block.serve(&mut [queue(&memory, &[chain])], &memory);
        }
    }
}
