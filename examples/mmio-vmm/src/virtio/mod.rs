// SPDX-License-Identifier: GPL-2.0
//! Devices of virtio-mmio, see version 1.3 of the specification, section 4.2.

mod block;
mod device;
mod net;
mod peer;
mod queue;
mod transport;

pub use block::Block;
pub use device::Backend;
pub use net::Net;
pub use transport::Transport;
