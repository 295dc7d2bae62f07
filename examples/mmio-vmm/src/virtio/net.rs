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
        }
    }

    /// All that the tap has, also when nobody takes it: the tap would wake the thread again.
    fn receive(&mut self) -> Result<()> {
        let mut frame = [0; FRAME];
        while let Wire::Tap(file) = &mut self.wire {
            match file.read(&mut frame) {
                Ok(length) => self.keep(frame[..length].to_vec()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e).context("tap"),
            }
        }
        Ok(())
    }

    /// A wire loses what there is no room for.
    fn keep(&mut self, frame: Vec<u8>) {
        if self.waiting.len() < WAITING {
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
            Wire::Peer => None,
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
                let bytes = take(chain, memory, HEADER.len() + FRAME)?;
                self.send(
                    bytes
                        .get(HEADER.len()..)
                        .context("a frame without header")?,
                );
                Ok(0)
            })?;
        }
        Ok(self.deliver(receive, memory)? || wanted)
    }
}
