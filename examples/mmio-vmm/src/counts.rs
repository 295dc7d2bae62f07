// SPDX-License-Identifier: GPL-2.0
//! What is counted of each device, and how it is printed.

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

/// Accesses that exited to userspace.
#[derive(Default)]
struct Exits {
    reads: AtomicU64,
    writes: AtomicU64,
    notify: AtomicU64,
    interrupt_status: AtomicU64,
    interrupt_ack: AtomicU64,
}

/// What a device has counted, in several threads.
#[derive(Default)]
pub struct Counts {
    running: AtomicBool,
    setup: Exits,
    steady: Exits,
    notifications: AtomicU64,
    interrupts: AtomicU64,
}

impl Counts {
    /// A driver has set the device up, or is about to: exits are counted apart.
    pub fn set_running(&self, running: bool) {
        self.running.store(running, Relaxed);
    }

    pub fn exit(&self, register: Register, is_write: bool) {
        let exits = if self.running.load(Relaxed) {
            &self.steady
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

    pub fn interrupted(&self) {
        self.interrupts.fetch_add(1, Relaxed);
    }

    pub fn snapshot(&self, name: &str) -> Device {
        Device {
            name: name.to_owned(),
            setup: self.setup.snapshot(),
            running: self.steady.snapshot(),
            notifications: self.notifications.load(Relaxed),
            interrupts: self.interrupts.load(Relaxed),
        }
    }
}

impl Exits {
    fn snapshot(&self) -> Accesses {
        Accesses {
            reads: self.reads.load(Relaxed),
            writes: self.writes.load(Relaxed),
            notify: self.notify.load(Relaxed),
            interrupt_status: self.interrupt_status.load(Relaxed),
            interrupt_ack: self.interrupt_ack.load(Relaxed),
        }
    }
}

/// Accesses that exited; the last three are some of the first two.
#[derive(Debug, PartialEq, Serialize)]
pub struct Accesses {
    pub reads: u64,
    pub writes: u64,
    pub notify: u64,
    pub interrupt_status: u64,
    pub interrupt_ack: u64,
}

/// What one device has counted.
#[derive(Debug, PartialEq, Serialize)]
pub struct Device {
    pub name: String,
    /// Until a driver has set it up.
    pub setup: Accesses,
    /// From then on.
    pub running: Accesses,
    pub notifications: u64,
    pub interrupts: u64,
}

/// Of all devices, as `--json` prints it.
#[derive(Debug, PartialEq, Serialize)]
pub struct Report {
    /// The value of `--registers`.
    pub registers: String,
    pub devices: Vec<Device>,
}

const HEADS: [&str; 9] = [
    "device", "set-up", "reads", "writes", "notify", "status", "ack", "rings", "irqs",
];

impl Report {
    /// For people: exits while a driver was at work, by register, and what they were for.
    pub fn table(&self) -> String {
        let mut lines = vec![
            format!("exits to userspace, registers: {}", self.registers),
            line(&HEADS.map(str::to_owned)),
        ];
        lines.extend(self.devices.iter().map(|device| line(&device.cells())));
        lines.join("\n")
    }
}

impl Device {
    fn cells(&self) -> [String; 9] {
        let (setup, running) = (&self.setup, &self.running);
        [
            self.name.clone(),
            (setup.reads + setup.writes).to_string(),
            running.reads.to_string(),
            running.writes.to_string(),
            running.notify.to_string(),
            running.interrupt_status.to_string(),
            running.interrupt_ack.to_string(),
            self.notifications.to_string(),
            self.interrupts.to_string(),
        ]
    }
}

fn line(cells: &[String; 9]) -> String {
    let (name, numbers) = cells.split_first().expect("a name");
    let numbers: String = numbers.iter().map(|cell| format!("{cell:>9}")).collect();
    format!("{name:<7}{numbers}")
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
        let device = counts.snapshot("block");
        assert_eq!((device.setup.reads, device.setup.writes), (1, 0));
        assert_eq!((device.running.reads, device.running.writes), (1, 1));
        assert_eq!(device.running.interrupt_ack, 1);
        assert_eq!(device.notifications, 3);
    }
}
