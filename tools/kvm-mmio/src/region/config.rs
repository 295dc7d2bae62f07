// SPDX-License-Identifier: GPL-2.0
//! The user's file of ranges: TOML with a table `[[region]]` for each.

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;

use super::range::{PAGE, Region, Source};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    region: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    /// First byte.
    start: u64,
    /// Bytes. One page unless given.
    size: Option<u64>,
}

pub fn parse(text: &str) -> Result<Vec<Region>> {
    // The error of the parser has several lines, with the place in the file.
    let file: File =
        toml::from_str(text).map_err(|error| anyhow!("{}", error.to_string().trim_end()))?;
    if file.region.is_empty() {
        bail!("no [[region]] in it; each needs a name and a start, and may have a size");
    }
    file.region.into_iter().map(region).collect()
}

fn region(entry: Entry) -> Result<Region> {
    let Entry { name, start, size } = entry;
    if name.is_empty() || name.contains(|c: char| c.is_control()) {
        bail!("region at {start:#x}: the name {name:?} is empty or has control characters");
    }
    let last = size
        .unwrap_or(PAGE)
        .checked_sub(1)
        .and_then(|offset| start.checked_add(offset))
        .with_context(|| format!("region {name:?}: from {start:#x} there are no {size:?} bytes"))?;
    Ok(Region {
        name,
        start,
        last,
        source: Source::User,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        let regions = parse(
            "[[region]]\nname = \"doorbell\"\nstart = 0xd000_0000\n\
             [[region]]\nname = \"bar\"\nstart = 0xfe00_0000\nsize = 0x4000\n",
        );
        let regions = regions.unwrap();
        assert_eq!(regions[0].last, 0xd000_0fff);
        assert_eq!(
            (regions[1].start, regions[1].last),
            (0xfe00_0000, 0xfe00_3fff)
        );
        assert_eq!(regions[1].name, "bar");
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("", "no [[region]]"),
            ("[[region]]\nname = \"x\"\n", "start"),
            ("[[region]]\nname = \"x\"\nstart = 1\nend = 2\n", "end"),
            ("[[region]]\nname = \"x\"\nstart = 1\nsize = 0\n", "\"x\""),
            ("[[region]]\nname = \"\"\nstart = 1\n", "name"),
            ("[[region]]\nname = \"\\u001b[2J\"\nstart = 1\n", "control"),
            ("[[region]]\nname = \"x\"\nstart = -1\n", "line 3"),
            ("[[region]\n", "line 1"),
        ] {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(part), "{text:?} gave {error:?}");
        }
    }
}
