// SPDX-License-Identifier: GPL-2.0
//! Two writers clear bits of a word while a device sets them, on as many real processors as there
//! are: of 10^8 accesses none loses a bit, and none sees one twice.
//!
//! `mmio-registers` does the same with guests, where an emulator runs one thread at a time.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::thread;

use kvm_mmio_ext::addr::Gpa;
use kvm_mmio_ext::pure::posted::{OnRead, OnWrite, Register, Signal};
use kvm_mmio_ext::word::Word;

/// Of the device, and of a writer: at least so many accesses to the word.
const SETS: u64 = 50_000_000;
const READS_AND_WRITES: u64 = 25_000_000;
/// Which bits are each writer's.
const HALVES: [u64; 2] = [0xffff_ffff, 0xffff_ffff << 32];
const GPA: Gpa = Gpa(0x1000);

/// As `rust/kvm/user_word.rs` has it.
struct Shared(AtomicU64);

impl Word for Shared {
    fn load(&self) -> u64 {
        self.0.load(Acquire)
    }

    fn store(&self, value: u64) {
        self.0.store(value, Release);
    }

    fn swap(&self, value: u64) -> u64 {
        self.0.swap(value, AcqRel)
    }

    fn fetch_and(&self, value: u64) -> u64 {
        self.0.fetch_and(value, AcqRel)
    }

    fn fetch_or(&self, value: u64) -> u64 {
        self.0.fetch_or(value, AcqRel)
    }
}

/// Reads that return the word, and writes that clear bits; these signal as said.
fn registers(signal: Signal) -> (Register, Register) {
    let register = Register {
        gpa: GPA,
        size: 8,
        on_write: None,
        on_read: Some(OnRead::Return),
        signal: Signal::Never,
    };
    let write = Register {
        on_write: Some(OnWrite::Clear),
        on_read: None,
        signal,
        ..register
    };
    (register, write)
}

/// Counts and clears the bits of a half; gives them, the writes and the signals.
fn clear(word: &Shared, half: u64, signal: Signal) -> [u64; 3] {
    let (on_read, on_write) = registers(signal);
    let (mut reads, mut writes, mut cleared, mut signals) = (0, 0, 0, 0);
    while reads + writes < READS_AND_WRITES {
        let bits = on_read.read(word, GPA, 8).expect("it is for the register") & half;
        reads += 1;
        if bits != 0 {
            signals += u64::from(on_write.write_value(word, bits));
            writes += 1;
            cleared += u64::from(bits.count_ones());
        }
    }
    [cleared, writes, signals]
}

/// Sets bits that are clear, and counts those of each half.
fn set(word: &Shared, is_over: &AtomicBool) -> [u64; 2] {
    let mut set = [0; 2];
    for n in 0.. {
        if n >= SETS && is_over.load(Relaxed) {
            break;
        }
        let number = n * 7 % 64;
        let bit = 1 << number;
        if word.fetch_or(bit) & bit == 0 {
            set[usize::from(number >= 32)] += 1;
        }
    }
    set
}

#[test]
fn no_bit_is_lost_or_seen_twice() {
    let word = Shared(AtomicU64::new(0));
    let is_over = AtomicBool::new(false);
    // The one that asks what the word was, and the one that does not.
    let signals = [Signal::Change, Signal::Always];
    let (set, seen) = thread::scope(|scope| {
        let device = scope.spawn(|| set(&word, &is_over));
        let writers = [0, 1].map(|n| {
            let word = &word;
            scope.spawn(move || clear(word, HALVES[n], signals[n]))
        });
        let seen = writers.map(|writer| writer.join().unwrap());
        is_over.store(true, Relaxed);
        (device.join().unwrap(), seen)
    });

    let left = word.load();
    for n in [0, 1] {
        let [cleared, writes, signals] = seen[n];
        let left = u64::from((left & HALVES[n]).count_ones());
        assert_eq!(set[n], cleared + left, "half {n}, {left} left");
        // Each write has changed the word, as nobody else clears its bits.
        assert!(writes > 0 && signals == writes, "{signals} of {writes}");
    }
}
