// SPDX-License-Identifier: GPL-2.0
//! The registers of virtio-mmio: section 4.2.2 of the specification.
//!
//! What the driver reads is always in the page; each write brings the page up to date before the
//! guest goes on. Thus it makes no difference who answers the reads.

use std::sync::{Arc, Mutex};

use anyhow::Result;
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_mmio::*;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::device::{Backend, Link};
use super::worker;
use crate::boot::Region;
use crate::bus::{Mmio, word};
use crate::counts::{Counts, Register};
use crate::page::RegisterPage;
use crate::wiring::{Wiring, Write};

/// "virt", and the version without legacy.
const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
const QUEUE_SIZE: u16 = 256;

/// The state that a driver has written so far.
pub struct Transport {
    link: Arc<Link>,
    /// What the device offers and what the driver accepts, as bits.
    offered: u64,
    accepted: u64,
    accepted_word: u32,
    selected: usize,
    /// As the driver describes them; they are the thread's once all is set up.
    queues: Vec<Queue>,
}

impl Transport {
    /// A device with its thread, and its registers as the wiring has them.
    pub fn new(
        name: &str,
        backend: impl Backend,
        region: Region,
        memory: GuestMemoryMmap,
        wiring: &mut Wiring,
    ) -> Result<(Self, Arc<Counts>)> {
        let about = backend.describe();
        let features = about.features | 1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX;
        let page = RegisterPage::new()?;
        page.set(VIRTIO_MMIO_MAGIC_VALUE, MAGIC);
        page.set(VIRTIO_MMIO_VERSION, VERSION);
        page.set(VIRTIO_MMIO_DEVICE_ID, about.id);
        page.fill(VIRTIO_MMIO_CONFIG, &about.config);
        let kicks: Result<Vec<_>, _> = (0..about.queues)
            .map(|_| EventFd::new(EFD_NONBLOCK))
            .collect();
        let link = Arc::new(Link {
            memory,
            queues: Mutex::default(),
            kicks: kicks?,
            interrupt: wiring.interrupt(region.irq)?,
            page,
            counts: Arc::default(),
        });
        wire(&link, region.base, wiring)?;
        worker::spawn(name, backend, link.clone())?;
        let counts = link.counts.clone();
        let mut transport = Self::from_link(link, features)?;
        transport.reset();
        Ok((transport, counts))
    }

    fn from_link(link: Arc<Link>, offered: u64) -> Result<Self> {
        let queues: Result<Vec<_>, _> = link.kicks.iter().map(|_| Queue::new(QUEUE_SIZE)).collect();
        Ok(Self {
            link,
            offered,
            accepted: 0,
            accepted_word: 0,
            selected: 0,
            queues: queues?,
        })
    }

    fn reset(&mut self) {
        self.link.queues.lock().expect("no thread panics").clear();
        self.link.counts.set_running(false);
        (self.accepted, self.accepted_word) = (0, 0);
        self.queues.iter_mut().for_each(Queue::reset);
        self.link.page.set(VIRTIO_MMIO_STATUS, 0);
        self.link.page.set(VIRTIO_MMIO_INTERRUPT_STATUS, 0);
        self.select_features(0);
        self.select_queue(0);
    }

    fn select_features(&mut self, word: u32) {
        let bits = half(self.offered, word);
        self.link.page.set(VIRTIO_MMIO_DEVICE_FEATURES, bits);
    }

    fn accept_features(&mut self, bits: u32) {
        match self.accepted_word {
            0 => self.accepted = self.accepted >> 32 << 32 | u64::from(bits),
            1 => self.accepted = u64::from(half(self.accepted, 0)) | u64::from(bits) << 32,
            _ => {}
        }
    }

    fn select_queue(&mut self, index: u32) {
        self.selected = index as usize;
        let queue = self.queues.get(self.selected);
        let maximum = queue.map_or(0, |queue| queue.max_size().into());
        let ready = queue.is_some_and(QueueT::ready);
        self.link.page.set(VIRTIO_MMIO_QUEUE_NUM_MAX, maximum);
        self.link.page.set(VIRTIO_MMIO_QUEUE_READY, ready.into());
    }

