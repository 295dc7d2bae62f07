// SPDX-License-Identifier: GPL-2.0
//! One line of what QEMU's monitor prints for `info mtree`.

pub struct Range {
    pub start: u64,
    pub last: u64,
    pub name: String,
    pub what: What,
}

pub enum What {
    Device,
    /// Of a region of this name, from an offset in it on.
    Alias(String, u64),
    /// It holds others, or is memory.
    Nothing,
}

/// ` AS "memory", root: system`, part of the heading of a flat view.
pub fn flat(line: &str) -> Option<&str> {
    line.strip_prefix(" AS \"")?.split('"').next()
}

/// `    00000000fec00000-00000000fec00fff (prio 0, i/o): ioapic`
pub struct Line<'a> {
    pub indent: usize,
    pub start: u64,
    last: u64,
    kind: &'a str,
    name: &'a str,
    pub disabled: bool,
}

impl<'a> Line<'a> {
    pub fn parse(line: &'a str) -> Option<Self> {
        let text = line.trim_start();
        let (range, rest) = text.split_once(" (prio ")?;
        let (kind, name) = rest.split_once("): ")?;
        let (_, kind) = kind.split_once(", ")?;
        let (start, last) = hex_range(range)?;
        // With -o, whose it is: " owner:{dev id=net0} parent:{obj path=/machine}", or " orphan".
        let owner = [" owner:{", " parent:{"].map(|mark| name.find(mark));
        let end = owner.into_iter().flatten().min().unwrap_or(name.len());
        let name = name[..end].strip_suffix(" orphan").unwrap_or(&name[..end]);
        // With -D, also what is switched off.
        let enabled = name.strip_suffix(" [disabled]");
        Some(Self {
            indent: line.len() - text.len(),
            start,
            last,
            kind,
            name: enabled.unwrap_or(name),
            disabled: enabled.is_some(),
        })
    }

    pub fn range(&self) -> Option<Range> {
        Some(Range {
            start: self.start,
            last: self.last,
            name: self.title().replace(|c: char| c.is_control(), "?"),
            what: self.what()?,
        })
    }

    /// Without the place in the region of the part that a flat view shows: "io @0000000000000010".
    fn title(&self) -> &str {
        let part = self.name.rsplit_once(" @");
        part.map_or(self.name, |(name, _)| name)
    }

    fn what(&self) -> Option<What> {
        // Memory does not trap, and its aliases are memory.
        if matches!(self.kind, "ram" | "nv-ram") || self.start > self.last {
            return None;
        }
        if let Some(alias) = self.name.strip_prefix("alias ") {
            // "name @target 0000000000000000-000000000003ffff"
            let (target, part) = alias.rsplit_once(' ')?;
            let (_, target) = target.split_once(" @")?;
            return Some(What::Alias(target.to_owned(), hex_range(part)?.0));
        }
        // What spans everything holds other ranges and is no device.
        let whole = self.start == 0 && self.last >= u64::MAX / 2;
        Some(if whole { What::Nothing } else { What::Device })
    }
}

pub fn hex_range(text: &str) -> Option<(u64, u64)> {
    let (start, last) = text.split_once('-')?;
    let hex = |digits| u64::from_str_radix(digits, 16).ok();
    Some((hex(start)?, hex(last)?))
}
