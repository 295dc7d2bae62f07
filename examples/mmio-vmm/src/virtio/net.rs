// SPDX-License-Identifier: GPL-2.0
//! A network card: section 5.1 of the specification, with a peer of its own.

use std::collections::VecDeque;

use anyhow::Result;
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::VIRTIO_NET_F_MAC;
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;

use super::device::{Backend, Description};
use super::peer;
use super::queue::{Chain, drain, give, take};

/// The guest's address on the wire.
const MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];

/// Before each frame: nothing was offloaded, and it is in one buffer.
const HEADER: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];
/// The largest frame, in bytes, and how many wait for buffers.
const FRAME: usize = 1514;
const WAITING: usize = 256;

/// The device, whose first queue receives and whose second sends.
#[derive(Default)]
pub struct Net {
    waiting: VecDeque<Vec<u8>>,
}

impl Net {
    /// The peer answers. A wire loses what is too large for it, or what there is no room for.
    fn send(&mut self, chain: Chain, memory: &GuestMemoryMmap) {
        let bytes = take(chain, memory, HEADER.len() + FRAME).unwrap_or_default();
        let frame = bytes.get(HEADER.len()..).unwrap_or_default();
        if self.waiting.len() < WAITING {
            self.waiting.extend(peer::answer(frame));
        }
    }

    /// Gives the guest what waits, as far as it has buffers.
    fn deliver(&mut self, queue: &mut Queue, memory: &GuestMemoryMmap) -> Result<bool> {
        let mut given = false;
        loop {
            while let Some(frame) = self.waiting.front() {
                if !give(queue, memory, &[&HEADER, frame])? {
                    break;
                }
                self.waiting.pop_front();
                given = true;
            }
            // Notified when buffers come only if something waits for them.
            if self.waiting.is_empty() {
                queue.disable_notification(memory)?;
                break;
            }
            if !queue.enable_notification(memory)? {
                break;
            }
        }
        Ok(given && queue.needs_notification(memory)?)
    }
}

impl Backend for Net {
    fn describe(&self) -> Description {
        Description {
            id: VIRTIO_ID_NET,
            features: 1 << VIRTIO_NET_F_MAC,
            config: MAC.to_vec(),
            queues: 2,
        }
    }

    fn serve(&mut self, queues: &mut [Queue], memory: &GuestMemoryMmap) -> Result<bool> {
        let [receive, send] = queues else {
            return Ok(false);
        };
        let wanted = drain(send, memory, |chain| {
            self.send(chain, memory);
            Ok(0)
        })?;
        Ok(self.deliver(receive, memory)? || wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::super::queue::tests::{BUFFERS, memory, queue, queue_at};
    use super::*;
    use vm_memory::{Bytes, GuestAddress};

    #[test]
    fn frames_of_no_possible_size_are_lost() {
        let memory = memory();
        let frames = [12 + FRAME as u32 + 1, 5, 12, 0xffff_0000];
        let send = queue(&memory, &frames.map(|size| vec![(BUFFERS, size, false)]));
        let mut receive = Queue::new(16).unwrap();
        receive.set_event_idx(true);
        let mut queues = [receive, send];
        let mut net = Net::default();
        assert!(net.serve(&mut queues, &memory).unwrap());
        assert_eq!(queues[1].next_used(), 4);
    }
    #[test]
    fn frames_wait_for_buffers_and_then_for_nothing() {
        let memory = memory();
        let mut request = [0; 12 + 42];
        request[24..34].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        // Of 0.0.0.0 for 0.0.0.1.
        request[53] = 1;
        memory.write_slice(&request, GuestAddress(BUFFERS)).unwrap();
        let send = queue(&memory, &[vec![(BUFFERS, request.len() as u32, false)]]);
        let mut queues = [queue_at(&memory, 0x8000, &[]), send];
        let no_notify = |queue: &Queue| {
            let flags = GuestAddress(queue.used_ring());
            memory.read_obj::<u16>(flags).unwrap()
        };
        let mut net = Net::default();
        net.serve(&mut queues, &memory).unwrap();
        assert_eq!((net.waiting.len(), no_notify(&queues[0])), (1, 0));

        queues[0] = queue_at(&memory, 0x8000, &[vec![(BUFFERS + 0x100, 1526, true)]]);
        assert!(net.serve(&mut queues, &memory).unwrap());
        assert_eq!((net.waiting.len(), no_notify(&queues[0])), (0, 1));
        let operation = GuestAddress(BUFFERS + 0x100 + 12 + 14 + 7);
        assert_eq!(memory.read_obj::<u8>(operation).unwrap(), 2);
    }
}
