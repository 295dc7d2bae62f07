// SPDX-License-Identifier: GPL-2.0
//! The screen of `top`: a strip with a cell for each page, and a table.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style};
use ratatui::text::{Line as TextLine, Span};
use ratatui::widgets::{Block, Clear, Paragraph};

use super::app::App;
use super::heading::heading;
use super::level::{Level, Line};
use super::table::table;

/// From nothing to the most, for terminals with and without colours.
const BARS: [char; 9] = ['·', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const COLORS: [u8; 9] = [238, 19, 26, 31, 37, 71, 178, 208, 196];

pub const KEYS: &[(&str, &str)] = &[
    ("c", "clear all filters"),
    ("f", "filter by the name of the page"),
    ("g", "filter by VM"),
    ("h", "this help"),
    (
        "o",
        "next order: accesses, reads, writes, kernel, userspace, time, page",
    ),
    ("p", "filter by process"),
    ("q", "quit"),
    ("r", "reset the totals"),
    ("s", "set the interval"),
    ("v", "filter by vCPU"),
    ("x", "a row for each vCPU, or for all together"),
    (
        "↑ ↓",
        "choose a line, also k and j, PgUp and PgDn, Home and End",
    ),
    (
        "Enter",
        "look into it: a VM's pages, a page's vCPUs and instructions",
    ),
    ("Esc", "back; from where it began: quit"),
    ("Tab", "all VMs, or the pages of all"),
];

pub fn draw(frame: &mut Frame, app: &mut App) {
    let lines = app.lines();
    let [head, strip, body, foot] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(3),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(heading(app, &lines), head);
    frame.render_widget(Paragraph::new(heat_strip(app, &lines, strip)), strip);
    let room = usize::from(body.height.saturating_sub(1));
    let from = app.scroll(&lines, room.max(1));
    frame.render_widget(table(app, &lines, from, body.width), body);
    frame.render_widget(footer(app, foot.width), foot);
    if app.help {
        help(frame);
    }
}

/// How much of the most, on a logarithmic scale: 0 for nothing, otherwise 1 to 8.
fn level(count: u64, most: u64) -> usize {
    if count == 0 {
        return 0;
    }
    let share = ((count + 1) as f64).ln() / ((most + 1) as f64).ln();
    ((share * 8.0).ceil() as usize).clamp(1, 8)
}

fn cell(app: &App, level: usize) -> Span<'static> {
    if app.color {
        return Span::styled("█", Style::new().fg(Color::Indexed(COLORS[level])));
    }
    Span::raw(BARS[level].to_string())
}

/// A cell for each line in the order of VMs and addresses, and what the cells mean.
fn heat_strip(app: &App, lines: &[Line], area: Rect) -> Vec<TextLine<'static>> {
    let (what, is_by_vm) = match app.level() {
        Level::Vms => ("VMs by number", false),
        Level::Pages(_) => ("pages by address", true),
        Level::Page(_) => ("vCPUs by number", false),
    };
    let mut parts: Vec<_> = lines
        .iter()
        .filter(|line| !line.is_once_more())
        .map(|line| (line.id, line.vm, line.now.count))
        .collect();
    parts.sort_unstable();
    let most = parts.iter().map(|part| part.2).max().unwrap_or(0);
    let (mut cells, mut before) = (Vec::new(), None);
    for (_, vm, count) in parts {
        if is_by_vm && before.is_some_and(|before| before != vm) {
            cells.push(Span::raw(" "));
        }
        before = Some(vm);
        cells.push(cell(app, level(count, most)));
    }
    let width = usize::from(area.width);
    if cells.len() > width {
        cells.truncate(width.saturating_sub(1));
        cells.push(Span::raw("…"));
    }
    let mut legend = vec![Span::raw(format!("{what}; accesses/s: none "))];
    legend.extend((0..=8).map(|level| cell(app, level)));
    legend.push(Span::raw(format!(" {:.0}", most as f64 / app.seconds())));
    vec![
        TextLine::from(cells),
        TextLine::from(legend),
        TextLine::default(),
    ]
}

/// What keys do here, as far as there is room.
fn keys(app: &App, width: u16) -> String {
    let enter = match app.level() {
        Level::Vms => "Enter its pages",
        Level::Pages(_) => "Enter who accesses it",
        Level::Page(_) => "",
    };
    let escape = if app.is_deep() { "Esc back" } else { "" };
    let tab = match app.level() {
        Level::Vms => "Tab all pages",
        _ => "Tab all VMs",
    };
    let rest = [
        "f name", "o order", "x vCPUs", "g VM", "p PID", "v vCPU", "r reset",
    ];
    let first = ["h help", "q quit", "↑↓ choose", enter, escape, tab];
    let mut text = String::new();
    for key in first.into_iter().chain(rest).filter(|key| !key.is_empty()) {
        let more = if text.is_empty() {
            key.to_owned()
        } else {
            format!("{text}  {key}")
        };
        if more.chars().count() > width.into() {
            break;
        }
        text = more;
    }
    text
}

