// SPDX-License-Identifier: GPL-2.0
//! What is counted, and for whom: `src/report/`, without its files in debugfs and under /dev.

#[path = "../../../../src/report/recorder.rs"]
#[allow(
    clippy::needless_question_mark,
    reason = "the kernel's allocations have an error of their own"
)]
pub(crate) mod recorder;
#[path = "../../../../src/report/registry.rs"]
pub(crate) mod registry;
#[path = "../../../../src/report/stats.rs"]
pub(crate) mod stats;
