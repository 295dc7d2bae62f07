// SPDX-License-Identifier: GPL-2.0
//! The extension's counters, summed over all vCPUs that live or lived since it was loaded.

use std::fs;
use std::io::ErrorKind;

use anyhow::{Context, Result};

use super::counters::Counters;

const STATS: &str = "/sys/kernel/debug/kvm_mmio_ext/stats";

/// Lines of `name value`.
fn parse(text: &str) -> Result<Counters> {
    text.lines()
        .map(|line| {
            let (name, value) = line
                .split_once(char::is_whitespace)
                .with_context(|| format!("{line:?} is not `name value`"))?;
            let value = value
                .trim()
                .parse()
                .with_context(|| format!("{line:?} does not end in a number"))?;
            Ok((name.to_owned(), value))
        })
        .collect()
}

/// All counters; None when the extension is not loaded.
pub fn read() -> Result<Option<Counters>> {
    match fs::read_to_string(STATS) {
        Ok(text) => parse(&text).with_context(|| STATS).map(Some),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).context(STATS),
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn lines_become_counters() {
        let counters = parse("faults 12\nspte_made\t3\n").unwrap();
        assert_eq!(counters["faults"], 12);
        assert_eq!(counters["spte_made"], 3);
    }

    #[test]
    fn a_line_without_a_number_is_an_error() {
        assert!(parse("faults\n").is_err());
        assert!(parse("faults many\n").is_err());
    }
}
