// SPDX-License-Identifier: GPL-2.0
//! A row of heat for each page over time, those of a VM below its name.

use anyhow::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::Matrix;
use super::canvas::{Area, MARGIN, RIGHT, WIDTH, drawn};
use super::scale::Scale;
use super::text::{TEXT, fit, style, width};
use crate::row::{Row, process_label};

const ROW: u32 = 20;
/// Below the rows: the axis.
const AXIS: u32 = 66;

enum Line {
    Vm(String),
    /// A row of the matrix.
    Page(usize),
}

/// The rows, and the names of VMs if there are several.
fn lines(matrix: &Matrix) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut last = None;
    for (place, row) in matrix.rows.iter().enumerate() {
        if matrix.vms > 1 && last.replace(row.key.vm) != Some(row.key.vm) {
            let process = process_label(&row.process, row.tgid);
            lines.push(Line::Vm(format!("VM {}: {process}", row.key.vm)));
        }
        lines.push(Line::Page(place));
    }
    lines
}

/// Pixels of all rows and of the axis below.
pub fn height(matrix: &Matrix) -> u32 {
    lines(matrix).len().max(3) as u32 * ROW + AXIS
}

/// What a row is called: the address in any case.
pub fn label(row: &Row, room: u32) -> String {
    let address = format!("{:#x}", row.key.gpa);
    if row.name == address {
        return address;
    }
    let rest = format!("  {address}");
    fit(&row.name, room.saturating_sub(width(&rest))) + &rest
}

/// Draws them below `top`, right of `left`, whose labels have `room`.
pub fn draw<B: DrawingBackend>(
    matrix: &Matrix,
    area: &Area<B>,
    (left, top): (u32, u32),
    room: u32,
) -> Result<()> {
    let lines = lines(matrix);
    let seconds = matrix.ends.last().copied().unwrap_or(1.0);
    let mut chart = drawn(
        ChartBuilder::on(area)
            .margin_top(top)
            .margin_right(RIGHT)
            .set_label_area_size(LabelAreaPosition::Left, left)
            .set_label_area_size(LabelAreaPosition::Bottom, 46)
            .build_cartesian_2d(0.0..seconds, lines.len().max(1) as f64..0.0),
    )?;
    drawn(
        chart
            .configure_mesh()
            .disable_mesh()
            .x_labels(8)
            .y_labels(0)
            .x_desc("time since the start of the recording, seconds")
            .x_label_style(("sans-serif", TEXT))
            .axis_desc_style(("sans-serif", TEXT))
            .draw(),
    )?;
    let scale = Scale::of(matrix);
    let start = |column: usize| column.checked_sub(1).map_or(0.0, |i| matrix.ends[i]);
    for (at, line) in lines.iter().enumerate() {
        let (x, y) = chart.backend_coord(&(0.0, at as f64 + 0.5));
        let (base_x, base_y) = area.get_base_pixel();
        let (x, y) = (x - base_x, y - base_y);
        let row = match line {
            Line::Vm(name) => {
                draw_vm(area, name, y)?;
                continue;
            }
            Line::Page(row) => *row,
        };
        for (from, to, rate) in runs(&matrix.cells[row]) {
            let corners = [
                (start(from), at as f64 + 0.08),
                (start(to), at as f64 + 0.92),
            ];
            let cell = Rectangle::new(corners, scale.color(rate).filled());
            drawn(chart.draw_series([cell]))?;
        }
        let text = label(&matrix.rows[row], room);
        let label = style(TEXT, HPos::Right, VPos::Center);
        drawn(area.draw(&Text::new(text, (x - 8, y), label)))?;
    }
    Ok(())
}

/// The name of a VM, which may be longer than those of pages: not crossed by the axis.
fn draw_vm<B: DrawingBackend>(area: &Area<B>, name: &str, y: i32) -> Result<()> {
    let name = fit(name, WIDTH - 2 * MARGIN);
    let (left, half) = (MARGIN as i32, ROW as i32 / 2);
    let right = left + width(&name) as i32 + 4;
    let behind = Rectangle::new([(left, y - half), (right, y + half)], WHITE.filled());
    drawn(area.draw(&behind))?;
    let label = style(TEXT, HPos::Left, VPos::Center);
    drawn(area.draw(&Text::new(name, (left, y), label)))
}

/// Neighbours of the same rate, as (from, to, rate); nothing for what is not accessed.
fn runs(cells: &[f64]) -> Vec<(usize, usize, f64)> {
    let mut runs: Vec<(usize, usize, f64)> = Vec::new();
    for (place, &rate) in cells.iter().enumerate() {
        match runs.last_mut() {
            Some((_, to, last)) if *last == rate => *to = place + 1,
            _ => runs.push((place, place + 1, rate)),
        }
    }
    runs
}
