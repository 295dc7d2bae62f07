// SPDX-License-Identifier: GPL-2.0
//! What a device is, without its registers, and what its thread and its registers share.

use std::os::fd::RawFd;
use std::sync::{Arc, Mutex};

use anyhow::Result;
use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INTERRUPT_STATUS};
use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use crate::counts::Counts;
use crate::page::RegisterPage;
use crate::wiring::Interrupt;

/// What the registers tell of a device.
pub struct Description {
    /// Of `linux/virtio_ids.h`.
    pub id: u32,
    /// Its own feature bits.
    pub features: u64,
    pub config: Vec<u8>,
    pub queues: usize,
}

/// Why a device's thread has woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// That queue was notified.
    Queue(usize),
    /// The file can be read.
    File,
}

/// What a device does, in a thread of its own.
pub trait Backend: Send + 'static {
    fn describe(&self) -> Description;

    /// A file that the thread waits for, too.
    fn file(&self) -> Option<RawFd> {
        None
    }

    /// Uses buffers of the queues; gives whether the driver is to be interrupted. After an error
    /// the device does nothing until the driver resets it.
    fn serve(
        &mut self,
        event: Event,
        queues: &mut [Queue],
        memory: &GuestMemoryMmap,
    ) -> Result<bool>;
}

/// What a device's thread and its registers share.
pub struct Link {
    pub memory: GuestMemoryMmap,
    /// None unless a driver has set the device up. Held while the thread uses buffers, so that
    /// none is used any more when a reset has taken it.
    pub queues: Mutex<Vec<Queue>>,
    /// Rung when a queue is notified, by the kernel or by the registers.
    pub kicks: Vec<EventFd>,
    pub page: RegisterPage,
    pub interrupt: Interrupt,
    pub counts: Arc<Counts>,
}

impl Link {
    /// Interrupts the driver for reasons of InterruptStatus.
    pub fn interrupt(&self, reasons: u32) -> Result<()> {
        // First the word, as the kernel may answer the driver's read at once.
        self.page.set_bits(VIRTIO_MMIO_INTERRUPT_STATUS, reasons);
        self.counts.interrupted();
        self.interrupt.inject()
    }

    /// Tells the driver that the device needs a reset.
    pub fn fail(&self) -> Result<()> {
        use virtio_bindings::virtio_config::VIRTIO_CONFIG_S_NEEDS_RESET;
        use virtio_bindings::virtio_mmio::VIRTIO_MMIO_STATUS;

        self.page
            .set_bits(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_NEEDS_RESET);
        self.interrupt(VIRTIO_MMIO_INT_CONFIG)
    }
}
