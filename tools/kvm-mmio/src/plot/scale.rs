// SPDX-License-Identifier: GPL-2.0
//! Rates as colours, on a logarithmic scale over powers of ten.

use anyhow::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::Matrix;
use super::canvas::{Area, MARGIN, NOTHING, drawn, grouped};
use super::text::{TEXT, style, width};

/// Of the legend: pixels of the strip of colours, and of all with the numbers below.
const STRIP: i32 = 360;
pub const HEIGHT: u32 = 42;

pub struct Scale {
    low: f64,
    high: f64,
}

impl Scale {
    pub fn of(matrix: &Matrix) -> Self {
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

    pub fn color(&self, rate: f64) -> RGBColor {
        if rate <= 0.0 {
            return NOTHING;
        }
        let place = (rate.log10() - self.low) / (self.high - self.low);
        // From bright to dark, as the paper is bright.
        let color = ViridisRGB.get_color(1.0 - place as f32);
        let (r, g, b) = color.rgb();
        RGBColor(r, g, b)
    }

    /// The legend, in a line above the rows: none, and from few to many.
    pub fn draw<B: DrawingBackend>(&self, area: &Area<B>, top: i32) -> Result<()> {
        const STEPS: i32 = 64;
        let middle = top + 6;
        let mut x = MARGIN as i32;
        let label = style(TEXT, HPos::Left, VPos::Center);
        let swatch = |x, width| [(x, top), (x + width, top + 12)];
        drawn(area.draw(&Text::new("accesses/s:", (x, middle), label.clone())))?;
        x += width("accesses/s:") as i32 + 12;
        drawn(area.draw(&Rectangle::new(swatch(x, 18), NOTHING.filled())))?;
        drawn(area.draw(&Text::new("none", (x + 24, middle), label)))?;
        x += 24 + width("none") as i32 + 24;
        let exponent =
            |step: i32| self.low + f64::from(step) / f64::from(STEPS) * (self.high - self.low);
        for step in 0..STEPS {
            let color = self.color(10f64.powf((exponent(step) + exponent(step + 1)) / 2.0));
            let (from, to) = (STRIP * step / STEPS, STRIP * (step + 1) / STEPS);
            drawn(area.draw(&Rectangle::new(swatch(x + from, to - from), color.filled())))?;
        }
        self.draw_numbers(area, (x, top + 18))
    }

    /// Every decade, or as many as have room.
    fn draw_numbers<B: DrawingBackend>(&self, area: &Area<B>, (x, y): (i32, i32)) -> Result<()> {
        let (low, high) = (self.low as i32, self.high as i32);
        let widest = (low..=high).map(|exponent| width(&power_of_ten(exponent)));
        let room = widest.max().unwrap_or(0) as i32 + 12;
        let skip = ((high - low) * room + STRIP - 1) / STRIP;
        for exponent in (low..=high).step_by(skip.max(1) as usize) {
            let place = x + (exponent - low) * STRIP / (high - low);
            let number = style(TEXT, HPos::Center, VPos::Top);
            drawn(area.draw(&Text::new(power_of_ten(exponent), (place, y), number)))?;
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(power_of_ten(-2), "0.01");
        assert_eq!(power_of_ten(3), "1\u{202f}000");
    }
}
