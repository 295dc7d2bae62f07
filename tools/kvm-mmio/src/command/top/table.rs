// SPDX-License-Identifier: GPL-2.0
//! The table of `top`.

use ratatui::layout::Constraint;
use ratatui::style::{Modifier, Style};
use ratatui::text::Line as TextLine;
use ratatui::widgets::{Cell, Row, Table};

use super::app::App;
use super::level::{Id, Level, Line, accesses};
use crate::output;
use crate::words;

/// A column of the table. What does not fit is left out, the highest `rank` first.
struct Column {
    title: &'static str,
    /// The least, for the one that takes what is left.
    width: u16,
    rank: u8,
    left: bool,
    text: Text,
}

/// What a column says of a line.
type Text = fn(&Line, &Scale) -> String;

/// What makes rates and shares of the counts of an interval.
struct Scale {
    seconds: f64,
    all: u64,
}

impl Scale {
    fn rate(&self, count: u64) -> String {
        format!("{:.0}", count as f64 / self.seconds)
    }

    fn percent(&self, count: u64) -> String {
        format!("{:.1}", count as f64 / self.all.max(1) as f64 * 100.0)
    }
}

const PROCESS: &str = "process";
const NAME: &str = "name";
const SYMBOL: &str = "symbol";
const VCPU: &str = "vCPU";

/// Those of VMs.
const VMS: &[Column] = &[
    column("VM", 4, 0, |line, _| line.vm.to_string()),
    column("PID", 8, 6, |line, _| line.tgid.to_string()),
    text_column(PROCESS, 16, 2, |line, _| {
        output::process(&line.process, line.ended)
    }),
    column("pages", 6, 7, |line, _| line.pages.to_string()),
];

/// Those of pages. In an ordinary terminal of 80 columns all up to rank 6 have room.
const PAGES: &[Column] = &[
    column("VM", 4, 3, |line, _| line.vm.to_string()),
    column("PID", 8, 6, |line, _| line.tgid.to_string()),
    text_column(PROCESS, 16, 7, |line, _| {
        output::process(&line.process, line.ended)
    }),
    column(VCPU, 4, 2, |line, _| vcpu(line)),
    column("page", 14, 0, |line, _| match line.id {
        Id::Page(page) => format!("{:#x}", page.gpa),
        _ => String::new(),
    }),
    text_column(NAME, 20, 2, |line, _| line.name.clone()),
];

/// Those of what accesses a page.
const ACCESSORS: &[Column] = &[
    column(VCPU, 4, 0, |line, _| vcpu(line)),
    column("instruction", 18, 0, |line, _| match line.id {
        Id::Instruction(Some(rip)) => format!("{rip:#x}"),
        Id::Instruction(None) => "others".to_owned(),
        _ => String::new(),
    }),
    text_column(SYMBOL, 20, 2, |line, _| line.name.clone()),
];

/// Those of all.
const COUNTS: &[Column] = &[
    column("total", 11, 4, |line, _| line.total.count.to_string()),
    column("acc/s", 9, 1, |line, scale| scale.rate(line.now.count)),
    column("%", 6, 5, |line, scale| scale.percent(line.now.count)),
    column("reads/s", 9, 10, |line, scale| scale.rate(line.now.reads)),
    column("writes/s", 9, 10, |line, scale| scale.rate(line.now.writes)),
    column("kernel/s", 9, 9, |line, scale| scale.rate(line.now.kernel)),
    column("user/s", 9, 8, |line, scale| scale.rate(line.now.userspace)),
];

/// That of pages at the end.
const LAST: &[Column] = &[text_column("last", 18, 11, |line, _| {
    output::last(&line.last)
})];

fn vcpu(line: &Line) -> String {
    let vcpu = match line.id {
        Id::Page(page) => page.vcpu,
        Id::Vcpu(vcpu) => Some(vcpu),
        _ => None,
    };
    vcpu.map_or_else(String::new, |vcpu| vcpu.to_string())
}

/// One with numbers.
const fn column(title: &'static str, width: u16, rank: u8, text: Text) -> Column {
    Column {
        title,
        width,
        rank,
        left: false,
        text,
    }
}

/// One with words.
const fn text_column(title: &'static str, width: u16, rank: u8, text: Text) -> Column {
    Column {
        left: true,
        ..column(title, width, rank, text)
    }
}

/// All of a level, and which of them takes the room that is left.
fn all_columns(level: Level, per_vcpu: bool) -> (Vec<&'static Column>, &'static str) {
    let (first, last, widest): (_, &[Column], _) = match level {
        Level::Vms => (VMS, &[], PROCESS),
        Level::Pages(_) => (PAGES, LAST, NAME),
        Level::Page(_) => (ACCESSORS, &[], SYMBOL),
    };
    let all = first.iter().chain(COUNTS).chain(last);
    let is_empty = |column: &Column| column.title == VCPU && widest == NAME && !per_vcpu;
    (all.filter(|column| !is_empty(column)).collect(), widest)
}

/// Those that fit into `width`, in their order.
fn fitting(all: Vec<&'static Column>, width: u16) -> Vec<&'static Column> {
    let fits = |rank| {
        let shown = all.iter().filter(|column| column.rank <= rank);
        // A blank between two.
        shown.map(|column| column.width + 1).sum::<u16>() <= width + 1
    };
    let rank = (1..=u8::MAX).take_while(|&rank| fits(rank)).last();
    let rank = rank.unwrap_or(0);
    all.into_iter()
        .filter(|column| column.rank <= rank)
        .collect()
}

/// A row for each line from the first that is shown, with the columns that fit into `width`.
pub fn table<'a>(app: &App, lines: &'a [Line], from: usize, width: u16) -> Table<'a> {
    let (all, widest) = all_columns(app.level(), app.view.per_vcpu);
    let columns = fitting(all, width);
    let scale = Scale {
        seconds: app.seconds(),
        all: accesses(lines),
    };
    let others = columns.iter().filter(|column| column.title != widest);
    let others: u16 = others.map(|column| column.width + 1).sum();
    let cell = move |column: &Column, text: String| {
        let room = match column.title == widest {
            true => width.saturating_sub(others),
            false => column.width,
        };
        let short = match column.title {
            PROCESS => output::short_process,
            _ => words::short,
        };
        let line = TextLine::from(short(&text, room.into()));
        Cell::from(if column.left {
            line
        } else {
            line.right_aligned()
        })
    };
    let titles = columns
        .iter()
        .map(|column| cell(column, column.title.to_owned()));
    let header = Row::new(titles.collect::<Vec<_>>()).style(HEADER);
    let widths: Vec<_> = columns
        .iter()
        .map(|column| match column.title == widest {
            true => Constraint::Fill(1),
            false => Constraint::Length(column.width),
        })
        .collect();
    let chosen = app.chosen(lines) - from;
    let rows = lines[from..].iter().enumerate().map(move |(place, line)| {
        let cells = columns
            .iter()
            .map(|column| cell(column, (column.text)(line, &scale)));
        let style = if place == chosen {
            CHOSEN
        } else {
            Style::new()
        };
        Row::new(cells.collect::<Vec<_>>()).style(style)
    });
    Table::new(rows, widths).header(header)
}

const HEADER: Style = Style::new().add_modifier(Modifier::BOLD.union(Modifier::UNDERLINED));
const CHOSEN: Style = Style::new().add_modifier(Modifier::REVERSED);
