// SPDX-License-Identifier: GPL-2.0
//! What all the readers return.

use std::collections::BTreeMap;

/// Counters by name.
pub type Counters = BTreeMap<String, u64>;
