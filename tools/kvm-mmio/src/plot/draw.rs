// SPDX-License-Identifier: GPL-2.0
//! The picture: a row of heat for each page over time, below it a bar for each device.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::Matrix;
use crate::counts::Counts;
use crate::output::short;

const WIDTH: u32 = 1200;
const ROW: u32 = 20;
const BAR: u32 = 26;
/// Above and below the rows: title, axis.
const HEAT_FRAME: u32 = 60 + 58;
/// Above and below the bars: title and legend, axis.
const BAR_FRAME: u32 = 56 + 58;
const RIGHT: u32 = 170;
/// An even number of pixels: of odd sizes, plotters sets glyphs on different lines in PNG.
const TEXT: u32 = 14;
const TITLE: u32 = 18;

const NOTHING: RGBColor = RGBColor(236, 236, 236);
const KERNEL: RGBColor = RGBColor(0, 114, 178);
const USERSPACE: RGBColor = RGBColor(230, 159, 0);

pub struct Picture<'a> {
    pub matrix: &'a Matrix,
    /// Above all.
    pub title: String,
    /// Below the title: what one has to know.
    pub notes: Vec<String>,
}

type Area<'a, B> = DrawingArea<B, Shift>;

/// The backend's errors are not always thread-safe.
fn drawn<T, E: std::fmt::Display>(result: Result<T, E>) -> Result<T> {
    result.map_err(|error| anyhow!("cannot draw: {error}"))
}

fn text<'a>(size: u32, horizontal: HPos, vertical: VPos) -> TextStyle<'a> {
    ("sans-serif", size)
        .into_font()
        .color(&BLACK)
        .pos(Pos::new(horizontal, vertical))
}

