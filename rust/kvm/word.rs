// SPDX-License-Identifier: GPL-2.0

//! A word that several change at once: the seam between memory of a process and what a device does
//! with it.

/// A word of 1, 2, 4 or 8 bytes that others may use at any time.
///
/// Each operation is atomic, and orders all accesses before and after it but for a load after a
/// [`Word::store`]. Values have no bits that the word has no room for, or these are ignored.
pub trait Word {
    /// The value.
    fn load(&self) -> u64;

    /// Sets the value.
    fn store(&self, value: u64);

    /// Sets the value, and returns that of before.
    fn swap(&self, value: u64) -> u64;

    /// Clears the bits that are 0 in `value`, and returns the value of before.
    fn fetch_and(&self, value: u64) -> u64;

    /// Sets the bits that are 1 in `value`, and returns the value of before.
    fn fetch_or(&self, value: u64) -> u64;
}
