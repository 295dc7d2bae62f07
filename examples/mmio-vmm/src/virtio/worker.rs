// SPDX-License-Identifier: GPL-2.0
//! A device's thread: waits for notifications, and has the backend serve the queues.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result};
use virtio_bindings::virtio_mmio::VIRTIO_MMIO_INT_VRING;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::device::{Backend, Event, Link};

/// The backend's file; queues have their numbers.
const FILE: u64 = u64::MAX;

struct Worker<B> {
    name: String,
    backend: B,
    link: Arc<Link>,
    epoll: Epoll,
}

/// Starts the thread, which lives as long as the process.
pub fn spawn(name: &str, backend: impl Backend, link: Arc<Link>) -> Result<()> {
    let worker = Worker::new(name, backend, link)?;
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || worker.run())
        .context("no thread for a device")?;
    Ok(())
}

impl<B: Backend> Worker<B> {
    fn new(name: &str, backend: B, link: Arc<Link>) -> Result<Self> {
        let worker = Self {
            name: name.to_owned(),
            epoll: Epoll::new()?,
            backend,
            link,
        };
        for (index, kick) in (0..).zip(&worker.link.kicks) {
            worker.watch(kick.as_raw_fd(), index)?;
        }
        if let Some(file) = worker.backend.file() {
            worker.watch(file, FILE)?;
        }
        Ok(worker)
    }

    fn watch(&self, file: RawFd, data: u64) -> io::Result<()> {
        let event = EpollEvent::new(EventSet::IN, data);
        self.epoll.ctl(ControlOperation::Add, file, event)
    }

    fn run(mut self) {
        loop {
            if let Err(e) = self.wait() {
                eprintln!("mmio-vmm: {}: {e:#}", self.name);
            }
        }
    }

    fn wait(&mut self) -> Result<()> {
        let mut events = [EpollEvent::default(); 4];
        let count = match self.epoll.wait(-1, &mut events) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => 0,
            result => result?,
        };
        for event in &events[..count] {
            self.handle(event.data())?;
        }
        Ok(())
    }

    fn handle(&mut self, data: u64) -> Result<()> {
        let event = if data == FILE {
            Event::File
        } else {
            let index = data as usize;
            match self.link.kicks[index].read() {
                // Of the doorbells that were rung meanwhile none is lost.
                Ok(rings) => self.link.counts.notified(rings),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e.into()),
            }
            Event::Queue(index)
        };
        self.serve(event)
    }

    fn serve(&mut self, event: Event) -> Result<()> {
        let mut queues = self.link.queues.lock().expect("no thread panics");
        if queues.is_empty() && event != Event::File {
            return Ok(());
        }
        match self.backend.serve(event, &mut queues, &self.link.memory) {
            Ok(true) => self.link.interrupt(VIRTIO_MMIO_INT_VRING),
            Ok(false) => Ok(()),
            Err(e) => {
                queues.clear();
                self.link.fail()?;
                Err(e)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::super::device::Description;
    use super::super::queue::tests::{memory, queue};
    use super::*;
    use crate::page::RegisterPage;
    use crate::wiring::Interrupt;
    use virtio_bindings::virtio_config::VIRTIO_CONFIG_S_NEEDS_RESET;
    use virtio_bindings::virtio_mmio::*;
    use virtio_queue::Queue;
    use vm_memory::GuestMemoryMmap;
    use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

    /// Wants an interrupt the first time, and then fails.
    struct Once(bool);

    impl Backend for Once {
        fn describe(&self) -> Description {
            unreachable!("only registers ask")
        }

        fn serve(&mut self, _: Event, _: &mut [Queue], _: &GuestMemoryMmap) -> Result<bool> {
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
        let link = Arc::new(Link {
            queues: Mutex::default(),
            kicks: vec![event()],
            page: RegisterPage::new().unwrap(),
            interrupt: Interrupt::Irqfd(interrupts.try_clone().unwrap()),
            counts: Arc::default(),
            memory: memory.clone(),
        });
        let mut worker = Worker::new("once", Once(false), link.clone()).unwrap();
        let mut ring = || {
            link.kicks[0].write(1).unwrap();
            worker.wait()
        };
        let status = || link.page.get(VIRTIO_MMIO_INTERRUPT_STATUS);

        ring().unwrap();
        assert!(interrupts.read().is_err(), "no driver has set it up");
        link.queues.lock().unwrap().push(queue(&memory, &[]));
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
