// SPDX-License-Identifier: GPL-2.0
//! What all parts of a picture are drawn on, and with.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

/// As wide as a page of text: what is made smaller cannot be read.
pub const WIDTH: u32 = 800;
pub const MARGIN: u32 = 14;
/// At the right of the rows there is half of the last number of the axis.
pub const RIGHT: u32 = 36;

pub const NOTHING: RGBColor = RGBColor(236, 236, 236);
pub const KERNEL: RGBColor = RGBColor(0, 114, 178);
pub const USERSPACE: RGBColor = RGBColor(230, 159, 0);

pub type Area<'a, B> = DrawingArea<B, Shift>;

/// The backend's errors are not always thread-safe.
pub fn drawn<T, E: std::fmt::Display>(result: Result<T, E>) -> Result<T> {
    result.map_err(|error| anyhow!("cannot draw: {error}"))
}

/// A number with a thin gap between its thousands.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place != 0 && (digits.len() - place) % 3 == 0 {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}
