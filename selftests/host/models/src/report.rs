// SPDX-License-Identifier: GPL-2.0
//! What is counted, and for whom: `src/report/`, without its files in debugfs and under /dev.

#[path = "../../../../src/report/recorder.rs"]
pub(crate) mod recorder;
#[path = "../../../../src/report/registry.rs"]
pub(crate) mod registry;
#[path = "../../../../src/report/stats.rs"]
pub(crate) mod stats;
