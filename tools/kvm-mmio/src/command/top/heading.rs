// SPDX-License-Identifier: GPL-2.0
//! The two lines above all: how much is shown, where that is, and what one has to know of it.

use ratatui::text::Line as TextLine;
use ratatui::widgets::Paragraph;

use super::app::App;
use super::level::{Level, Line, accesses};
use crate::output::names_unused;
use crate::reading::{ENABLED, HEAT};
use crate::words::plural;

pub fn heading(app: &App, lines: &[Line]) -> Paragraph<'static> {
    let clock = app.clock();
    let mut notes = place(app, lines);
    notes.extend(filters(app));
    for (flag, text) in [
        (ENABLED, "the extension is off"),
        (HEAT, "counting by page is off"),
    ] {
        if clock.flags & flag == 0 {
            notes.push(text.to_owned());
        }
    }
    notes.extend(names_unused(&app.names_unused()));
    notes.extend(app.names.complaints());
    if app.dropped() != 0 {
        notes.push(plural(
            app.dropped(),
            "access of no page",
            "accesses of no page",
        ));
    }
    for (lost, one, many) in [
        (clock.vms_lost(), "VM lost", "VMs lost"),
        (clock.events_lost(), "event lost", "events lost"),
    ] {
        if lost != 0 {
            notes.push(plural(lost, one, many));
        }
    }
    let first = format!(
        "kvm-mmio top: {}, {}, {:.0} accesses/s; every {:.1} s, by {}",
        plural(app.vms() as u64, "VM", "VMs"),
        content(app.level(), lines),
        accesses(lines) as f64 / app.seconds(),
        app.interval.as_secs_f64(),
        app.view.sort.name(),
    );
    Paragraph::new(vec![
        TextLine::from(first),
        TextLine::from(notes.join("; ")),
    ])
}

/// How many things are shown.
fn content(level: Level, lines: &[Line]) -> String {
    let pages: usize = lines.iter().map(|line| line.pages).sum();
    if !matches!(level, Level::Page(_)) {
        return plural(pages as u64, "page", "pages");
    }
    let instructions = lines.iter().filter(|line| line.is_once_more()).count();
    let vcpus = plural((lines.len() - instructions) as u64, "vCPU", "vCPUs");
    match instructions {
        0 => vcpus,
        many => format!(
            "{vcpus}, {}",
            plural(many as u64, "instruction", "instructions")
        ),
    }
}

/// Where one has gone, and what is not known there.
fn place(app: &App, lines: &[Line]) -> Vec<String> {
    let page = match app.level() {
        Level::Vms | Level::Pages(None) => return Vec::new(),
        Level::Pages(Some(vm)) => return vec![format!("VM {vm}")],
        Level::Page(page) => page,
    };
    let of = page
        .vcpu
        .map_or_else(String::new, |vcpu| format!(" of vCPU {vcpu}"));
    let gpa = format!("{:#x}", page.gpa);
    // A page that nobody knows is called by its address.
    let name = match app.page_name() {
        name if name == gpa => String::new(),
        name => format!(" {name}"),
    };
    let mut place = vec![format!("VM {}, page {gpa}{name}{of}", page.vm)];
    if !lines.is_empty() && !lines.iter().any(Line::is_once_more) {
        place.push("instructions are not known, see --instructions".to_owned());
    }
    place
}

fn filters(app: &App) -> Vec<String> {
    let filter = &app.view.filter;
    let list = |what, numbers: Vec<String>| match numbers.as_slice() {
        [] => None,
        numbers => Some(format!("only {what} {}", numbers.join(" "))),
    };
    let text = |number: &u32| number.to_string();
    let name = filter
        .name
        .as_ref()
        .map(|name| format!("only names with {name}"));
    [
        list("VM", filter.vms.iter().map(u64::to_string).collect()),
        list("PID", filter.pids.iter().map(text).collect()),
        list("vCPU", filter.vcpus.iter().map(text).collect()),
        name,
    ]
    .into_iter()
    .flatten()
    .collect()
}
