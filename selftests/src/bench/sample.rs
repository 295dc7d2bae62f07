// SPDX-License-Identifier: GPL-2.0
//! Repeated measurements of the same thing.

use serde::Serialize;

/// Figures in ticks per access.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    pub median: f64,
    pub min: f64,
    pub max: f64,
    /// (max - min) / median, in percent.
    pub spread_percent: f64,
    /// As measured, in this order.
    pub values: Vec<f64>,
}

impl Sample {
    pub fn of(values: Vec<f64>) -> Self {
        assert!(!values.is_empty());
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (sorted[0], sorted[sorted.len() - 1]);
        let median = quantile(&sorted, 0.5);
        let spread_percent = if median > 0.0 {
            (max - min) / median * 100.0
        } else {
            0.0
        };
        Self {
            median,
            min,
            max,
            spread_percent,
            values,
        }
    }
}

/// The value that a share of all is below, between two of them if need be.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = share * (sorted.len() - 1) as f64;
    let (below, part) = (at.floor(), at.fract());
    let low = sorted[below as usize];
    let high = sorted[at.ceil() as usize];
    low + (high - low) * part
}

#[cfg(test)]
mod tests {
    use super::{Sample, quantile};

    #[test]
    fn quartiles() {
        let sorted = [1.0, 2.0, 4.0, 8.0, 16.0];
        assert_eq!(
            [0.25, 0.5, 0.75].map(|share| quantile(&sorted, share)),
            [2.0, 4.0, 8.0]
        );
        assert_eq!(
            [0.25, 0.75].map(|share| quantile(&sorted[..2], share)),
            [1.25, 1.75]
        );
        assert_eq!(quantile(&sorted[..1], 0.75), 1.0);
    }

    #[test]
    fn median_and_spread() {
        let odd = Sample::of(vec![3.0, 1.0, 2.0]);
        assert_eq!(
            (odd.median, odd.min, odd.max, odd.spread_percent),
            (2.0, 1.0, 3.0, 100.0)
        );
        assert_eq!(odd.values, [3.0, 1.0, 2.0]);
        assert_eq!(Sample::of(vec![4.0, 2.0]).median, 3.0);
    }
}
