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
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            (sorted[middle - 1] + sorted[middle]) / 2.0
        };
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

#[cfg(test)]
mod tests {
    use super::Sample;

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
