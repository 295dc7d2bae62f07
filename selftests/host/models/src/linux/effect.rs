// SPDX-License-Identifier: GPL-2.0
//! What an access of the guest comes to.

use crate::addr::Gfn;
use std::{cell::RefCell, rc::Rc};

/// What an access has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// An access to memory, and to which.
    Ram(usize),
    /// An exit to userspace.
    Mmio { gfn: Gfn, size: u8 },
    /// A device on the bus has taken it.
    Bus,
}

/// What accesses have come to since somebody has looked.
pub(crate) type Effects = Rc<RefCell<Vec<Effect>>>;
