// SPDX-License-Identifier: GPL-2.0
//! How long accesses took, as histograms.

use super::text::{Text, Type};
use crate::site::Times;

/// The limits are these powers of two in nanoseconds, always the same: from half a microsecond,
/// in which no processor leaves a guest and comes back, to 17 milliseconds.
const POWERS: std::ops::RangeInclusive<u32> = 9..=24;

/// One for each of these; no family if there are no times.
pub fn latency<'a>(text: &mut Text, pages: impl Iterator<Item = (Vec<(&'a str, &'a str)>, Times)>) {
    let mut pages = pages
        .filter(|(_, times)| *times != Times::default())
        .peekable();
    if pages.peek().is_none() {
        return;
    }
    let help = "Time from a VM exit to the next VM entry, what userspace does included, by the page \
                that was accessed first; each rounded down to a sixteenth.";
    let name = "kvm_mmio_page_exit_seconds";
    text.family(Type::Histogram, name, "seconds", help);
    for (labels, times) in pages {
        let below = |limit: u64| {
            let shorter = times.buckets().filter(|(least, _)| *least < limit);
            shorter.fold(0, |sum: u64, (_, count)| sum.saturating_add(count))
        };
        let limits = POWERS.map(|power| 1_u64 << power);
        let buckets = limits.map(|limit| (seconds(limit as f64), below(limit)));
        let sum = times
            .buckets()
            .map(|(least, count)| least as f64 * count as f64);
        text.histogram(&labels, buckets, (seconds(sum.sum()), below(u64::MAX)));
    }
}

fn seconds(nanoseconds: f64) -> f64 {
    nanoseconds / 1e9
}

#[cfg(test)]
mod tests {
    use super::super::text::Format;
    use super::*;

    #[test]
    fn a_histogram() {
        let mut times = Times::default();
        for time in [1000, 1024, 5000, 5001, 1 << 30] {
            times.record(time);
        }
        let all = [("1", times), ("2", Times::default())];
        let all = all.map(|(vm, times)| (vec![("vm", vm)], times));
        for (format, head) in [(Format::Prometheus, 2), (Format::OpenMetrics, 3)] {
            let mut text = Text::new(format);
            latency(&mut text, all.clone().into_iter());
            let text = text.end();
            assert!(
                text.starts_with("# TYPE kvm_mmio_page_exit_seconds histogram\n"),
                "{text}"
            );
            let samples: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
            assert_eq!(
                text.lines()
                    .take_while(|line| line.starts_with('#'))
                    .count(),
                head
            );
            assert_eq!(samples.len(), POWERS.count() + 3, "{text}");
            for (line, wanted) in [
                (
                    0,
                    "kvm_mmio_page_exit_seconds_bucket{vm=\"1\",le=\"0.000000512\"} 0",
                ),
                (
                    1,
                    "kvm_mmio_page_exit_seconds_bucket{vm=\"1\",le=\"0.000001024\"} 1",
                ),
                (
                    2,
                    "kvm_mmio_page_exit_seconds_bucket{vm=\"1\",le=\"0.000002048\"} 2",
                ),
                (
                    15,
                    "kvm_mmio_page_exit_seconds_bucket{vm=\"1\",le=\"0.016777216\"} 4",
                ),
                (
                    16,
                    "kvm_mmio_page_exit_seconds_bucket{vm=\"1\",le=\"+Inf\"} 5",
                ),
                (17, "kvm_mmio_page_exit_seconds_sum{vm=\"1\"} 1.073753568"),
                (18, "kvm_mmio_page_exit_seconds_count{vm=\"1\"} 5"),
            ] {
                assert_eq!(samples[line], wanted);
            }
        }
    }

    #[test]
    fn what_is_not_known_has_no_series() {
        let mut text = Text::new(Format::Prometheus);
        latency(&mut text, [(Vec::new(), Times::default())].into_iter());
        assert_eq!(text.end(), "");
    }
}
