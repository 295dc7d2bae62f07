// SPDX-License-Identifier: GPL-2.0
//! What devices do with queues.

use std::io::{Read, Write};

use anyhow::{Context, Result, ensure};
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::GuestMemoryMmap;

/// Buffers of a request, of any layout.
pub type Chain<'a> = DescriptorChain<&'a GuestMemoryMmap>;

/// Has `handle` use each chain that is available, also those that come meanwhile; it gives the
/// number of bytes written. Gives whether the driver wants to be interrupted.
pub fn drain(
    queue: &mut Queue,
    memory: &GuestMemoryMmap,
    mut handle: impl FnMut(Chain) -> Result<u32>,
) -> Result<bool> {
    let mut used = false;
    loop {
        queue.disable_notification(memory)?;
        while let Some(chain) = next(queue, memory)? {
            let head = chain.head_index();
            let written = handle(chain)?;
            queue.add_used(memory, head, written)?;
            used = true;
        }
        if !queue.enable_notification(memory)? {
            break;
        }
    }
    Ok(used && queue.needs_notification(memory)?)
}

/// Gives the parts to one chain; false if there is none.
pub fn give(queue: &mut Queue, memory: &GuestMemoryMmap, parts: &[&[u8]]) -> Result<bool> {
    let Some(chain) = next(queue, memory)? else {
        return Ok(false);
    };
    let head = chain.head_index();
    let mut writer = chain.writer(memory).context("a buffer to receive")?;
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let space = writer.available_bytes();
    ensure!(space >= length, "a buffer of {space} bytes for {length}");
    for part in parts {
        writer.write_all(part)?;
    }
    queue.add_used(memory, head, length as u32)?;
    Ok(true)
}

/// All that can be read of a chain, but no more than `limit` bytes.
pub fn take(chain: Chain, memory: &GuestMemoryMmap, limit: usize) -> Result<Vec<u8>> {
    let mut reader = chain.reader(memory).context("a buffer to send")?;
    let length = reader.available_bytes();
    ensure!(length <= limit, "{length} bytes at once");
    let mut bytes = vec![0; length];
    reader.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn next<'a>(queue: &mut Queue, memory: &'a GuestMemoryMmap) -> Result<Option<Chain<'a>>> {
    // Unlike pop_descriptor_chain() this fails if the driver's index makes no sense.
    let mut chains = queue.iter(memory).context("the available ring")?;
    Ok(chains.next())
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use proptest::prelude::*;
    use virtio_queue::desc::{RawDescriptor, split::Descriptor};
    use virtio_queue::mock::MockSplitQueue;
    use vm_memory::{Bytes, GuestAddress};

    pub const BUFFERS: u64 = 0x1_0000;
    const WRITE: u16 = 2;

    pub fn memory() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap()
    }

    /// A buffer: where, how many bytes, whether the device writes.
    pub type Buffer = (u64, u32, bool);

    /// A queue in which chains of these buffers are available.
    pub fn queue(memory: &GuestMemoryMmap, chains: &[Vec<Buffer>]) -> Queue {
        queue_at(memory, 0, chains)
    }

    /// The same at that address.
    pub fn queue_at(memory: &GuestMemoryMmap, at: u64, chains: &[Vec<Buffer>]) -> Queue {
        let mock = MockSplitQueue::create(memory, GuestAddress(at), 64);
        let mut offset = 0;
        for chain in chains {
            let descriptors: Vec<_> = chain
                .iter()
                .map(|&(at, len, write)| {
                    let flags = if write { WRITE } else { 0 };
                    RawDescriptor::from(Descriptor::new(at, len, flags, 0))
                })
                .collect();
            mock.add_desc_chains(&linked(&descriptors, offset), offset)
                .unwrap();
            offset += chain.len() as u16;
        }
        mock.create_queue().unwrap()
    }

    /// One chain, whose descriptors are in the table from `first` on.
    fn linked(descriptors: &[RawDescriptor], first: u16) -> Vec<RawDescriptor> {
        const NEXT: u16 = 1;
        let last = descriptors.len().saturating_sub(1);
        let linked = descriptors.iter().enumerate().map(|(index, raw)| {
            let split = Descriptor::from(*raw);
            let more = if index < last { NEXT } else { 0 };
            let next = first + index as u16 + 1;
            Descriptor::new(split.addr().0, split.len(), split.flags() | more, next).into()
        });
        linked.collect()
    }

    proptest! {
        /// Whatever a driver makes available, the device ends, and uses no chain twice.
        #[test]
        fn drains_anything(chains in proptest::collection::vec(
            proptest::collection::vec((any::<u64>(), any::<u32>(), any::<bool>()), 1..4), 0..8)) {
            let memory = memory();
            let mut queue = queue(&memory, &chains);
            let mut count = 0;
            let done = drain(&mut queue, &memory, |chain| {
                count += 1;
                let _ = take(chain, &memory, 65536);
                Ok(0)
            });
            prop_assert!(done.is_ok());
            prop_assert_eq!(count, chains.len());
        }

        #[test]
        fn refuses_an_index_out_of_reach(index in 65u16..) {
            let memory = memory();
            let mut queue = queue(&memory, &[]);
            memory.write_obj(index, GuestAddress(queue.avail_ring() + 2)).unwrap();
            prop_assert!(drain(&mut queue, &memory, |_| Ok(0)).is_err());
        }
    }

    #[test]
    fn gives_across_buffers() {
        let memory = memory();
        let buffers = vec![(BUFFERS, 3, true), (BUFFERS + 0x100, 5, true)];
        let mut queue = queue(&memory, &[buffers]);
        assert!(give(&mut queue, &memory, &[b"ab", b"cdef"]).unwrap());
        assert!(!give(&mut queue, &memory, &[b"g"]).unwrap());
        let mut got = [0; 3];
        memory
            .read_slice(&mut got, GuestAddress(BUFFERS + 0x100))
            .unwrap();
        assert_eq!(&got, b"def");
    }
}
