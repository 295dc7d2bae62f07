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
use vmm_sys_util::eventfd::EventFd;

use super::device::{Backend, Link, Queues};
use crate::boot::Region;
use crate::bus::{Mmio, word};
use crate::counts::{Counts, Register};
use crate::page::RegisterPage;
use crate::thread;
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
}

impl Transport {
    /// A device with its thread, and its registers as the wiring has them.
    pub fn new(
        name: &str,
        mut backend: impl Backend,
        region: Region,
        memory: GuestMemoryMmap,
        wiring: &mut Wiring,
    ) -> Result<(Self, Arc<Counts>)> {
        let about = backend.describe();
        let features = about.features | 1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX;
        let page = RegisterPage::new(1)?;
        page.set(VIRTIO_MMIO_MAGIC_VALUE, MAGIC);
        page.set(VIRTIO_MMIO_VERSION, VERSION);
        page.set(VIRTIO_MMIO_DEVICE_ID, about.id);
        page.fill(VIRTIO_MMIO_CONFIG, &about.config);
        let list: Result<Vec<_>, _> = (0..about.queues).map(|_| Queue::new(QUEUE_SIZE)).collect();
        let link = Arc::new(Link {
            memory,
            queues: Mutex::new(Queues {
                list: list?,
                running: false,
            }),
            // The thread blocks in reads of it.
            kick: EventFd::new(0)?,
            interrupt: wiring.interrupt(region.irq)?,
            page,
            counts: Arc::default(),
        });
        wire(&link, region.base, about.queues, wiring)?;
        let (served, counts) = (link.clone(), link.counts.clone());
        thread::repeat(name, move || served.wait(&mut backend))?;
        Ok((Self::from_link(link, features), counts))
    }

    fn from_link(link: Arc<Link>, offered: u64) -> Self {
        let mut transport = Self {
            link,
            offered,
            accepted: 0,
            accepted_word: 0,
            selected: 0,
        };
        transport.reset();
        transport
    }

    fn reset(&mut self) {
        let mut queues = self.link.queues();
        queues.running = false;
        queues.list.iter_mut().for_each(Queue::reset);
        drop(queues);
        self.link.counts.set_running(false);
        (self.accepted, self.accepted_word) = (0, 0);
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
        let queues = self.link.queues();
        let queue = queues.list.get(self.selected);
        let maximum = queue.map_or(0, |queue| queue.max_size().into());
        let ready = queue.is_some_and(QueueT::ready);
        self.link.page.set(VIRTIO_MMIO_QUEUE_NUM_MAX, maximum);
        self.link.page.set(VIRTIO_MMIO_QUEUE_READY, ready.into());
    }

