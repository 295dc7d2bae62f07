// SPDX-License-Identifier: GPL-2.0
//! Names for guest-physical addresses: which device is behind a page.

mod builtin;
mod config;
mod map;
mod monitor;
mod mtree;
mod mtree_line;
mod names;
mod range;

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, Result};

pub use map::{Map, Part};
pub use monitor::Monitor;
pub use names::{Maps, Names};
pub use range::{Given, Owner, PAGE, Region, Source};

/// Reads the ranges of a TOML file.
pub fn read_config(path: &Path) -> Result<Vec<Region>> {
    config::parse(&read(path)?).with_context(|| format!("{}", path.display()))
}

/// Reads the ranges that QEMU's monitor has printed for `info mtree`.
pub fn read_mtree(path: &Path) -> Result<Vec<Region>> {
    mtree::parse(&read(path)?).with_context(|| format!("{}", path.display()))
}

/// The content of a file; of standard input if it is called `-`.
fn read(path: &Path) -> Result<String> {
    let bytes = match path.to_str() {
        Some("-") => {
            let mut bytes = Vec::new();
            io::Read::read_to_end(&mut io::stdin(), &mut bytes).map(|_| bytes)
        }
        _ => fs::read(path),
    };
    let bytes = bytes.with_context(|| format!("cannot read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
