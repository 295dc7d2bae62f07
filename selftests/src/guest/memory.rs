// SPDX-License-Identifier: GPL-2.0
//! Host memory that backs a guest's memslot.

use std::io;
use std::ptr::{self, NonNull};

/// An anonymous shared mapping, zero at first.
///
/// Guests write it at any time, so it is only read and written through raw pointers, never
/// through references.
pub struct Region {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to no thread, and it is accessed with volatile accesses only. Tests
// that share one between threads race on purpose, on naturally aligned values.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Maps `len` bytes; a multiple of the page size.
    pub fn new(len: u64) -> io::Result<Self> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing
        // that exists.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        Ok(Self { base, len })
    }

    /// Address in this process, for KVM_SET_USER_MEMORY_REGION.
    pub fn hva(&self) -> u64 {
        self.base.as_ptr() as u64
    }

    pub fn len(&self) -> u64 {
        self.len as u64
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes pages out of this process and of the guests that have them, as if memory had run short.
    /// What they hold stays, and comes back when it is used.
    pub fn take_out(&self, offset: u64, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        let start = self.at(offset, len);
        // SAFETY: inside the mapping, which is of shared memory: nothing is lost.
        match unsafe { libc::madvise(start.cast(), len, libc::MADV_DONTNEED) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn at(&self, offset: u64, size: usize) -> *mut u8 {
        let offset = usize::try_from(offset).expect("64-bit host");
        assert!(
            offset.checked_add(size).is_some_and(|end| end <= self.len),
            "{size} bytes at {offset:#x} are outside a region of {:#x} bytes",
            self.len
        );
        // SAFETY: inside the mapping, as just checked.
        unsafe { self.base.as_ptr().add(offset) }
    }

    /// Writes bytes one by one. For what the guest does not use at the same time.
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        let to = self.at(offset, bytes.len());
        for (i, byte) in bytes.iter().enumerate() {
            // SAFETY: `at` checked the whole range.
            unsafe { to.add(i).write_volatile(*byte) };
        }
    }

    /// Reads bytes one by one.
    pub fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let from = self.at(offset, len);
        // SAFETY: `at` checked the whole range.
        (0..len)
            .map(|i| unsafe { from.add(i).read_volatile() })
            .collect()
    }

    /// Writes one aligned 64-bit value at once.
    pub fn write_u64(&self, offset: u64, value: u64) {
        let to = self.at(offset, 8).cast::<u64>();
        assert!(to.is_aligned(), "{offset:#x} is not a multiple of 8");
        // SAFETY: in bounds and aligned, as just checked.
        unsafe { to.write_volatile(value) };
    }

    /// Reads one aligned 64-bit value at once.
    pub fn read_u64(&self, offset: u64) -> u64 {
        let from = self.at(offset, 8).cast::<u64>();
        assert!(from.is_aligned(), "{offset:#x} is not a multiple of 8");
        // SAFETY: in bounds and aligned, as just checked.
        unsafe { from.read_volatile() }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: `new` mapped exactly this range, and nothing else keeps a pointer into it: the
        // VM that used it is gone, or its memslot keeps no reference but an address.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}
