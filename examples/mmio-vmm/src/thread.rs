// SPDX-License-Identifier: GPL-2.0
//! Threads of devices.

use std::thread::Builder;

use anyhow::{Context, Result};

/// Starts a thread that does this again and again as long as the process lives, and says what has
/// failed.
pub fn repeat(name: &str, mut step: impl FnMut() -> Result<()> + Send + 'static) -> Result<()> {
    let who = name.to_owned();
    let thread = Builder::new().name(who.clone()).spawn(move || {
        loop {
            if let Err(e) = step() {
                eprintln!("mmio-vmm: {who}: {e:#}");
            }
        }
    });
    thread.map(drop).context("no thread for a device")
}
