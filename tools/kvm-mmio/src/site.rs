// SPDX-License-Identifier: GPL-2.0
//! What one instruction of a guest does to an address, or to a page.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use crate::counts::Counts;

/// The address that is accessed, and that of an instruction; None are those beyond the number that
/// is counted apart.
pub type Place = (u64, Option<u64>);

/// In the address of a [`Place`]: it is that of a page, and where in it is not known.
pub const SOMEWHERE: u64 = 1 << 63;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    pub counts: Counts,
    /// How long they took, if that was asked for.
    pub times: Times,
}

impl Site {
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            counts: self.counts - earlier.counts,
            times: self.times.since(&earlier.times),
        }
    }
}

impl From<Counts> for Site {
    fn from(counts: Counts) -> Self {
        Self {
            counts,
            times: Times::default(),
        }
    }
}

impl AddAssign<&Self> for Site {
    fn add_assign(&mut self, other: &Self) {
        self.counts += other.counts;
        self.times += &other.times;
    }
}

/// Each power of two is divided in so many, as a power of two: a time is known to 1/16.
const FINE: u32 = 4;

/// How often something took how many nanoseconds. The sum of two is that of both together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times(BTreeMap<u16, u64>);

/// In nanoseconds, each rounded down to 1/16 of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Quantiles {
    pub min: u64,
    pub p50: u64,
    pub p99: u64,
    pub max: u64,
}

impl Times {
    pub fn record(&mut self, nanoseconds: u64) {
        self.add(bucket(nanoseconds), 1);
    }

    /// So many more in a bucket, as `bucket()` in bpf/count.bpf.c numbers them, too.
    pub fn add(&mut self, bucket: u16, count: u64) {
        let sum = self.0.entry(bucket).or_default();
        *sum = sum.saturating_add(count);
    }

    /// The buckets: the least time in each, in nanoseconds, and how many there are, in order.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0
            .iter()
            .map(|(bucket, count)| (least(*bucket), *count))
    }

    fn since(&self, earlier: &Self) -> Self {
        let grown = self.0.iter().map(|(bucket, count)| {
            let before = earlier.0.get(bucket).copied().unwrap_or_default();
            (*bucket, count.saturating_sub(before))
        });
        Self(grown.filter(|(_, count)| *count != 0).collect())
    }

    /// None if nothing was recorded.
    pub fn quantiles(&self) -> Option<Quantiles> {
        let at = |part: f64| {
            let total = self
                .0
                .values()
                .fold(0, |sum: u64, n| sum.saturating_add(*n));
            // The first that so many are not above.
            let rank = ((total as f64 * part).ceil() as u64).max(1);
            let mut seen: u64 = 0;
            let found = self.0.iter().find(|(_, count)| {
                seen = seen.saturating_add(**count);
                seen >= rank
            });
            found.map(|(bucket, _)| least(*bucket))
        };
        Some(Quantiles {
            min: at(0.0)?,
            p50: at(0.5)?,
            p99: at(0.99)?,
            max: self.0.keys().next_back().map(|bucket| least(*bucket))?,
        })
    }
}

impl AddAssign<&Self> for Times {
    fn add_assign(&mut self, other: &Self) {
        for (bucket, count) in &other.0 {
            self.add(*bucket, *count);
        }
    }
}

/// The number of a bucket: the power of two, and the bits that follow it.
fn bucket(value: u64) -> u16 {
    let power = value.max(1).ilog2();
    if power <= FINE {
        return value as u16;
    }
    let shift = power - FINE;
    // Below 2^10.
    ((u64::from(shift) << FINE) + (value >> shift)) as u16
}

/// The least value in a bucket.
fn least(bucket: u16) -> u64 {
    let (shift, fine) = (u32::from(bucket >> FINE), u64::from(bucket % (1 << FINE)));
    match shift {
        0 | 1 => bucket.into(),
        // A recording may say anything.
        shift => (1 << FINE | fine)
            .checked_shl(shift - 1)
            .unwrap_or(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_known_to_a_sixteenth() {
        let mut before = None;
        for value in (0..5000).chain([1 << 32, u64::MAX / 2, u64::MAX]) {
            let low = least(bucket(value));
            assert!(low <= value && value - low <= value / 16, "{value}: {low}");
            assert!(before <= Some(bucket(value)), "{value}");
            before = Some(bucket(value));
        }
        least(u16::MAX);
    }

    #[test]
    fn quantiles() {
        let mut times = Times::default();
        assert_eq!(times.quantiles(), None);
        (0..98).for_each(|_| times.record(20));
        let before = times.clone();
        times.record(1 << 20);
        times.record(1 << 30);
        let wanted = Quantiles {
            min: 20,
            p50: 20,
            p99: 1 << 20,
            max: 1 << 30,
        };
        assert_eq!(times.quantiles(), Some(wanted));
        let later = times.since(&before);
        assert_eq!(later.quantiles().unwrap().min, 1 << 20);
        let mut sum = before;
        sum += &later;
        assert_eq!(sum, times);
    }
}
