// SPDX-License-Identifier: GPL-2.0

//! What the extension has counted and recorded, and how userspace gets it.

pub(crate) mod device;
pub(crate) mod recorder;
pub(crate) mod registry;
pub(crate) mod stats;
