// SPDX-License-Identifier: GPL-2.0
//! What is counted of each device, and how it is printed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use serde::Serialize;

/// Which register an exit was for, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// QueueNotify, or a doorbell.
    Notify,
    InterruptStatus,
    InterruptAck,
    Other,
}

/// Accesses that exited to userspace; the last three are some of the first two.
#[derive(Debug, Default, Serialize)]
struct Exits {
    reads: AtomicU64,
    writes: AtomicU64,
    notify: AtomicU64,
    interrupt_status: AtomicU64,
    interrupt_ack: AtomicU64,
}

/// What a device has counted, in several threads.
#[derive(Debug, Default, Serialize)]
pub struct Counts {
    #[serde(skip)]
    is_running: AtomicBool,
    /// Until a driver has set it up.
    setup: Exits,
    /// From then on.
    running: Exits,
    notifications: AtomicU64,
    interrupts: AtomicU64,
}

impl Counts {
    /// A driver has set the device up, or has reset it: exits are counted apart.
    pub fn set_running(&self, running: bool) {
        self.is_running.store(running, Relaxed);
    }

    /// An access has exited.
    pub fn exit(&self, register: Register, is_write: bool) {
        let is_running = self.is_running.load(Relaxed);
        let exits = if is_running {
            &self.running
        } else {
            &self.setup
        };
        let all = if is_write {
            &exits.writes
        } else {
            &exits.reads
        };
        all.fetch_add(1, Relaxed);
        match register {
            Register::Notify => exits.notify.fetch_add(1, Relaxed),
            Register::InterruptStatus => exits.interrupt_status.fetch_add(1, Relaxed),
            Register::InterruptAck => exits.interrupt_ack.fetch_add(1, Relaxed),
            Register::Other => 0,
        };
    }

    /// The guest has rung so often.
    pub fn notified(&self, times: u64) {
        self.notifications.fetch_add(times, Relaxed);
    }

    /// The device has interrupted the guest.
    pub fn interrupted(&self) {
        self.interrupts.fetch_add(1, Relaxed);
    }
}

/// A device in the report.
#[derive(Debug, Serialize)]
pub struct Device {
    pub name: String,
    #[serde(flatten)]
    pub counts: Arc<Counts>,
}

/// Of all devices, as `--json` prints it.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The value of `--registers`.
    pub registers: String,
    pub devices: Vec<Device>,
}

impl Report {
    /// For people: exits while a driver was at work, by register, and what they were for.
    pub fn table(&self) -> String {
        let mut lines = vec![
            format!("exits to userspace, registers: {}", self.registers),
            "device    set-up    reads   writes   notify   status      ack    rings     irqs"
                .into(),
        ];
        lines.extend(self.devices.iter().map(Device::line));
        lines.join("\n")
    }
}

impl Device {
    fn line(&self) -> String {
        let (setup, running) = (&self.counts.setup, &self.counts.running);
        let [reads, writes] = [&setup.reads, &setup.writes].map(|count| count.load(Relaxed));
        let others = [
            &running.reads,
            &running.writes,
            &running.notify,
            &running.interrupt_status,
            &running.interrupt_ack,
            &self.counts.notifications,
            &self.counts.interrupts,
        ];
        let others = others.map(|count| format!("{:>9}", count.load(Relaxed)));
        format!("{:<7}{:>9}{}", self.name, reads + writes, others.concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apart_by_phase_and_register() {
        let counts = Counts::default();
        counts.exit(Register::Other, false);
        counts.set_running(true);
        counts.exit(Register::InterruptAck, true);
        counts.exit(Register::InterruptStatus, false);
        counts.notified(3);
        let report = Report {
            registers: "exit".to_owned(),
            devices: vec![Device {
                name: "net".to_owned(),
                counts: Arc::new(counts),
            }],
        };
        let found: Vec<_> = report.table().lines().map(str::to_owned).collect();
        let words: Vec<_> = found[2].split_whitespace().collect();
        assert_eq!(words, ["net", "1", "1", "1", "0", "1", "1", "3", "0"]);
        assert_eq!(found[1].len(), found[2].len());
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["devices"][0]["running"]["interrupt_ack"], 1);
    }
}
