// SPDX-License-Identifier: GPL-2.0
//! A network card: section 5.1 of the specification, on a tap or with a peer of its own.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result, ensure};
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::VIRTIO_NET_F_MAC;
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;

use super::device::{Backend, Description, Event};
use super::peer;
use super::queue::{drain, give, take};
use crate::sys;

/// The guest's address on the wire.
const MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];

/// Before each frame: nothing was offloaded, and it is in one buffer.
const HEADER: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];
/// The largest frame, in bytes, and how many wait for buffers.
const FRAME: usize = 1514;
const WAITING: usize = 256;

/// Where frames go.
enum Wire {
    Peer,
    Tap(File),
    /// The tap has gone.
    Cut,
}

/// The device, whose first queue receives and whose second sends.
pub struct Net {
    wire: Wire,
    waiting: VecDeque<Vec<u8>>,
}

impl Net {
    /// Without a tap's name, a peer is at the other end.
    pub fn new(tap: &str) -> Result<Self> {
        let wire = match tap {
            "" => Wire::Peer,
            tap => Wire::Tap(open(tap).with_context(|| format!("tap {tap}"))?),
        };
        Ok(Self {
            wire,
            waiting: VecDeque::new(),
        })
    }

    fn send(&mut self, frame: &[u8]) {
        match &mut self.wire {
            Wire::Peer => peer::answer(frame).map_or((), |answer| self.keep(answer)),
            // A wire may lose frames, and has no other way to say that it is full.
            Wire::Tap(file) => drop(file.write(frame)),
            Wire::Cut => {}
        }
    }

    /// What the tap has, also when nobody takes it: the tap would wake the thread again. No more
    /// at once than can wait, as others may send faster than this reads.
    fn receive(&mut self) -> Result<()> {
        // One byte more tells frames that are too large.
        let mut frame = [0; FRAME + 1];
        for _ in 0..WAITING {
            let Wire::Tap(file) = &mut self.wire else {
                break;
            };
            match file.read(&mut frame) {
                Ok(length) => self.keep(frame[..length].to_vec()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => {
                    // Closes it: it would wake the thread for ever.
                    self.wire = Wire::Cut;
                    return Err(e).context("tap");
                }
            }
        }
        Ok(())
    }

    /// A wire loses what there is no room for, or is too large.
    fn keep(&mut self, frame: Vec<u8>) {
        if self.waiting.len() < WAITING && frame.len() <= FRAME {
            self.waiting.push_back(frame);
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

fn open(tap: &str) -> Result<File> {
    ensure!(tap.len() < 16, "is no name of an interface");
    let file = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .context("/dev/net/tun")?;
    sys::attach_tap(&file, tap)?;
    Ok(file)
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

    fn file(&self) -> Option<RawFd> {
        match &self.wire {
            Wire::Peer | Wire::Cut => None,
            Wire::Tap(file) => Some(file.as_raw_fd()),
        }
    }

    fn serve(
        &mut self,
        event: Event,
        queues: &mut [Queue],
        memory: &GuestMemoryMmap,
    ) -> Result<bool> {
        if event == Event::File {
            self.receive()?;
        }
        let [receive, send] = queues else {
            self.waiting.clear();
            return Ok(false);
        };
        let mut wanted = false;
        if event == Event::Queue(1) {
            wanted = drain(send, memory, |chain| {
                // What is too large for the wire is lost there.
                if let Ok(bytes) = take(chain, memory, HEADER.len() + FRAME) {
                    self.send(bytes.get(HEADER.len()..).unwrap_or_default());
                }
                Ok(0)
            })?;
        }
        Ok(self.deliver(receive, memory)? || wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::super::queue::tests::{BUFFERS, memory, queue, queue_at};
    use super::*;
    use vm_memory::{Bytes, GuestAddress};

    #[test]
    fn a_tap_that_has_gone_fails_once() {
        let mut net = Net::new("").unwrap();
        net.wire = Wire::Tap(File::options().write(true).open("/dev/null").unwrap());
        assert!(net.serve(Event::File, &mut [], &memory()).is_err());
        assert!(net.file().is_none());
        assert!(!net.serve(Event::File, &mut [], &memory()).unwrap());
    }

    #[test]
    fn frames_of_no_possible_size_are_lost() {
        let memory = memory();
        let frames = [12 + FRAME as u32 + 1, 5, 12, 0xffff_0000];
        let send = queue(&memory, &frames.map(|size| vec![(BUFFERS, size, false)]));
        let mut receive = Queue::new(16).unwrap();
        receive.set_event_idx(true);
        let mut queues = [receive, send];
        let mut net = Net::new("").unwrap();
        assert!(net.serve(Event::Queue(1), &mut queues, &memory).unwrap());
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
        let mut net = Net::new("").unwrap();
        net.serve(Event::Queue(1), &mut queues, &memory).unwrap();
        assert_eq!((net.waiting.len(), no_notify(&queues[0])), (1, 0));

        queues[0] = queue_at(&memory, 0x8000, &[vec![(BUFFERS + 0x100, 1526, true)]]);
        assert!(net.serve(Event::Queue(0), &mut queues, &memory).unwrap());
        assert_eq!((net.waiting.len(), no_notify(&queues[0])), (0, 1));
        let operation = GuestAddress(BUFFERS + 0x100 + 12 + 14 + 7);
        assert_eq!(memory.read_obj::<u8>(operation).unwrap(), 2);
    }
}
