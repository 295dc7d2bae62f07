// SPDX-License-Identifier: GPL-2.0
//! Threads of devices.

use std::thread::Builder;

use anyhow::{Context, Result};

use crate::sys;

/// The shortest that there is. Who is woken takes the place of a thread with a longer slice, from
/// Linux 6.12 on: where a vCPU and a device share a processor, the device is done before the guest
/// has looked for something else to do, and halted.
const SLICE: u64 = 100_000;

/// Starts a thread that does this again and again as long as the process lives, and says what has
/// failed.
pub fn repeat(name: &str, mut step: impl FnMut() -> Result<()> + Send + 'static) -> Result<()> {
    let who = name.to_owned();
    let thread = Builder::new().name(who.clone()).spawn(move || {
        if let Err(e) = sys::set_slice(SLICE) {
            eprintln!("mmio-vmm: {who} may be slow: {e}");
        }
        loop {
            if let Err(e) = step() {
                eprintln!("mmio-vmm: {who}: {e:#}");
            }
        }
    });
    thread.map(drop).context("no thread for a device")
}
