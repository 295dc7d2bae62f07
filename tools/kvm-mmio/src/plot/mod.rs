// SPDX-License-Identifier: GPL-2.0
//! Pictures of a recording.

mod bars;
mod canvas;
mod draw;
mod heat;
mod matrix;
mod scale;
mod text;

use anyhow::{Context, Result, anyhow};
use plotters::backend::{BitMapBackend, SVGBackend};
use plotters::drawing::IntoDrawingArea;
use plotters::style::{FontStyle, register_font};

pub use draw::Picture;
pub use matrix::{Collector, Matrix};

/// Makes text measurable and, in PNG, drawable on a system without fonts.
fn use_own_font() -> Result<()> {
    register_font("sans-serif", FontStyle::Normal, dejavu::sans::regular())
        .map_err(|_| anyhow!("the font of this program is unusable"))
}

pub fn svg(picture: &Picture) -> Result<Vec<u8>> {
    use_own_font()?;
    let mut text = String::new();
    let area = SVGBackend::with_string(&mut text, picture.size()).into_drawing_area();
    picture.draw(&area)?;
    drop(area);
    Ok(text.into_bytes())
}

pub fn png(picture: &Picture) -> Result<Vec<u8>> {
    use_own_font()?;
    let (width, height) = picture.size();
    let mut pixels = vec![0; 3 * width as usize * height as usize];
    let area = BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area();
    picture.draw(&area)?;
    drop(area);
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().context("writing PNG")?;
    writer.write_image_data(&pixels).context("writing PNG")?;
    writer.finish().context("writing PNG")?;
    Ok(file)
}
