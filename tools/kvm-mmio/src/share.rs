// SPDX-License-Identifier: GPL-2.0
//! What each of several devices has of the accesses to the page that they share.

use std::collections::BTreeMap;

use crate::counts::Counts;
use crate::region::Part;
use crate::site::{Place, Site};

/// Accesses to a page by instruction, None being those of too many.
pub type Sites = BTreeMap<Option<u64>, Site>;

/// A device's part of a page, and the accesses to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    pub part: Part,
    pub counts: Counts,
    pub sites: Sites,
}

/// The parts that were accessed, and what is left: accesses to none of these, and those of which
/// only the page is known.
pub fn divide(
    parts: Vec<Part>,
    page: Counts,
    places: &BTreeMap<Place, Site>,
) -> (Vec<Share>, Share) {
    let new = |part| Share {
        part,
        counts: Counts::default(),
        sites: Sites::new(),
    };
    let mut shares: Vec<Share> = parts.into_iter().map(new).collect();
    let mut rest = new(Part::default());
    for (&(gpa, rip), site) in places {
        let has = |share: &&mut Share| share.part.has(gpa);
        let share = shares.iter_mut().find(has).unwrap_or(&mut rest);
        share.counts += site.counts;
        *share.sites.entry(rip).or_default() += site;
    }
    shares.retain(|share| share.counts.count != 0);
    let sum = |sum: Counts, share: &Share| {
        let mut sum = sum;
        sum += share.counts;
        sum
    };
    rest.counts = page - shares.iter().fold(Counts::default(), sum);
    (shares, rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::site::SOMEWHERE;

    fn part(name: &str, start: u64) -> Part {
        Part {
            name: name.to_owned(),
            start,
            last: start + 511,
        }
    }

    fn counts(count: u64) -> Counts {
        Counts {
            count,
            ..Counts::default()
        }
    }

    fn place(gpa: u64, rip: Option<u64>, count: u64) -> (Place, Site) {
        let site = Site {
            counts: counts(count),
            ..Site::default()
        };
        ((gpa, rip), site)
    }

    #[test]
    fn each_has_its_own() {
        let parts = vec![part("a", 0x1000), part("b", 0x1200), part("c", 0x1400)];
        let places = [
            place(SOMEWHERE | 0x1000, None, 4),
            place(0x1000, Some(7), 1),
            place(0x11fc, Some(8), 2),
            place(0x1450, Some(7), 8),
            place(0x1600, Some(7), 16),
        ];
        let (shares, rest) = divide(parts, counts(31), &places.into());
        let told: Vec<_> = shares
            .iter()
            .map(|share| (share.part.name.as_str(), share.counts.count))
            .collect();
        assert_eq!(told, [("a", 3), ("c", 8)]);
        assert_eq!(
            shares[0].sites.keys().collect::<Vec<_>>(),
            [&Some(7), &Some(8)]
        );
        assert_eq!(rest.counts.count, 20);
        let of_rest: Vec<_> = rest
            .sites
            .iter()
            .map(|(rip, site)| (*rip, site.counts.count))
            .collect();
        assert_eq!(of_rest, [(None, 4), (Some(7), 16)]);
    }
}