impl Picture<'_> {
    pub fn size(&self) -> (u32, u32) {
        (WIDTH, self.heat_height() + self.bars_height() + 12)
    }

    fn heat_height(&self) -> u32 {
        let rows = self.matrix.rows.len().max(6) as u32;
        HEAT_FRAME + 18 * self.notes.len() as u32 + rows * ROW
    }

    fn bars_height(&self) -> u32 {
        BAR_FRAME + self.matrix.devices.len().max(1) as u32 * BAR
    }

    pub fn draw<B: DrawingBackend>(&self, area: &Area<B>) -> Result<()> {
        drawn(area.fill(&WHITE))?;
        let (heat, bars) = area.split_vertically(self.heat_height());
        self.draw_heat(&heat)?;
        self.draw_bars(&bars)?;
        drawn(area.present())
    }

    /// Room for the longest label.
    fn left(&self) -> u32 {
        let labels = self.matrix.rows.iter().map(|row| self.label(row));
        let devices = self.matrix.devices.iter().map(|(name, _)| short(name, 60));
        let style = text(TEXT, HPos::Right, VPos::Center);
        let width = |label: String| style.font.box_size(&label).map_or(300, |(width, _)| width);
        labels
            .chain(devices)
            .map(width)
            .max()
            .unwrap_or(0)
            .clamp(100, WIDTH / 2)
            + 16
    }

    fn label(&self, row: &crate::row::Row) -> String {
        let process = match (self.matrix.processes.len(), row.process.as_str()) {
            (1, _) | (_, "") => String::new(),
            (_, name) => format!("{}  ", short(name, 16)),
        };
        let vm = match self.matrix.vms {
            1 => String::new(),
            _ => format!("VM {}  {process}", row.key.vm),
        };
        let address = format!("{:#x}", row.key.gpa);
        match row.name == address {
            true => format!("{vm}{}  {address}", row.device),
            false => format!("{vm}{}  {address}", short(&row.name, 44)),
        }
    }

    fn draw_heat<B: DrawingBackend>(&self, area: &Area<B>) -> Result<()> {
        let matrix = self.matrix;
        let title = text(TITLE, HPos::Left, VPos::Top);
        drawn(area.draw(&Text::new(self.title.as_str(), (14, 12), title)))?;
        let note = text(TEXT, HPos::Left, VPos::Top);
        for (line, text) in (0..).zip(&self.notes) {
            drawn(area.draw(&Text::new(
                text.as_str(),
                (14, 38 + 18 * line),
                note.clone(),
            )))?;
        }
        let rows = matrix.rows.len().max(1);
        let seconds = matrix.ends.last().copied().unwrap_or(1.0);
        let mut chart = drawn(
            ChartBuilder::on(area)
                .margin_top(46 + 18 * self.notes.len() as u32)
                .margin_right(RIGHT)
                .set_label_area_size(LabelAreaPosition::Left, self.left())
                .set_label_area_size(LabelAreaPosition::Bottom, 46)
                .build_cartesian_2d(0.0..seconds, rows as f64..0.0),
        )?;
        drawn(
            chart
                .configure_mesh()
                .disable_mesh()
                .x_labels(12)
                .y_labels(0)
                .x_desc("time since the start of the recording, seconds")
                .x_label_style(("sans-serif", TEXT))
                .axis_desc_style(("sans-serif", TEXT))
                .draw(),
        )?;
        let scale = Scale::of(matrix);
        for (row, cells) in matrix.cells.iter().enumerate() {
            for (from, to, rate) in runs(cells) {
                let start = |column: usize| column.checked_sub(1).map_or(0.0, |i| matrix.ends[i]);
                let (from, to) = (start(from), start(to));
                let corners = [(from, row as f64 + 0.08), (to, row as f64 + 0.92)];
                let style = scale.color(rate).filled();
                drawn(chart.draw_series([Rectangle::new(corners, style)]))?;
            }
        }
        let label = text(TEXT, HPos::Right, VPos::Center);
        for (place, row) in matrix.rows.iter().enumerate() {
            let (x, y) = chart.backend_coord(&(0.0, place as f64 + 0.5));
            let (left, top) = area.get_base_pixel();
            let place = (x - left - 8, y - top);
            drawn(area.draw(&Text::new(self.label(row), place, label.clone())))?;
        }
        if matrix.rows.is_empty() {
            let middle = (WIDTH as i32 / 2, self.heat_height() as i32 / 2);
            let style = text(TITLE, HPos::Center, VPos::Center);
            return drawn(area.draw(&Text::new("no accesses", middle, style)));
        }
        scale.draw(area, 46 + 18 * self.notes.len() as i32)
    }

    fn draw_bars<B: DrawingBackend>(&self, area: &Area<B>) -> Result<()> {
        let devices = &self.matrix.devices;
        let title = text(TITLE, HPos::Left, VPos::Top);
        drawn(area.draw(&Text::new("Accesses by device", (14, 6), title)))?;
        if devices.is_empty() {
            let style = text(TEXT, HPos::Left, VPos::Top);
            return drawn(area.draw(&Text::new("no accesses", (14, 36), style)));
        }
        let total: u64 = devices.iter().map(|(_, counts)| counts.count).sum();
        let most = devices
            .iter()
            .map(|(_, counts)| counts.count)
            .max()
            .unwrap_or(1);
        let mut chart = drawn(
            ChartBuilder::on(area)
                .margin_top(44)
                .margin_right(RIGHT)
                .set_label_area_size(LabelAreaPosition::Left, self.left())
                .set_label_area_size(LabelAreaPosition::Bottom, 46)
                .build_cartesian_2d(0.0..most as f64 * 1.02, devices.len().max(1) as f64..0.0),
        )?;
        drawn(
            chart
                .configure_mesh()
                .disable_y_mesh()
                .light_line_style(WHITE)
                .bold_line_style(NOTHING)
                .x_labels(8)
                .y_labels(0)
                .x_desc("accesses")
                .x_label_formatter(&|count| grouped(*count as u64))
                .x_label_style(("sans-serif", TEXT))
                .axis_desc_style(("sans-serif", TEXT))
                .draw(),
        )?;
        let (left, top) = area.get_base_pixel();
        for (place, (name, counts)) in devices.iter().enumerate() {
            let (low, high) = (place as f64 + 0.15, place as f64 + 0.85);
            let mut from = 0.0;
            for (count, color, _) in parts(counts) {
                let to = from + count as f64;
                let bar = Rectangle::new([(from, low), (to, high)], color.filled());
                drawn(chart.draw_series([bar]))?;
                from = to;
            }
            let middle = place as f64 + 0.5;
            let at = |x| {
                let (x, y) = chart.backend_coord(&(x, middle));
                (x - left, y - top)
            };
            let ((zero, y), (end, _)) = (at(0.0), at(from));
            let share = counts.count as f64 / total.max(1) as f64 * 100.0;
            let count = format!("{} ({share:.1} %)", grouped(counts.count));
            let style = text(TEXT, HPos::Right, VPos::Center);
            drawn(area.draw(&Text::new(short(name, 60), (zero - 8, y), style)))?;
            let style = text(TEXT, HPos::Left, VPos::Center);
            drawn(area.draw(&Text::new(count, (end + 6, y), style)))?;
        }
        let mut x = self.left() as i32;
        for (_, color, name) in parts(&Counts::default()) {
            let style = text(TEXT, HPos::Left, VPos::Center);
            let (width, _) = drawn(style.font.box_size(name))?;
            drawn(area.draw(&Rectangle::new([(x, 28), (x + 12, 40)], color.filled())))?;
            drawn(area.draw(&Text::new(name, (x + 18, 34), style)))?;
            x += width as i32 + 46;
        }
        Ok(())
    }
}

