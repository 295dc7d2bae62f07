// SPDX-License-Identifier: GPL-2.0
//! Memory that programs of BPF write at any time, and this one reads.

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

// SAFETY: it is memory of the process, not of a thread, and only read.
unsafe impl Send for Words {}

impl Words {
    /// Those of an array that is `bytes` long.
    pub fn map(array: impl AsFd, bytes: usize) -> io::Result<Self> {
        // SAFETY: the kernel chooses where, so no memory of this process is replaced.
        let start = unsafe {
            mmap(
                ptr::null_mut(),
                bytes,
                ProtFlags::READ,
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
        // - Who writes them meanwhile is the kernel, and atomics are read as such.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.count) }
    }

    /// The first so many, as they are now.
    pub fn first(&self, count: usize) -> impl Iterator<Item = u64> {
        let words = self.as_slice().iter().take(count);
        words.map(|word| word.load(Ordering::Relaxed))
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: by the type's invariants, it is mapped, and no reference to it is left.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.count * size_of::<u64>()) };
        debug_assert!(unmapped.is_ok());
    }
}
