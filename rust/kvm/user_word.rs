// SPDX-License-Identifier: GPL-2.0

//! A word of memory of a process that the kernel uses in any context: its page is pinned.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h), `pin_user_pages_fast()`.

use super::word::Word;
// The atomics of `kernel::sync::atomic` have neither `fetch_and()` nor `fetch_or()`, and are of no
// `u8` or `u16`.
use core::{
    ptr::{self, NonNull},
    sync::atomic::{
        AtomicU16,
        AtomicU32,
        AtomicU64,
        AtomicU8,
        Ordering::{AcqRel, Acquire, Release}, //
    },
};
use kernel::{
    error::to_result,
    mm::Mm,
    prelude::*,
    sync::aref::ARef, //
};
use kvm_bindings as bindings;

/// A page that counts as locked memory of a process.
///
/// # Invariants
///
/// One page was accounted to `mm`.
struct Accounted {
    mm: ARef<Mm>,
}

impl Accounted {
    /// # Errors
    ///
    /// `ENOMEM` if the process may not have more, by `RLIMIT_MEMLOCK`.
    fn new(mm: ARef<Mm>) -> Result<Self> {
        // SAFETY: `mm` is alive, and nothing is locked that this would wait for.
        to_result(unsafe { bindings::account_locked_vm(mm.as_raw().cast(), 1, true) })?;
        // INVARIANT: As just done.
        Ok(Self { mm })
    }
}

impl Drop for Accounted {
    fn drop(&mut self) {
        // SAFETY: `mm` is alive. By the type's invariants the page was accounted to it; taking that
        // back cannot fail.
        unsafe { bindings::account_locked_vm(self.mm.as_raw().cast(), 1, false) };
    }
}

/// A page of a process that stays where it is, to be written to.
///
/// # Invariants
///
/// `page` was pinned with `FOLL_WRITE`.
struct PinnedPage {
    page: *mut bindings::page,
    _accounted: Accounted,
}

impl PinnedPage {
    fn new(mm: ARef<Mm>, addr: usize) -> Result<Self> {
        let accounted = Accounted::new(mm)?;
        let mut page = ptr::null_mut();
        let flags = bindings::MMIO_EXT_FOLL_WRITE | bindings::MMIO_EXT_FOLL_LONGTERM;
        // SAFETY: There is room for one page. The function copes with any address.
        match unsafe { bindings::pin_user_pages_fast(addr as _, 1, flags, &mut page) } {
            // INVARIANT: As just done.
            1 => Ok(Self {
                page,
                _accounted: accounted,
            }),
            // The last page of all addresses.
            error if error == EOVERFLOW.to_errno() => Err(EFAULT),
            error if error < 0 => Err(Error::from_errno(error)),
            _ => Err(EFAULT),
        }
    }

    /// Where the kernel sees it. x86-64 has no memory that it does not see.
    fn address(&self) -> *mut u8 {
        // SAFETY: The page is pinned.
        unsafe { bindings::mmio_ext_page_address(self.page) }.cast()
    }
}

impl Drop for PinnedPage {
    fn drop(&mut self) {
        // SAFETY: The page was pinned, and nobody uses it by this any more. Drops may sleep.
        unsafe { bindings::unpin_user_pages_dirty_lock(&mut self.page, 1, true) };
    }
}

/// A word of 1, 2, 4 or 8 bytes in the memory of a process. Using it never faults or sleeps,
/// whatever the process does with the address afterwards.
///
/// # Invariants
///
/// `at` points to `size` bytes of `_page`, is aligned to `size`, and `size` is one of these four.
/// Everybody else's accesses to it are those of a process, i.e. outside of this program; those of
/// the kernel through other words are atomic, too.
pub(crate) struct UserWord {
    at: NonNull<u8>,
    size: u8,
    _page: PinnedPage,
}

// SAFETY: A pinned page belongs to no thread, and can be unpinned by any.
unsafe impl Send for UserWord {}
// SAFETY: All that can be done with it is atomic.
unsafe impl Sync for UserWord {}

impl UserWord {
    /// The word of `size` bytes at the address `addr` of the current process.
    ///
    /// # Errors
    ///
    /// - `EINVAL` if it is not aligned to its size, or that is not 1, 2, 4 or 8;
    /// - `ENOMEM` if the process may not lock another page (`RLIMIT_MEMLOCK`);
    /// - `EFAULT` if there is no memory that the process may write to, or none that may be pinned
    ///   for long, and what else `pin_user_pages_fast()` returns.
    pub(crate) fn new(addr: u64, size: u8) -> Result<Self> {
        let addr = usize::try_from(addr)?;
        if !matches!(size, 1 | 2 | 4 | 8) || addr % usize::from(size) != 0 {
            return Err(EINVAL);
        }
        let task = current!();
        let mm = task.mm().ok_or(EINVAL)?;
        let page = PinnedPage::new(ARef::from(&**mm), addr)?;
        let offset = addr % bindings::MMIO_EXT_PAGE_SIZE as usize;
        // INVARIANT: An aligned word does not leave its page, which begins at an aligned address.
        Ok(Self {
            at: NonNull::new(page.address().wrapping_add(offset)).ok_or(EFAULT)?,
            size,
            _page: page,
        })
    }
}

/// Does something with the word as an atomic of its size.
macro_rules! atomic {
    ($this:expr, $word:ident => $done:expr) => {{
        let at = $this.at.as_ptr();
        // SAFETY: By the type's invariants there are `size` bytes, aligned to that, of a page that
        // stays; all other accesses are atomic, or not those of this program.
        unsafe {
            match $this.size {
                1 => {
                    let $word = AtomicU8::from_ptr(at);
                    $done
                }
                2 => {
                    let $word = AtomicU16::from_ptr(at.cast());
                    $done
                }
                4 => {
                    let $word = AtomicU32::from_ptr(at.cast());
                    $done
                }
                _ => {
                    let $word = AtomicU64::from_ptr(at.cast());
                    $done
                }
            }
        }
    }};
}

impl Word for UserWord {
    #[inline(always)]
    fn load(&self) -> u64 {
        atomic!(self, word => word.load(Acquire) as u64)
    }

    #[inline(always)]
    fn store(&self, value: u64) {
        atomic!(self, word => word.store(value as _, Release));
    }

    #[inline(always)]
    fn swap(&self, value: u64) -> u64 {
        atomic!(self, word => word.swap(value as _, AcqRel) as u64)
    }

    #[inline(always)]
    fn fetch_and(&self, value: u64) -> u64 {
        atomic!(self, word => word.fetch_and(value as _, AcqRel) as u64)
    }

    #[inline(always)]
    fn fetch_or(&self, value: u64) -> u64 {
        atomic!(self, word => word.fetch_or(value as _, AcqRel) as u64)
    }
}