    fn write_queue(&mut self, register: u32, value: u32) {
        let mut queues = self.link.queues();
        let Some(queue) = queues.list.get_mut(self.selected) else {
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
        // Only a reset clears bits. The thread may set one meanwhile.
        self.link.page.set_bits(VIRTIO_MMIO_STATUS, status);
        if status & !was & VIRTIO_CONFIG_S_DRIVER_OK != 0 {
            self.activate();
        }
    }

    /// Has the thread use the queues.
    fn activate(&self) {
        let event_idx = self.accepted >> VIRTIO_RING_F_EVENT_IDX & 1 != 0;
        let mut queues = self.link.queues();
        let memory = &self.link.memory;
        if !queues.list.iter().all(|queue| queue.is_valid(memory)) {
            // The interrupt can only fail if the guest has no controller for it any more.
            let _ = self.link.fail();
            return;
        }
        for queue in &mut queues.list {
            queue.set_event_idx(event_idx);
        }
        queues.running = true;
        self.link.counts.set_running(true);
    }
}

/// What the kernel does of it.
fn wire(link: &Link, base: u64, queues: u32, wiring: &mut Wiring) -> Result<()> {
    let at = |register: u32| base + u64::from(register);
    for queue in 0..queues {
        wiring.doorbell(at(VIRTIO_MMIO_QUEUE_NOTIFY), queue, &link.kick)?;
    }
    // One word, that the device's thread sets bits of.
    let word = (&link.page, VIRTIO_MMIO_INTERRUPT_STATUS);
    wiring.post_reads(at(VIRTIO_MMIO_INTERRUPT_STATUS), word)?;
    wiring.post_writes(at(VIRTIO_MMIO_INTERRUPT_ACK), word, Write::Clear, None)?;
    wiring.map(base, (&link.page, 0), false)
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
            VIRTIO_MMIO_QUEUE_NOTIFY => {
                // It is full only if the thread has not read it since 2^64 notifications.
                let _ = self.link.kick.write(1);
            }
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

#[cfg(test)]
mod tests {
    use super::super::queue::tests::memory;
    use super::*;
    use crate::wiring::Interrupt;
    use proptest::prelude::*;
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    const OWN: u64 = 1 << 9;

    fn transport() -> Transport {
        let event = || EventFd::new(EFD_NONBLOCK).unwrap();
        let link = Link {
            memory: memory(),
            queues: Mutex::new(Queues {
                list: [0; 2].map(|_| Queue::new(QUEUE_SIZE).unwrap()).into(),
                running: false,
            }),
            kick: event(),
            page: RegisterPage::new(1).unwrap(),
            interrupt: Interrupt::Irqfd(event()),
            counts: Arc::default(),
        };
        let offered = OWN | 1 << VIRTIO_F_VERSION_1;
        Transport::from_link(Arc::new(link), offered)
    }

    fn write(transport: &mut Transport, register: u32, value: u32) {
        transport.write(register.into(), &value.to_le_bytes());
    }

    fn read(transport: &mut Transport, register: u32) -> u32 {
        let mut data = [0; 4];
        transport.read(register.into(), &mut data);
        u32::from_le_bytes(data)
    }

    fn accept(transport: &mut Transport, features: u64) -> u32 {
        for (word, bits) in [(0, features as u32), (1, (features >> 32) as u32)] {
            write(transport, VIRTIO_MMIO_DRIVER_FEATURES_SEL, word);
            write(transport, VIRTIO_MMIO_DRIVER_FEATURES, bits);
        }
        write(transport, VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_FEATURES_OK);
        read(transport, VIRTIO_MMIO_STATUS)
    }

    fn set_up_queues(transport: &mut Transport) {
        for index in 0..2 {
            write(transport, VIRTIO_MMIO_QUEUE_SEL, index);
            assert_eq!(read(transport, VIRTIO_MMIO_QUEUE_NUM_MAX), 256);
            write(transport, VIRTIO_MMIO_QUEUE_NUM, 16);
            let base = 0x1000 + 0x3000 * index;
            write(transport, VIRTIO_MMIO_QUEUE_DESC_LOW, base);
            write(transport, VIRTIO_MMIO_QUEUE_AVAIL_LOW, base + 0x1000);
            write(transport, VIRTIO_MMIO_QUEUE_USED_LOW, base + 0x2000);
            write(transport, VIRTIO_MMIO_QUEUE_READY, 1);
            assert_eq!(read(transport, VIRTIO_MMIO_QUEUE_READY), 1);
        }
    }

    #[test]
    fn the_queues_are_the_threads_from_driver_ok_to_reset() {
        let mut transport = transport();
        set_up_queues(&mut transport);
        accept(&mut transport, OWN | 1 << VIRTIO_F_VERSION_1);
        write(
            &mut transport,
            VIRTIO_MMIO_STATUS,
            VIRTIO_CONFIG_S_DRIVER_OK,
        );
        assert!(transport.link.queues().running);
        write(&mut transport, VIRTIO_MMIO_STATUS, 0);
        assert!(!transport.link.queues().running);
        assert_eq!(read(&mut transport, VIRTIO_MMIO_QUEUE_READY), 0);
    }

    #[test]
    fn only_a_reset_clears_status() {
        let mut transport = transport();
        set_up_queues(&mut transport);
        accept(&mut transport, 1 << VIRTIO_F_VERSION_1);
        for status in [VIRTIO_CONFIG_S_DRIVER_OK, 1, VIRTIO_CONFIG_S_DRIVER_OK] {
            write(&mut transport, VIRTIO_MMIO_STATUS, status);
        }
        assert!(transport.link.queues().running);
        transport.link.fail().unwrap();
        write(&mut transport, VIRTIO_MMIO_STATUS, 1);
        assert_eq!(read(&mut transport, VIRTIO_MMIO_STATUS), 0x4d);
    }

    #[test]
    fn features_are_those_offered_and_never_legacy() {
        let version_1 = 1 << VIRTIO_F_VERSION_1;
        for (features, result) in [
            (version_1, VIRTIO_CONFIG_S_FEATURES_OK),
            (version_1 | OWN, VIRTIO_CONFIG_S_FEATURES_OK),
            (OWN, 0),
            (version_1 | 1 << 40, 0),
        ] {
            assert_eq!(accept(&mut transport(), features), result, "{features:#x}");
        }
    }

    #[test]
    fn a_queue_nowhere_needs_a_reset() {
        let mut transport = transport();
        accept(&mut transport, 1 << VIRTIO_F_VERSION_1);
        write(
            &mut transport,
            VIRTIO_MMIO_STATUS,
            VIRTIO_CONFIG_S_DRIVER_OK,
        );
        assert_eq!(read(&mut transport, VIRTIO_MMIO_STATUS) & 0x40, 0x40);
        assert_eq!(
            read(&mut transport, VIRTIO_MMIO_INTERRUPT_STATUS),
            VIRTIO_MMIO_INT_CONFIG
        );
    }

    #[test]
    fn acknowledges_just_what_is_written() {
        let mut transport = transport();
        transport
            .link
            .page
            .set_bits(VIRTIO_MMIO_INTERRUPT_STATUS, 3);
        write(&mut transport, VIRTIO_MMIO_INTERRUPT_ACK, 1);
        assert_eq!(read(&mut transport, VIRTIO_MMIO_INTERRUPT_STATUS), 2);
    }

    proptest! {
        /// No order of writes is worse than a device that does not work until it is reset.
        #[test]
        fn survives_any_writes(writes in proptest::collection::vec(
            (0..0x110u64, prop_oneof![0..16u32, any::<u32>()], 0..=8usize), 0..200)) {
            let mut transport = transport();
            for (offset, value, size) in writes {
                let data = u64::from(value).to_le_bytes();
                transport.write(offset, &data[..size]);
            }
            prop_assert_eq!(read(&mut transport, VIRTIO_MMIO_MAGIC_VALUE), 0);
            write(&mut transport, VIRTIO_MMIO_STATUS, 0);
            set_up_queues(&mut transport);
        }
    }
}
