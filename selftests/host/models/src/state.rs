// SPDX-License-Identifier: GPL-2.0
//! In the place of `src/state.rs`.

pub(crate) use crate::{kvm::Vcpu, linux::mmio_ext::PendingLoad};
