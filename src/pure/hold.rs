// SPDX-License-Identifier: GPL-2.0

//! How long something holds against those that ask for another.

use core::cell::Cell;

/// Holds against so many that ask, then gives way to one.
///
/// # Examples
///
/// ```
/// use kvm_mmio_ext::pure::hold::Hold;
///
/// assert!(Hold::none().gives_way());
/// let hold = Hold::new(2);
/// assert!(!hold.gives_way() && !hold.gives_way() && hold.gives_way());
/// ```
#[derive(Debug)]
pub struct Hold(Cell<u8>);

impl Hold {
    /// Of nothing, which gives way at once.
    pub const fn none() -> Self {
        Self(Cell::new(0))
    }

    /// Against so many from now on.
    pub const fn new(times: u8) -> Self {
        Self(Cell::new(times))
    }

    /// One that holds as long as this one still does.
    pub fn as_firm(&self) -> Self {
        Self(Cell::new(self.0.get()))
    }

    /// Holds against so many once more, from now on.
    pub fn renew(&self, times: u8) {
        self.0.set(times);
    }

    /// Lets another ask. Returns whether it is the one.
    #[inline(always)]
    pub fn gives_way(&self) -> bool {
        let left = self.0.get();
        self.0.set(left.saturating_sub(1));
        left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_way_to_one_in_many() {
        let hold = Hold::new(64);
        let tries = (1..1000).find(|_| hold.gives_way());
        assert_eq!(tries, Some(65));
        assert!(hold.gives_way(), "from then on");

        hold.renew(2);
        assert!(!hold.gives_way());
        let other = hold.as_firm();
        assert!(!other.gives_way() && other.gives_way());
        assert!(!hold.gives_way(), "on its own");
        assert!(Hold::none().gives_way());
    }
}