fn footer(app: &App, width: u16) -> Paragraph<'static> {
    let Some(prompt) = &app.prompt else {
        return Paragraph::new(keys(app, width));
    };
    let error = prompt
        .error
        .as_ref()
        .map_or_else(String::new, |error| format!(" [{error}]"));
    let error = error.replace('\n', " ");
    Paragraph::new(format!("{}{error}: {}▏", prompt.what.text(), prompt.text))
}

fn help(frame: &mut Frame) {
    let area = frame.area();
    let (width, height) = (76.min(area.width), (KEYS.len() as u16 + 2).min(area.height));
    let area = Rect {
        x: (area.width - width) / 2,
        y: (area.height - height) / 2,
        width,
        height,
    };
    let lines = KEYS
        .iter()
        .map(|(key, text)| TextLine::from(format!(" {key:6}{text}")));
    let block = Block::bordered().title(" keys; any key goes on ");
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()).block(block), area);
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

    use super::*;
    use crate::command::top::app::Action;
    use crate::device::System;
    use crate::device::sample;
    use crate::reading::Reading;
    use crate::region::{Given, Names, Owner, Region, Source};
    use crate::view::View;

    pub fn app() -> App {
        app_of(&sample::two_vms())
    }

    /// Two seconds in which everything has doubled.
    pub fn app_of(reading: &Reading) -> App {
        let mut app = App::new(
            Names::default(),
            View::default(),
            Duration::from_secs(2),
            false,
        );
        let system = System::at("/nonexistent");
        app.update(reading.clone(), &system);
        let mut later = reading.clone();
        later.add(reading);
        later.clock.boottime += 2_000_000_000;
        app.update(later, &system);
        app
    }

    pub fn screen_of(app: &mut App, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, app)).unwrap();
        let buffer = terminal.backend().buffer();
        let line = |y| {
            (0..width)
                .map(|x| buffer[(x, y)].symbol())
                .collect::<String>()
        };
        (0..height).map(|y| line(y).trim_end().to_owned()).collect()
    }

    pub fn type_in(app: &mut App, keys: &str) -> Action {
        let code = |c| match c {
            '\n' => KeyCode::Enter,
            '\t' => KeyCode::Tab,
            '\u{1b}' => KeyCode::Esc,
            c => KeyCode::Char(c),
        };
        let press = |c| KeyEvent::new(code(c), KeyModifiers::NONE);
        keys.chars().map(|c| app.key(press(c))).last().unwrap()
    }

    #[test]
    fn the_whole_screen() {
        let screen = screen_of(&mut app(), 160, 12);
        let top = [
            "kvm-mmio top: 1 VM, 4 pages, 5331 accesses/s; every 2.0 s, by accesses",
            "3 accesses of no page",
            "█▃▆ ▄",
            "pages by address; accesses/s: none ·▁▂▃▄▅▆▇█ 5000",
            "",
        ];
        assert_eq!(screen[..5], top);
        let table = [
            "  VM      PID process page name total acc/s % reads/s writes/s kernel/s user/s last",
            "   1     4711 - 0xfe003000 0xfe003000 10000 5000 93.8 0 5000 5000 0 write 4 (1 bit)",
        ];
        for (line, wanted) in screen[5..].iter().zip(table) {
            let words = |line: &str| {
                line.split_whitespace()
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            };
            assert_eq!(words(line), words(wanted));
        }
        assert!(screen[11].starts_with("h help  q quit"));
    }

    #[test]
    fn keys_change_what_is_shown() {
        let mut app = app();
        assert_eq!(type_in(&mut app, "g2\n"), Action::None);
        let screen = screen_of(&mut app, 140, 12);
        assert!(screen[0].contains("1 page"), "{screen:?}");
        assert!(screen[1].contains("only VM 2"));
        assert!(screen[6].contains("HPET"));
        type_in(&mut app, "cfAPIC|HPET\n");
        assert!(screen_of(&mut app, 140, 12)[0].contains("2 pages"));
        type_in(&mut app, "cxv1\n");
        let screen = screen_of(&mut app, 140, 12);
        assert!(screen[5].contains("vCPU"));
        assert!(screen[0].contains("1 page") && screen[1].contains("only vCPU 1"));
        type_in(&mut app, "cxoooooo");
        let screen = screen_of(&mut app, 140, 12);
        assert!(screen[0].contains("by page"));
        assert!(
            screen[6].contains("0xfe003000") && screen[9].contains("0xfed00000"),
            "{screen:?}"
        );
    }

    #[test]
    fn answers_that_make_no_sense_are_refused() {
        let mut app = app();
        type_in(&mut app, "s99\n");
        assert!(screen_of(&mut app, 100, 12)[11].contains("[not between 0.1 and 25.5]"));
        assert_eq!(type_in(&mut app, "\u{1b}s0.5\n"), Action::Restart);
        assert_eq!(app.interval, Duration::from_millis(500));
        type_in(&mut app, "f(\n");
        assert!(app.prompt.is_some());
        type_in(&mut app, "\u{1b}gx\n");
        assert!(screen_of(&mut app, 100, 12)[11].contains("\"x\" is no number"));
    }

    #[test]
    fn reset_help_and_quit() {
        let mut app = app();
        type_in(&mut app, "r");
        assert!(screen_of(&mut app, 140, 12)[0].contains("0 pages"));
        type_in(&mut app, "h");
        let screen = screen_of(&mut app, 80, 24);
        for (_, text) in KEYS {
            assert!(screen.iter().any(|line| line.contains(text)), "{text}");
        }
        assert_eq!(type_in(&mut app, "qq"), Action::Quit);
    }

    #[test]
    fn a_narrow_terminal_shows_what_matters() {
        let mut app = app();
        for (width, titles) in [
            (
                160,
                "VM PID process page name total acc/s % reads/s writes/s kernel/s user/s last",
            ),
            (
                120,
                "VM PID process page name total acc/s % kernel/s user/s",
            ),
            (100, "VM PID process page name total acc/s %"),
            (80, "VM PID page name total acc/s %"),
            (60, "VM page name acc/s"),
            (30, "page acc/s"),
            (14, "page"),
        ] {
            let screen = screen_of(&mut app, width, 12);
            let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
            assert_eq!(words(&screen[5]), titles, "{width} columns");
            // Nothing of it is cut off.
            assert!(screen[6].contains("0xfe003000"), "{screen:?}");
            if titles.contains("name") {
                assert!(screen[7].contains("local APIC"), "{screen:?}");
            }
        }
        type_in(&mut app, "x");
        assert!(screen_of(&mut app, 80, 12)[5].contains("VM vCPU"));
    }

    #[test]
    fn what_is_cut_off_ends_in_dots() {
        let region = Region {
            name: "virtio-pci-notify-virtio-net".to_owned(),
            start: 0xfe00_3000,
            last: 0xfe00_3fff,
            source: Source::Qemu,
        };
        let owner = Owner::Process(4711);
        let given = vec![Given { owner, region }];
        let mut app = app();
        let processes = [(4711, "a-rather-long-name"), (4712, "another-long-name")];
        let processes = processes.map(|(process, name)| (process, name.to_owned()));
        app.names = Names::new(given, processes.into());
        let screen = screen_of(&mut app, 100, 12);
        assert!(screen[6].contains(" a-rather-long-n… "), "{screen:?}");
        assert!(screen[8].contains(" another… (ended) "), "{screen:?}");
        assert!(
            screen[6].contains(" virtio-pci-notify-virtio… "),
            "{screen:?}"
        );
        assert!(screen_of(&mut app, 120, 12)[6].contains(" virtio-pci-notify-virtio… "));
        assert!(screen_of(&mut app, 170, 12)[6].contains("notify-virtio-net "));
    }

    #[test]
    fn shares_are_of_all_pages() {
        let mut app = app();
        screen_of(&mut app, 120, 9);
        // What is chosen is shown, whatever that takes.
        type_in(&mut app, "jj");
        let screen = screen_of(&mut app, 120, 9);
        assert!(screen[6].contains("local APIC") && screen[6].contains(" 5.6 "));
    }

    #[test]
    fn no_terminal_is_too_small() {
        for (width, height) in [(1, 1), (10, 3), (40, 5), (300, 2), (2, 60)] {
            let mut app = app();
            screen_of(&mut app, width, height);
            type_in(&mut app, "h");
            screen_of(&mut app, width, height);
        }
    }

    #[test]
    fn colours() {
        let mut app = app();
        app.color = true;
        let mut terminal = Terminal::new(TestBackend::new(100, 12)).unwrap();
        terminal.draw(|frame| draw(frame, &mut app)).unwrap();
        let buffer = terminal.backend().buffer();
        assert_eq!(buffer[(0, 2)].fg, Color::Indexed(COLORS[8]));
    }
}
