// SPDX-License-Identifier: GPL-2.0
//! A bar for each device: how often it was accessed, and who answered.

use anyhow::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::Matrix;
use super::canvas::{Area, KERNEL, MARGIN, NOTHING, RIGHT, USERSPACE, drawn, grouped};
use super::text::{LINE, TEXT, TITLE, fit, style, width};
use crate::counts::Counts;
use crate::words::plural;

const BAR: u32 = 26;
/// Above and below the bars: title and legend, axis.
const FRAME: u32 = 56 + 58;

/// Pixels of all.
pub fn height(matrix: &Matrix) -> u32 {
    let more = if hidden(matrix).is_some() { LINE } else { 0 };
    FRAME + matrix.devices.len().max(1) as u32 * BAR + more
}

/// Those that have no bar.
fn hidden(matrix: &Matrix) -> Option<String> {
    let (devices, accesses) = matrix.devices_hidden;
    let devices = (devices != 0).then(|| plural(devices as u64, "more device", "more devices"))?;
    let accesses = plural(accesses, "access", "accesses");
    Some(format!("{devices} with {accesses} not drawn"))
}

/// The figures behind a bar.
fn figures(counts: &Counts, all: u64) -> String {
    let share = counts.count as f64 / all.max(1) as f64 * 100.0;
    format!("{} ({share:.1} %)", grouped(counts.count))
}

/// Draws them right of `left`, whose labels have `room`.
pub fn draw<B: DrawingBackend>(
    matrix: &Matrix,
    area: &Area<B>,
    left: u32,
    room: u32,
) -> Result<()> {
    let devices = &matrix.devices;
    let title = style(TITLE, HPos::Left, VPos::Top);
    drawn(area.draw(&Text::new("Accesses by device", (MARGIN as i32, 6), title)))?;
    if devices.is_empty() {
        let label = style(TEXT, HPos::Left, VPos::Top);
        return drawn(area.draw(&Text::new("no accesses", (MARGIN as i32, 36), label)));
    }
    draw_legend(area, left as i32)?;
    let figures: Vec<_> = devices
        .iter()
        .map(|(_, counts)| figures(counts, matrix.accesses))
        .collect();
    let widest = figures.iter().map(|text| width(text)).max().unwrap_or(0);
    let most = devices
        .iter()
        .map(|(_, counts)| counts.count)
        .max()
        .unwrap_or(1);
    let more = hidden(matrix);
    let mut chart = drawn(
        ChartBuilder::on(area)
            .margin_top(44)
            .margin_right(RIGHT.max(widest + MARGIN))
            .margin_bottom(if more.is_some() { LINE } else { 0 })
            .set_label_area_size(LabelAreaPosition::Left, left)
            .set_label_area_size(LabelAreaPosition::Bottom, 46)
            .build_cartesian_2d(0.0..most as f64 * 1.02, devices.len() as f64..0.0),
    )?;
    drawn(
        chart
            .configure_mesh()
            .disable_y_mesh()
            .light_line_style(WHITE)
            .bold_line_style(NOTHING)
            .x_labels(4)
            .y_labels(0)
            .x_desc("accesses")
            .x_label_formatter(&|count| grouped(*count as u64))
            .x_label_style(("sans-serif", TEXT))
            .axis_desc_style(("sans-serif", TEXT))
            .draw(),
    )?;
    let (base_x, base_y) = area.get_base_pixel();
    for (place, ((name, counts), figures)) in devices.iter().zip(figures).enumerate() {
        let (low, high) = (place as f64 + 0.15, place as f64 + 0.85);
        let mut from = 0.0;
        for (count, color, _) in parts(counts) {
            let to = from + count as f64;
            let bar = Rectangle::new([(from, low), (to, high)], color.filled());
            drawn(chart.draw_series([bar]))?;
            from = to;
        }
        let at = |x| {
            let (x, y) = chart.backend_coord(&(x, place as f64 + 0.5));
            (x - base_x, y - base_y)
        };
        let ((zero, y), (end, _)) = (at(0.0), at(from));
        let label = style(TEXT, HPos::Right, VPos::Center);
        drawn(area.draw(&Text::new(fit(name, room), (zero - 8, y), label)))?;
        let label = style(TEXT, HPos::Left, VPos::Center);
        drawn(area.draw(&Text::new(figures, (end + 6, y), label)))?;
    }
    match more {
        Some(more) => {
            let label = style(TEXT, HPos::Left, VPos::Top);
            let y = (height(matrix) - LINE) as i32 + 6;
            drawn(area.draw(&Text::new(more, (MARGIN as i32, y), label)))
        }
        None => Ok(()),
    }
}

fn draw_legend<B: DrawingBackend>(area: &Area<B>, left: i32) -> Result<()> {
    let mut x = left;
    for (_, color, name) in parts(&Counts::default()) {
        let label = style(TEXT, HPos::Left, VPos::Center);
        drawn(area.draw(&Rectangle::new([(x, 28), (x + 12, 40)], color.filled())))?;
        drawn(area.draw(&Text::new(name, (x + 18, 34), label)))?;
        x += width(name) as i32 + 46;
    }
    Ok(())
}

/// What the accesses to a device are made of, with colour and legend.
fn parts(counts: &Counts) -> [(u64, RGBColor, &'static str); 2] {
    [
        (counts.kernel, KERNEL, "done in the kernel"),
        (counts.userspace, USERSPACE, "exit to userspace"),
    ]
}