/// What the accesses to a device are made of, with colour and legend.
fn parts(counts: &Counts) -> [(u64, RGBColor, &'static str); 2] {
    [
        (counts.kernel, KERNEL, "done in the kernel"),
        (counts.userspace, USERSPACE, "exit to userspace"),
    ]
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

/// Rates as colours, on a logarithmic scale over powers of ten.
struct Scale {
    low: f64,
    high: f64,
}

impl Scale {
    fn of(matrix: &Matrix) -> Self {
        let rates = || {
            matrix
                .cells
                .iter()
                .flatten()
                .copied()
                .filter(|rate| *rate > 0.0)
        };
        let low = rates().fold(f64::INFINITY, f64::min);
        let high = rates().fold(0.0, f64::max);
        if high == 0.0 {
            return Self {
                low: 0.0,
                high: 1.0,
            };
        }
        let low = low.log10().floor();
        Self {
            low,
            high: high.log10().ceil().max(low + 1.0),
        }
    }

    fn color(&self, rate: f64) -> RGBColor {
        if rate <= 0.0 {
            return NOTHING;
        }
        let place = (rate.log10() - self.low) / (self.high - self.low);
        // From bright to dark, as the paper is bright.
        let color = ViridisRGB.get_color(1.0 - place as f32);
        let (r, g, b) = color.rgb();
        RGBColor(r, g, b)
    }

    /// The legend, to the right of the rows.
    fn draw<B: DrawingBackend>(&self, area: &Area<B>, top: i32) -> Result<()> {
        const STEPS: i32 = 64;
        let (x, height) = (WIDTH as i32 - RIGHT as i32 + 30, 96);
        let title = text(TEXT, HPos::Left, VPos::Bottom);
        drawn(area.draw(&Text::new("accesses/s", (x, top - 6), title)))?;
        let y = |exponent: f64| {
            let place = (exponent - self.low) / (self.high - self.low);
            top + height - (place * f64::from(height)) as i32
        };
        for step in 0..STEPS {
            let exponent =
                |step| self.low + f64::from(step) / f64::from(STEPS) * (self.high - self.low);
            let color = self.color(10f64.powf((exponent(step) + exponent(step + 1)) / 2.0));
            let corners = [(x, y(exponent(step + 1))), (x + 18, y(exponent(step)))];
            drawn(area.draw(&Rectangle::new(corners, color.filled())))?;
        }
        // Every decade, or as many as have room.
        let skip = ((self.high - self.low) / 6.0).ceil().max(1.0) as usize;
        for exponent in (self.low as i32..=self.high as i32).step_by(skip) {
            let style = text(TEXT, HPos::Left, VPos::Center);
            let place = (x + 24, y(exponent.into()));
            drawn(area.draw(&Text::new(power_of_ten(exponent), place, style)))?;
        }
        let bottom = top + height + 10;
        drawn(area.draw(&Rectangle::new(
            [(x, bottom), (x + 18, bottom + 12)],
            NOTHING.filled(),
        )))?;
        let style = text(TEXT, HPos::Left, VPos::Center);
        drawn(area.draw(&Text::new("none", (x + 24, bottom + 6), style)))
    }
}

fn power_of_ten(exponent: i32) -> String {
    match exponent {
        0.. => grouped(10u64.saturating_pow(exponent as u32)),
        _ => format!(
            "{:.*}",
            exponent.unsigned_abs() as usize,
            10f64.powi(exponent)
        ),
    }
}

/// A number with a thin gap between its thousands.
fn grouped(number: u64) -> String {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::device::sample;
    use crate::plot::{Collector, png, svg};
    use crate::region::{Given, Names, Owner, Region, Source};
    use crate::view::Filter;

    fn matrix(steps: u64) -> Matrix {
        let region = Region {
            name: "<doorbell> & \"friends\"".to_owned(),
            start: 0xfe00_3000,
            last: 0xfe00_3fff,
            source: Source::User,
        };
        let owner = Owner::Process(4711);
        let given = vec![Given { owner, region }];
        let names = Names::new(given, [(4711, "web".to_owned())].into());
        let mut collector = Collector::new(Filter::default());
        for step in 0..steps {
            let mut grown = sample::two_vms();
            for vcpu in grown.vms.values_mut().flat_map(|vm| vm.vcpus.values_mut()) {
                for counts in vcpu.pages.values_mut().map(|page| &mut page.counts) {
                    for count in [&mut counts.count, &mut counts.kernel, &mut counts.userspace] {
                        *count *= step % 17;
                    }
                }
            }
            collector.add(&grown, Duration::from_millis(100));
        }
        collector.matrix(&names, 3)
    }

    fn picture(matrix: &Matrix) -> Picture<'_> {
        Picture {
            matrix,
            title: "MMIO".to_owned(),
            notes: vec!["a note".to_owned()],
        }
    }

    #[test]
    fn an_svg_says_what_it_shows() {
        let matrix = matrix(60);
        let text = String::from_utf8(svg(&picture(&matrix)).unwrap()).unwrap();
        let document = roxmltree::Document::parse(&text).unwrap();
        let words: Vec<&str> = document
            .descendants()
            .filter(|node| node.has_tag_name("text"))
            .filter_map(|node| node.text())
            .map(str::trim)
            .collect();
        for word in [
            "MMIO",
            "a note",
            "accesses/s",
            "none",
            "time since the start of the recording, seconds",
            "VM 1  web  <doorbell> & \"friends\"  0xfe003000",
            "VM 2  HPET  0xfed00000",
            "web [4711]: local APIC",
            "PID 4712: HPET",
            "accesses",
            "exit to userspace",
        ] {
            assert!(words.contains(&word), "no {word:?} in {words:?}");
        }
    }

    #[test]
    fn a_png_has_the_size_and_the_colours() {
        let matrix = matrix(60);
        let picture = picture(&matrix);
        let file = png(&picture).unwrap();
        let mut reader = png::Decoder::new(file.as_slice()).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height), picture.size());
        for RGBColor(r, g, b) in [KERNEL, USERSPACE, NOTHING, BLACK] {
            assert!(
                pixels.chunks(3).any(|pixel| pixel == [r, g, b]),
                "no {r} {g} {b}"
            );
        }
    }

    #[test]
    fn an_empty_recording_has_a_picture_too() {
        let matrix = Collector::default().matrix(&Names::default(), 3);
        let text = String::from_utf8(svg(&picture(&matrix)).unwrap()).unwrap();
        assert_eq!(text.matches("no accesses").count(), 2);
        assert!(!text.contains("exit to userspace"));
        png(&picture(&matrix)).unwrap();
    }

    #[test]
    fn numbers() {
        assert_eq!(grouped(1234567), "1\u{202f}234\u{202f}567");
        assert_eq!(power_of_ten(-2), "0.01");
        assert_eq!(power_of_ten(3), "1\u{202f}000");
        assert_eq!(short("abcdef", 4), "abc…");
    }
}
