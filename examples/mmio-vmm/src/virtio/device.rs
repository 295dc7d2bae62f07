// SPDX-License-Identifier: GPL-2.0
//! What a device is, without its registers, and what its thread and its registers share.

use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::Result;
use virtio_bindings::virtio_config::VIRTIO_CONFIG_S_NEEDS_RESET;
use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING, VIRTIO_MMIO_INTERRUPT_STATUS, VIRTIO_MMIO_STATUS,
};
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
    pub queues: u32,
}

/// What a device does, in a thread of its own.
pub trait Backend: Send + 'static {
    fn describe(&self) -> Description;

    /// Uses buffers of the queues; gives whether the driver is to be interrupted. After an error
    /// the device does nothing until the driver resets it.
    fn serve(&mut self, queues: &mut [Queue], memory: &GuestMemoryMmap) -> Result<bool>;
}

/// Queues as the driver describes them.
pub struct Queues {
    pub list: Vec<Queue>,
    /// Whether a driver has set the device up, and the thread uses them.
    pub running: bool,
}

/// What a device's thread and its registers share.
pub struct Link {
    pub memory: GuestMemoryMmap,
    /// Held while the thread uses buffers, so that none is used any more after a reset.
    pub queues: Mutex<Queues>,
    /// Rung when any queue is notified, by the kernel or by the registers.
    pub kick: EventFd,
    pub page: RegisterPage,
    pub interrupt: Interrupt,
    pub counts: Arc<Counts>,
}

impl Link {
    pub fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().expect("no thread panics")
    }

    /// Waits for notifications, and has the backend serve the queues.
    pub fn wait(&self, backend: &mut impl Backend) -> Result<()> {
        // Of the doorbells that are rung meanwhile none is lost.
        self.counts.notified(self.kick.read()?);
        let mut queues = self.queues();
        if !queues.running {
            return Ok(());
        }
        match backend.serve(&mut queues.list, &self.memory) {
            Ok(true) => self.interrupt(VIRTIO_MMIO_INT_VRING),
            Ok(false) => Ok(()),
            Err(e) => {
                queues.running = false;
                self.fail()?;
                Err(e)
            }
        }
    }

    /// Interrupts the driver for reasons of InterruptStatus.
    pub fn interrupt(&self, reasons: u32) -> Result<()> {
        // First the word, as the kernel may answer the driver's read at once.
        self.page.set_bits(VIRTIO_MMIO_INTERRUPT_STATUS, reasons);
        self.counts.interrupted();
        self.interrupt.inject()
    }

    /// Tells the driver that the device needs a reset.
    pub fn fail(&self) -> Result<()> {
        self.page
            .set_bits(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_NEEDS_RESET);
        self.interrupt(VIRTIO_MMIO_INT_CONFIG)
    }
}

#[cfg(test)]
mod tests {
    use super::super::queue::tests::{memory, queue};
    use super::*;
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    /// Wants an interrupt the first time, and then fails.
    struct Once(bool);

    impl Backend for Once {
        fn describe(&self) -> Description {
            unreachable!("only registers ask")
        }

        fn serve(&mut self, _: &mut [Queue], _: &GuestMemoryMmap) -> Result<bool> {
            anyhow::ensure!(!self.0, "the second time");
            self.0 = true;
            Ok(true)
        }
    }

    #[test]
    fn interrupts_then_fails_then_waits_for_a_reset() {
        let event = || EventFd::new(EFD_NONBLOCK).unwrap();
        let memory = memory();
        let interrupts = event();
        let link = Link {
            queues: Mutex::new(Queues {
                list: vec![queue(&memory, &[])],
                running: false,
            }),
            kick: event(),
            page: RegisterPage::new(1).unwrap(),
            interrupt: Interrupt::Irqfd(interrupts.try_clone().unwrap()),
            counts: Arc::default(),
            memory,
        };
        let mut backend = Once(false);
        let mut ring = || {
            link.kick.write(1).unwrap();
            link.wait(&mut backend)
        };
        let status = || link.page.get(VIRTIO_MMIO_INTERRUPT_STATUS);

        ring().unwrap();
        assert!(interrupts.read().is_err(), "no driver has set it up");
        link.queues().running = true;
        ring().unwrap();
        assert_eq!(
            (interrupts.read().unwrap(), status()),
            (1, VIRTIO_MMIO_INT_VRING)
        );
        assert!(ring().is_err());
        assert_eq!((interrupts.read().unwrap(), status()), (1, 3));
        assert_eq!(
            link.page.get(VIRTIO_MMIO_STATUS),
            VIRTIO_CONFIG_S_NEEDS_RESET
        );
        ring().unwrap();
        assert!(interrupts.read().is_err());
    }
}
