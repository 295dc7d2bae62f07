// SPDX-License-Identifier: GPL-2.0
//! The table of `top`.

use ratatui::layout::Constraint;
use ratatui::style::{Modifier, Style};
use ratatui::text::Line as TextLine;
use ratatui::widgets::{Cell, Row, Table};

use super::app::{App, Line};
use crate::output;

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

const NAME: &str = "name";
const VCPU: &str = "vCPU";

/// In an ordinary terminal of 80 columns all up to rank 6 have room.
const COLUMNS: &[Column] = &[
    column("VM", 4, 3, |line, _| line.row.key.vm.to_string()),
    column("PID", 8, 6, |line, _| line.row.tgid.to_string()),
    text_column("process", 16, 7, |line, _| {
        output::process(&line.row.process, line.row.ended)
    }),
    column(VCPU, 4, 2, |line, _| {
        let vcpu = line.row.key.vcpu;
        vcpu.map_or_else(String::new, |vcpu| vcpu.to_string())
    }),
    column("page", 14, 0, |line, _| format!("{:#x}", line.row.key.gpa)),
    text_column(NAME, 20, 2, |line, _| line.row.name.clone()),
    column("total", 11, 4, |line, _| line.row.counts.count.to_string()),
    column("acc/s", 9, 1, |line, scale| scale.rate(line.now.count)),
    column("%", 6, 5, |line, scale| scale.percent(line.now.count)),
    column("reads/s", 9, 10, |line, scale| scale.rate(line.now.reads)),
    column("writes/s", 9, 10, |line, scale| scale.rate(line.now.writes)),
    column("kernel/s", 9, 9, |line, scale| scale.rate(line.now.kernel)),
    column("user/s", 9, 8, |line, scale| scale.rate(line.now.userspace)),
    text_column("last", 18, 11, |line, _| output::last(&line.row.last)),
];

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

/// Those that fit into `width`, in their order.
fn columns(width: u16, per_vcpu: bool) -> Vec<&'static Column> {
    let all = || {
        COLUMNS
            .iter()
            .filter(move |column| per_vcpu || column.title != VCPU)
    };
    let fits = |rank| {
        let shown = all().filter(|column| column.rank <= rank);
        // A blank between two.
        shown.map(|column| column.width + 1).sum::<u16>() <= width + 1
    };
    let rank = (1..=u8::MAX).take_while(|&rank| fits(rank)).last();
    all()
        .filter(|column| column.rank <= rank.unwrap_or(0))
        .collect()
}

/// A row for each line from the first that is shown, with the columns that fit into `width`.
pub fn table<'a>(app: &App, lines: &'a [Line], width: u16) -> Table<'a> {
    let columns = columns(width, app.view.per_vcpu);
    let scale = Scale {
        seconds: app.seconds(),
        all: lines.iter().map(|line| line.now.count).sum(),
    };
    let others = columns.iter().filter(|column| column.title != NAME);
    let others: u16 = others.map(|column| column.width + 1).sum();
    let cell = |column: &Column, text: String| {
        let room = match column.title {
            NAME => width.saturating_sub(others),
            _ => column.width,
        };
        let line = TextLine::from(output::short(&text, room.into()));
        Cell::from(if column.left {
            line
        } else {
            line.right_aligned()
        })
    };
    let titles = columns
        .iter()
        .map(|column| cell(column, column.title.to_owned()));
    let style = Style::new().add_modifier(Modifier::REVERSED);
    let header = Row::new(titles.collect::<Vec<_>>()).style(style);
    let widths: Vec<_> = columns
        .iter()
        .map(|column| match column.title {
            NAME => Constraint::Fill(1),
            _ => Constraint::Length(column.width),
        })
        .collect();
    let rows = lines[app.scroll..].iter().map(move |line| {
        let cells = columns
            .iter()
            .map(|column| cell(column, (column.text)(line, &scale)));
        Row::new(cells.collect::<Vec<_>>())
    });
    Table::new(rows, widths).header(header)
}
