// SPDX-License-Identifier: GPL-2.0
//! The picture: what it is of, a row of heat for each page over time, a bar for each device.

use anyhow::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::canvas::{Area, MARGIN, WIDTH, drawn};
use super::scale::Scale;
use super::text::{LINE, TEXT, TITLE, fit, style, width, wrap};
use super::{Matrix, bars, heat, scale};
use crate::output;

/// Room for the names of rows and bars.
const NAMES: u32 = 360;
/// Above the first note: the title.
const TITLE_HEIGHT: u32 = 38;

pub struct Picture<'a> {
    pub matrix: &'a Matrix,
    /// Above all.
    pub title: String,
    /// Below the title: what one has to know.
    pub notes: Vec<String>,
}

impl Picture<'_> {
    pub fn size(&self) -> (u32, u32) {
        (WIDTH, self.heat_height() + bars::height(self.matrix) + 12)
    }

    /// The notes in lines.
    fn lines(&self) -> Vec<String> {
        let notes = self.notes.iter();
        notes
            .flat_map(|note| wrap(note, WIDTH - 2 * MARGIN))
            .collect()
    }

    /// Where the legend is, below the notes.
    fn legend(&self) -> u32 {
        TITLE_HEIGHT + LINE * self.lines().len() as u32 + 8
    }

    fn heat_height(&self) -> u32 {
        self.legend() + scale::HEIGHT + heat::height(self.matrix)
    }

    pub fn draw<B: DrawingBackend>(&self, area: &Area<B>) -> Result<()> {
        drawn(area.fill(&WHITE))?;
        let (top, bottom) = area.split_vertically(self.heat_height());
        self.draw_notes(&top)?;
        if self.matrix.rows.is_empty() {
            self.draw_nothing(&top)?;
        } else {
            Scale::of(self.matrix).draw(&top, self.legend() as i32)?;
        }
        let rows = (self.left(), self.legend() + scale::HEIGHT);
        heat::draw(self.matrix, &top, rows, NAMES)?;
        bars::draw(self.matrix, &bottom, self.left(), NAMES)?;
        drawn(area.present())
    }

    /// Room for the longest name, beside the axis.
    fn left(&self) -> u32 {
        let rows = self.matrix.rows.iter().map(|row| heat::label(row, NAMES));
        let devices = self.matrix.devices.iter().map(|(name, _)| fit(name, NAMES));
        let widest = rows.chain(devices).map(|label| width(&label)).max();
        widest.unwrap_or(0).max(100) + 16
    }

    fn draw_notes<B: DrawingBackend>(&self, area: &Area<B>) -> Result<()> {
        let title = style(TITLE, HPos::Left, VPos::Top);
        drawn(area.draw(&Text::new(self.title.as_str(), (MARGIN as i32, 12), title)))?;
        for (text, y) in self
            .lines()
            .into_iter()
            .zip((TITLE_HEIGHT..).step_by(LINE as usize))
        {
            let note = style(TEXT, HPos::Left, VPos::Top);
            drawn(area.draw(&Text::new(text, (MARGIN as i32, y as i32), note)))?;
        }
        Ok(())
    }

    /// In place of rows.
    fn draw_nothing<B: DrawingBackend>(&self, area: &Area<B>) -> Result<()> {
        let why = output::nothing(self.matrix.unmatched.as_deref());
        let label = style(TEXT, HPos::Left, VPos::Center);
        let y = (self.legend() + scale::HEIGHT / 2) as i32;
        let why = fit(&why, WIDTH - 2 * MARGIN);
        drawn(area.draw(&Text::new(why, (MARGIN as i32, y), label)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::device::sample;
    use crate::plot::canvas::{KERNEL, NOTHING, USERSPACE, grouped};
    use crate::plot::{Collector, png, svg};
    use crate::reading::Vm;
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
            "accesses/s:",
            "none",
            "time since the start of the recording, seconds",
            "VM 1: web [4711]",
            "<doorbell> & \"friends\"  0xfe003000",
            "VM 2: PID 4712",
            "HPET  0xfed00000",
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
    }

    /// VMs with long names, each with three devices.
    fn many(vms: u64) -> Matrix {
        let one = sample::two_vms().vms[&1].clone();
        let mut reading = sample::two_vms();
        reading.vms.clear();
        let name = "a-virtual-machine-with-a-long-name-as-they-are-made-by-machines";
        let mut processes = std::collections::BTreeMap::new();
        for vm in 1..=vms {
            let tgid = 1_000_000 + vm as u32;
            reading.vms.insert(
                vm,
                Vm {
                    tgid,
                    ..one.clone()
                },
            );
            processes.insert(tgid, format!("{name}-{}", vm / 2));
        }
        let region = Region {
            name: "virtio-pci-notify-virtio-net-with-a-longer-name-than-usual".to_owned(),
            start: 0xfe00_3000,
            last: 0xfe00_3fff,
            source: Source::User,
        };
        let owner = Owner::All;
        let mut collector = Collector::new(Filter::default());
        collector.add(&reading, Duration::from_secs(86_400));
        collector.matrix(&Names::new(vec![Given { owner, region }], processes), 30)
    }

    struct Placed {
        text: String,
        /// Of the text, in pixels: from the left, and from the top.
        x: (f64, f64),
        y: (f64, f64),
        size: f64,
    }

    fn placed(node: roxmltree::Node) -> Placed {
        let number = |name| node.attribute(name).unwrap().parse::<f64>().unwrap();
        let text = node.text().unwrap().trim().to_owned();
        let (x, y, size) = (number("x"), number("y"), number("font-size"));
        // The font is measured by its height.
        let font = ("sans-serif", size * 1.24).into_font();
        let wide = f64::from(font.box_size(&text).unwrap().0);
        let left = match node.attribute("text-anchor").unwrap() {
            "start" => x,
            "middle" => x - wide / 2.0,
            _ => x - wide,
        };
        let down = match node.attribute("dy").unwrap() {
            "0.76em" => 0.76,
            "0.5ex" => 0.25,
            _ => -0.25,
        };
        let baseline = y + down * size;
        Placed {
            text,
            x: (left, left + wide),
            y: (baseline - 0.76 * size, baseline + 0.24 * size),
            size,
        }
    }

    #[test]
    fn no_text_passes_an_edge_and_all_can_be_read() {
        for vms in [1, 2, 100] {
            let matrix = many(vms);
            let mut picture = picture(&matrix);
            picture.notes = vec!["many words ".repeat(40), "x".repeat(300)];
            let (width, height) = picture.size();
            let (width, height) = (f64::from(width), f64::from(height));
            assert!(width <= 800.0 && height <= 2200.0, "{width} x {height}");
            let text = String::from_utf8(svg(&picture).unwrap()).unwrap();
            let document = roxmltree::Document::parse(&text).unwrap();
            let texts = document
                .descendants()
                .filter(|node| node.has_tag_name("text"));
            for Placed { text, x, y, size } in texts.map(placed) {
                let told = format!("{text:?} of {vms} VMs at {x:?}, {y:?}");
                assert!(x.0 >= 0.0 && x.1 <= width, "{told}");
                assert!(y.0 >= 0.0 && y.1 <= height, "{told}");
                assert!(size >= 11.0, "{text:?} of {size}");
            }
        }
    }

    #[test]
    fn what_is_left_out_is_said() {
        let matrix = many(100);
        let text = String::from_utf8(svg(&picture(&matrix)).unwrap()).unwrap();
        assert!(
            text.contains("280 more devices with "),
            "{:?}",
            matrix.devices_hidden
        );
        assert!(text.contains("[1000001]: "));
    }
}
