// SPDX-License-Identifier: GPL-2.0
//! Memory that programs of BPF and this one read and write at any time.

use std::io;
use std::os::fd::AsFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// Numbers of 64 bits, each of which is whole.
///
/// # Invariants
///
/// `start` is the start of a mapping of at least `count` words, which nobody else unmaps.
pub struct Words {
    start: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: it is memory of the process, not of a thread, and all of it atomics.
unsafe impl Send for Words {}

impl Words {
    /// Those of an array that is `bytes` long.
    pub fn map(array: impl AsFd, bytes: usize) -> io::Result<Self> {
        // SAFETY: the kernel chooses where, so no memory of this process is replaced.
        let start = unsafe {
            mmap(
                ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                array,
                0,
            )
        }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        // INVARIANT: it was just mapped, and is at the start of a page.
        Ok(Self {
            start,
            count: bytes / size_of::<u64>(),
        })
    }

    fn as_slice(&self) -> &[AtomicU64] {
        // SAFETY:
        // - By the type's invariants, they are there as long as `self`.
        // - Who writes them meanwhile is the kernel, or this program, all of it as atomics.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.count) }
    }

    /// The first so many records of some words each, as they are now. The last word of each is read
    /// first: what it counts was written after what it is a count of.
    pub fn records<const WORDS: usize>(&self, count: usize) -> impl Iterator<Item = [u64; WORDS]> {
        let records = self.as_slice().chunks_exact(WORDS).take(count);
        records.map(|words| {
            let mut record = [0; WORDS];
            for (value, word) in record.iter_mut().zip(words).rev() {
                *value = word.load(Ordering::Acquire);
            }
            record
        })
    }

    /// Writes a word, behind all that was written before. There is nothing beyond the end.
    pub fn store(&self, index: usize, value: u64) {
        if let Some(word) = self.as_slice().get(index) {
            word.store(value, Ordering::Release);
        }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: by the type's invariants, it is mapped, and no reference to it is left.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.count * size_of::<u64>()) };
        debug_assert!(unmapped.is_ok());
    }
}
