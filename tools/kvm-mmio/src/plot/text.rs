// SPDX-License-Identifier: GPL-2.0
//! Text of a picture: how it looks, and how much of it has room.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Pixels from the lowest to the highest point; SVG has 11.3 pixels of this. An even number: of odd
/// sizes, plotters sets glyphs on different lines in PNG.
pub const TEXT: u32 = 14;
pub const TITLE: u32 = 18;

/// From one line to the next.
pub const LINE: u32 = 18;

pub fn style<'a>(size: u32, horizontal: HPos, vertical: VPos) -> TextStyle<'a> {
    ("sans-serif", size)
        .into_font()
        .color(&BLACK)
        .pos(Pos::new(horizontal, vertical))
}

/// Pixels of a text of the usual size; more than it has, if the font cannot tell.
pub fn width(text: &str) -> u32 {
    let font = ("sans-serif", TEXT).into_font();
    let wide = TEXT * text.chars().count() as u32;
    font.box_size(text).map_or(wide, |(width, _)| width)
}

/// As much of a text as has room, with an ellipsis if that is not all.
pub fn fit(text: &str, room: u32) -> String {
    if width(text) <= room {
        return text.to_owned();
    }
    let ends = text.char_indices().map(|(end, _)| end);
    let mut parts = ends.rev().map(|end| format!("{}…", text[..end].trim_end()));
    parts.find(|part| width(part) <= room).unwrap_or_default()
}

/// A text in lines that have room, broken between words.
pub fn wrap(text: &str, room: u32) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let longer = lines.last().map(|line| format!("{line} {word}"));
        match longer.filter(|line| width(line) <= room) {
            Some(longer) => *lines.last_mut().expect("it has a last one") = longer,
            None => lines.push(fit(word, room)),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plot::use_own_font;

    #[test]
    fn what_has_no_room_has_an_ellipsis() {
        use_own_font().unwrap();
        let room = width("virtio-net…");
        assert_eq!(fit("virtio", room), "virtio");
        assert_eq!(fit("virtio-network", room), "virtio-net…");
        assert_eq!(fit("virtio", 1), "");
    }

    #[test]
    fn lines_are_broken_between_words() {
        use_own_font().unwrap();
        let room = width("one two three");
        assert_eq!(wrap("one two three four", room), ["one two three", "four"]);
        let long = wrap("a incomprehensibilities b", room);
        assert_eq!((long.len(), long[1].ends_with('…')), (3, true), "{long:?}");
        assert!(wrap("", room).is_empty());
    }
}