    fn write_queue(&mut self, register: u32, value: u32) {
        let Some(queue) = self.queues.get_mut(self.selected) else {
            return;
        };
        let (low, high) = (Some(value), None);
        match register {
            VIRTIO_MMIO_QUEUE_NUM => queue.set_size(value.try_into().unwrap_or(0)),
            VIRTIO_MMIO_QUEUE_READY => queue.set_ready(value & 1 != 0),
            VIRTIO_MMIO_QUEUE_DESC_LOW => queue.set_desc_table_address(low, high),
            VIRTIO_MMIO_QUEUE_DESC_HIGH => queue.set_desc_table_address(high, low),
            VIRTIO_MMIO_QUEUE_AVAIL_LOW => queue.set_avail_ring_address(low, high),
            VIRTIO_MMIO_QUEUE_AVAIL_HIGH => queue.set_avail_ring_address(high, low),
            VIRTIO_MMIO_QUEUE_USED_LOW => queue.set_used_ring_address(low, high),
            VIRTIO_MMIO_QUEUE_USED_HIGH => queue.set_used_ring_address(high, low),
            _ => {}
        }
        let ready = queue.ready();
        self.link.page.set(VIRTIO_MMIO_QUEUE_READY, ready.into());
    }

    fn write_status(&mut self, mut status: u32) {
        if status == 0 {
            return self.reset();
        }
        let was = self.link.page.get(VIRTIO_MMIO_STATUS);
        let is_known = self.accepted & !self.offered == 0;
        let is_modern = self.accepted >> VIRTIO_F_VERSION_1 & 1 != 0;
        if !is_known || !is_modern {
            status &= !VIRTIO_CONFIG_S_FEATURES_OK;
        }
        self.link.page.set(VIRTIO_MMIO_STATUS, status);
        if status & !was & VIRTIO_CONFIG_S_DRIVER_OK != 0 {
            self.activate();
        }
    }

    /// Gives the queues to the thread.
    fn activate(&mut self) {
        let event_idx = self.accepted >> VIRTIO_RING_F_EVENT_IDX & 1 != 0;
        let memory = &self.link.memory;
        if !self.queues.iter().all(|queue| queue.is_valid(memory)) {
            // The interrupt can only fail if the guest has no controller for it any more.
            let _ = self.link.fail();
            return;
        }
        let mut queues = self.link.queues.lock().expect("no thread panics");
        for queue in &mut self.queues {
            queue.set_event_idx(event_idx);
            let mut other = Queue::new(QUEUE_SIZE).expect("a power of two");
            std::mem::swap(queue, &mut other);
            // So that the registers still say so.
            queue.set_ready(true);
            queues.push(other);
        }
        self.link.counts.set_running(true);
    }

    fn notify(&self, queue: u32) {
        if let Some(kick) = self.link.kicks.get(queue as usize) {
            // It is full only if the thread has not read it since 2^64 notifications.
            let _ = kick.write(1);
        }
    }
}

/// What the kernel does of it.
fn wire(link: &Link, base: u64, wiring: &mut Wiring) -> Result<()> {
    let at = |register: u32| base + u64::from(register);
    for (index, kick) in (0..).zip(&link.kicks) {
        wiring.doorbell(at(VIRTIO_MMIO_QUEUE_NOTIFY), index, kick)?;
    }
    // One word, that the device's thread sets bits of.
    let word = (&link.page, VIRTIO_MMIO_INTERRUPT_STATUS);
    wiring.post_reads(at(VIRTIO_MMIO_INTERRUPT_STATUS), word)?;
    wiring.post_writes(at(VIRTIO_MMIO_INTERRUPT_ACK), word, Write::Clear, None)?;
    wiring.map_reads(base, &link.page)
}

impl Mmio for Transport {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        self.link.counts.exit(register(offset), false);
        self.link.page.read(offset, data);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        self.link.counts.exit(register(offset), true);
        let Some(value) = word(data) else {
            return;
        };
        match offset as u32 {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.select_features(value),
            VIRTIO_MMIO_DRIVER_FEATURES => self.accept_features(value),
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.accepted_word = value,
            VIRTIO_MMIO_QUEUE_SEL => self.select_queue(value),
            VIRTIO_MMIO_QUEUE_NOTIFY => self.notify(value),
            VIRTIO_MMIO_INTERRUPT_ACK => {
                self.link
                    .page
                    .clear_bits(VIRTIO_MMIO_INTERRUPT_STATUS, value);
            }
            VIRTIO_MMIO_STATUS => self.write_status(value),
            register => self.write_queue(register, value),
        }
    }
}

fn register(offset: u64) -> Register {
    match offset as u32 {
        VIRTIO_MMIO_QUEUE_NOTIFY => Register::Notify,
        VIRTIO_MMIO_INTERRUPT_STATUS => Register::InterruptStatus,
        VIRTIO_MMIO_INTERRUPT_ACK => Register::InterruptAck,
        _ => Register::Other,
    }
}

/// 32 bits of 64.
fn half(bits: u64, word: u32) -> u32 {
    match word {
        0 => bits as u32,
        1 => (bits >> 32) as u32,
        _ => 0,
    }
}
