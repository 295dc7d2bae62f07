// SPDX-License-Identifier: GPL-2.0
//! The benchmark's results as a table with medians, quartiles and ratios.

use anyhow::{Context, Result, ensure};
use comfy_table::{CellAlignment, Table, presets};
use serde::Deserialize;

use crate::bench::sample::quantile;

/// What mmio-bench prints in JSON Lines, as far as it is needed.
#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Line {
    Run {
        unit: String,
        ticks_per_empty_turn: f64,
        iterations: u64,
        repetitions: u64,
    },
    Row(Box<Row>),
    Skipped {
        description: String,
        reason: String,
    },
}

#[derive(Deserialize)]
struct Row {
    name: String,
    description: String,
    port: Option<String>,
    off: Sample,
    seed: Option<Sample>,
    on: Option<Sample>,
    host_instructions: Option<Instructions>,
}

#[derive(Deserialize)]
struct Sample {
    median: f64,
    values: Vec<f64>,
}

#[derive(Deserialize)]
struct Instructions {
    off: f64,
    on: Option<f64>,
}

impl Sample {
    /// The median, and what half of all measurements are within.
    fn show(&self) -> String {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let [low, high] = [0.25, 0.75].map(|share| quantile(&sorted, share));
        format!("{:.0} ({low:.0}-{high:.0})", self.median)
    }
}

fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".into())
}

fn ratio(above: Option<f64>, below: Option<f64>) -> String {
    or_dash(
        above
            .zip(below)
            .map(|(above, below)| format!("{:.3}", above / below)),
    )
}

fn cells(row: &Row, rows: &[Row]) -> Vec<String> {
    let median = |sample: &Option<Sample>| sample.as_ref().map(|sample| sample.median);
    let port = row.port.as_ref();
    let port = port.and_then(|port| rows.iter().find(|other| other.name == *port));
    let counted = row.host_instructions.as_ref();
    let instructions = |value: Option<f64>| or_dash(value.map(|value| format!("{value:.0}")));
    let (off, on) = (
        counted.map(|counted| counted.off),
        counted.and_then(|counted| counted.on),
    );
    vec![
        row.description.clone(),
        row.off.show(),
        or_dash(row.seed.as_ref().map(Sample::show)),
        or_dash(row.on.as_ref().map(Sample::show)),
        ratio(median(&row.on), Some(row.off.median)),
        ratio(Some(row.off.median), port.map(|port| port.off.median)),
        ratio(median(&row.on), port.and_then(|port| median(&port.on))),
        instructions(off),
        instructions(on),
        ratio(on, off),
    ]
}

/// The table of what mmio-bench has printed.
pub fn table(output: &str) -> Result<String> {
    let (mut run, mut rows, mut skipped) = (None, Vec::new(), String::new());
    for line in output.lines() {
        match serde_json::from_str(line).context("a line of mmio-bench")? {
            line @ Line::Run { .. } => run = Some(line),
            Line::Row(row) => rows.push(*row),
            Line::Skipped {
                description,
                reason,
            } => skipped += &format!("left out: {description}: {reason}\n"),
        }
    }
    let Some(Line::Run {
        unit,
        ticks_per_empty_turn,
        iterations,
        repetitions,
    }) = run
    else {
        anyhow::bail!("mmio-bench has not said what it measures");
    };
    ensure!(!rows.is_empty(), "nothing was measured");
    let unit = match unit.as_str() {
        "instructions" => "instructions (the machine's clock counts them)",
        _ => "ticks of the time-stamp counter",
    };
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    table.set_header([
        "access",
        "off",
        "seed",
        "on",
        "on/off",
        "off/port",
        "on/port",
        "instr. off",
        "instr. on",
        "on/off",
    ]);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for row in &rows {
        table.add_row(cells(row, &rows));
    }
    Ok(format!(
        "Per access, in {unit}: the median of {repetitions} x {iterations} accesses (and its \
         quartiles).\noff: KVM's C code, seed: the extension with fast=0, on: the extension. \
         instr.: the host's instructions, \"-\" where\nthey cannot be counted. A turn of the empty \
         loop takes {ticks_per_empty_turn:.3} ticks.\n{table}\n{skipped}"
    ))
}

#[cfg(test)]
mod tests {
    use super::table;

    const RUN: &str = r#"{"kind":"run","schema":2,"unit":"tsc_ticks","ticks_per_empty_turn":1.5,"iterations":10,"repetitions":3}"#;

    fn row(name: &str, on: &str, instructions: &str) -> String {
        format!(
            r#"{{"kind":"row","name":"{name}","description":"row {name}","port":"p","off":{{"median":200.0,"values":[200.0,100.0,300.0]}},"seed":null,"on":{on},"host_instructions":{instructions}}}"#
        )
    }

    fn line<'a>(text: &'a str, start: &str) -> Vec<&'a str> {
        let line = text.lines().find(|line| line.contains(start)).unwrap();
        line.split(['│', '┆'])
            .map(str::trim)
            .filter(|cell| !cell.is_empty())
            .collect()
    }

    #[test]
    fn rows_have_medians_quartiles_and_ratios() {
        let on = |value: u32| format!(r#"{{"median":{value}.0,"values":[{value}.0]}}"#);
        let port = row("p", &on(200), "null");
        let mmio = row("m", &on(50), r#"{"off":1000.4,"seed":null,"on":250.1}"#);
        let text = table(&[RUN, &port, &mmio].join("\n")).unwrap();
        assert_eq!(
            line(&text, "row m"),
            [
                "row m",
                "200 (150-250)",
                "-",
                "50 (50-50)",
                "0.250",
                "1.000",
                "0.250",
                "1000",
                "250",
                "0.250"
            ]
        );
        assert_eq!(line(&text, "row p")[7..], ["-", "-", "-"]);
        assert!(text.contains("median of 3 x 10 accesses"), "{text}");
    }

    #[test]
    fn what_was_left_out_is_named() {
        let skipped = r#"{"kind":"skipped","name":"x","description":"row x","reason":"no"}"#;
        let text = table(&[RUN, &row("p", "null", "null"), skipped].join("\n")).unwrap();
        assert!(text.ends_with("left out: row x: no\n"), "{text}");
        assert_eq!(line(&text, "row p")[3..5], ["-", "-"]);
    }

    #[test]
    fn half_a_result_is_none() {
        assert!(table("").is_err());
        assert!(table(RUN).is_err());
        assert!(table("{").is_err());
        assert!(table(&row("p", "null", "null")).is_err());
    }
}
