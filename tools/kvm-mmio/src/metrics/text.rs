// SPDX-License-Identifier: GPL-2.0
//! How metrics are written: in Prometheus' own format 0.0.4, which node_exporter's textfile collector
//! wants, or as OpenMetrics 1.0. They differ in types, in what a type is said of, and in the end.

use std::fmt::{Display, Write};

use clap::ValueEnum;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Prometheus' text format 0.0.4, which everything reads
    #[default]
    Prometheus,
    /// OpenMetrics 1.0, with units and the type info
    #[value(name = "openmetrics")]
    OpenMetrics,
}

impl Format {
    /// What HTTP calls it.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => {
                "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores"
            }
        }
    }
}

#[derive(Clone, Copy)]
pub enum Type {
    Gauge,
    Counter,
    /// Its samples are those of [`Text::histogram`].
    Histogram,
    Info,
}

impl Type {
    /// The older format has no info: there, it is a gauge that is always 1.
    fn name(self, format: Format) -> &'static str {
        match self {
            Self::Info if format == Format::OpenMetrics => "info",
            Self::Gauge | Self::Info => "gauge",
            Self::Counter => "counter",
            Self::Histogram => "histogram",
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::Gauge | Self::Histogram => "",
            Self::Counter => "_total",
            Self::Info => "_info",
        }
    }
}

/// The text, family by family.
pub struct Text {
    format: Format,
    text: String,
    name: &'static str,
    suffix: &'static str,
}

impl Text {
    pub fn new(format: Format) -> Self {
        Self {
            format,
            text: String::new(),
            name: "",
            suffix: "",
        }
    }

    pub fn family(&mut self, kind: Type, name: &'static str, unit: &str, help: &str) {
        let (format, text) = (self.format, &mut self.text);
        // Of which the type is said: OpenMetrics has families, the older format samples.
        let suffix = match format {
            Format::Prometheus => kind.suffix(),
            Format::OpenMetrics => "",
        };
        let _ = writeln!(text, "# TYPE {name}{suffix} {}", kind.name(format));
        if format == Format::OpenMetrics && !unit.is_empty() {
            let _ = writeln!(text, "# UNIT {name} {unit}");
        }
        let _ = writeln!(text, "# HELP {name}{suffix} {}", escape(help));
        (self.name, self.suffix) = (name, kind.suffix());
    }

    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.line(self.suffix, labels, value);
    }

    /// By how many are below each limit, the sum and the number of all.
    pub fn histogram(
        &mut self,
        labels: &[(&str, &str)],
        buckets: impl IntoIterator<Item = (f64, u64)>,
        (sum, count): (f64, u64),
    ) {
        let buckets = buckets.into_iter();
        let buckets = buckets.map(|(limit, count)| (limit.to_string(), count));
        for (limit, count) in buckets.chain([("+Inf".to_owned(), count)]) {
            self.line("_bucket", &[labels, &[("le", &limit)]].concat(), count);
        }
        self.line("_sum", labels, sum);
        self.line("_count", labels, count);
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        let _ = write!(self.text, "{}{suffix}", self.name);
        for (place, (name, value)) in (0..).zip(labels) {
            let open = if place == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{open}{name}=\"{}\"", escape(value));
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{close} {value}");
    }

    /// A family of one sample, without labels.
    pub fn single(&mut self, kind: Type, name: &'static str, help: &str, value: impl Display) {
        self.family(kind, name, "", help);
        self.sample(&[], value);
    }

    pub fn end(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        assert_eq!(escape("a\\b\"c\nd"), "a\\\\b\\\"c\\nd");
    }
}
