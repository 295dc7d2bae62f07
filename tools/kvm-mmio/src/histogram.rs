// SPDX-License-Identifier: GPL-2.0
//! How times are spread: by powers of two, and as bars.

use std::io::{self, Write};

use serde::Serialize;

use crate::site::Times;

/// How many times there were of some length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Bin {
    /// Nanoseconds; 0 or a power of two.
    pub from: u64,
    /// Nanoseconds, which are in the next one.
    pub below: u64,
    pub count: u64,
}

/// From the least time to the greatest, also those bins that have none; empty if there are no times.
pub fn bins(times: &Times) -> Vec<Bin> {
    let mut bins: Vec<Bin> = Vec::new();
    let power = |time: u64| time.max(1).ilog2();
    // Buckets are finer, and end where these do.
    for (least, count) in times.buckets() {
        let first = bins.first().map_or(power(least), |bin| power(bin.from));
        // A recording may have them in any order.
        let place = power(least).saturating_sub(first);
        while bins.len() as u32 <= place {
            bins.push(of_power(first + bins.len() as u32));
        }
        if let Some(bin) = bins.last_mut() {
            bin.count = bin.count.saturating_add(count);
        }
    }
    bins
}

fn of_power(power: u32) -> Bin {
    Bin {
        from: if power == 0 { 0 } else { 1 << power },
        below: 2_u64
            .checked_shl(power)
            .filter(|below| *below != 0)
            .unwrap_or(u64::MAX),
        count: 0,
    }
}

/// Characters of the longest bar.
const WIDTH: u64 = 40;

/// A line for each bin. What there is any of has a bar.
pub fn bars(out: &mut dyn Write, bins: &[Bin]) -> io::Result<()> {
    let counts = || bins.iter().map(|bin| bin.count);
    let all = counts().fold(0, u64::saturating_add).max(1);
    let most = counts().max().unwrap_or(0).max(1);
    let figures = bins.iter().flat_map(|bin| [bin.below, bin.count]);
    let digits = figures
        .max()
        .unwrap_or(0)
        .to_string()
        .len()
        .max("below ns".len());
    writeln!(
        out,
        "{:>digits$}  {:>digits$}  {:>digits$}      %",
        "from ns", "below ns", "exits"
    )?;
    for Bin { from, below, count } in bins {
        let share = *count as f64 / all as f64 * 100.0;
        let length = (u128::from(*count) * u128::from(WIDTH)).div_ceil(most.into());
        let bar = "#".repeat(length as usize);
        let line =
            format!("{from:>digits$}  {below:>digits$}  {count:>digits$}  {share:>5.1}  {bar}");
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(all: &[u64]) -> Times {
        let mut times = Times::default();
        all.iter().for_each(|time| times.record(*time));
        times
    }

    #[test]
    fn each_time_is_in_its_bin() {
        assert_eq!(bins(&Times::default()), []);
        for time in (0..100).chain([1023, 1024, 1 << 40, u64::MAX - 1]) {
            let [bin] = bins(&times(&[time]))[..] else {
                panic!("{time}");
            };
            assert!(bin.from <= time && time < bin.below, "{time}: {bin:?}");
            assert!(bin.from == 0 || bin.from.is_power_of_two(), "{bin:?}");
        }
        let found = bins(&times(&[1030, 2047, 2048, 9000]));
        let found: Vec<_> = found
            .iter()
            .map(|bin| (bin.from, bin.below, bin.count))
            .collect();
        let wanted = [
            (1024, 2048, 2),
            (2048, 4096, 1),
            (4096, 8192, 0),
            (8192, 16384, 1),
        ];
        assert_eq!(found, wanted);
        assert_eq!(bins(&times(&[0, 1, 2]))[0].count, 2);
    }

    #[test]
    fn bars_are_as_long_as_there_are_many() {
        let mut many = times(&[5000]);
        (0..98).for_each(|_| many.record(1100));
        many.record(40000);
        let mut text = Vec::new();
        bars(&mut text, &bins(&many)).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            " from ns  below ns     exits      %
    1024      2048        98   98.0  ########################################
    2048      4096         0    0.0
    4096      8192         1    1.0  #
    8192     16384         0    0.0
   16384     32768         0    0.0
   32768     65536         1    1.0  #
"
        );
    }
}
