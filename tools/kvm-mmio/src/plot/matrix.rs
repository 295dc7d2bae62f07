// SPDX-License-Identifier: GPL-2.0
//! What a picture shows: accesses by page and time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use crate::counts::Counts;
use crate::reading::Reading;
use crate::region::Names;
use crate::row::{Key, Row, by_device, page_rows, rows, unmatched};
use crate::view::By;
use crate::view::{Filter, Sort, View};

/// More columns could not be seen.
const MAX_COLUMNS: usize = 240;

/// More bars than this are a picture of their own.
const MAX_DEVICES: usize = 20;

/// Collects what has happened between the samples of a recording.
#[derive(Default)]
pub struct Collector {
    filter: Filter,
    total: Reading,
    elapsed: f64,
    steps: Vec<Step>,
}

/// Accesses between two samples, of the pages that had any.
struct Step {
    /// Seconds since the start of the recording.
    end: f64,
    counts: Vec<(Key, u64)>,
}

/// Accesses per second, by page and time.
pub struct Matrix {
    /// The page of each row: by VM and address.
    pub rows: Vec<Row>,
    /// Pages that are left out, and their accesses.
    pub hidden: (usize, u64),
    /// Where the columns end, in seconds since the start of the recording.
    pub ends: Vec<f64>,
    /// A rate for each row and column.
    pub cells: Vec<Vec<f64>>,
    /// Accesses by device, of all pages; those with the most.
    pub devices: Vec<(String, Counts)>,
    /// Devices that are left out, and their accesses.
    pub devices_hidden: (usize, u64),
    /// Accesses of all.
    pub accesses: u64,
    /// VMs with any of all pages.
    pub vms: usize,
    /// The processes of these VMs: what they are called, and the VMs of each.
    pub processes: BTreeMap<u32, (String, BTreeSet<u64>)>,
    /// The options with names of which it is not known whose they are.
    pub names_unused: BTreeSet<&'static str>,
    /// What names had to match, if none did.
    pub unmatched: Option<String>,
}

impl Collector {
    pub fn new(filter: Filter) -> Self {
        Self {
            filter,
            ..Self::default()
        }
    }

    pub fn add(&mut self, grown: &Reading, elapsed: Duration) {
        let mut counts: BTreeMap<Key, u64> = BTreeMap::new();
        let mut grown = grown.clone();
        self.filter.apply(&mut grown);
        for (&vm, state) in &grown.vms {
            for (&gpa, page) in state.vcpus.values().flat_map(|vcpu| &vcpu.pages) {
                let (vcpu, part) = (None, false);
                let key = Key {
                    vm,
                    gpa,
                    vcpu,
                    part,
                };
                *counts.entry(key).or_default() += page.counts.count;
            }
        }
        self.elapsed += elapsed.as_secs_f64();
        self.steps.push(Step {
            end: self.elapsed,
            counts: counts.into_iter().collect(),
        });
        self.total.add(&grown);
    }

    /// The matrix of the `top` pages with the most accesses.
    pub fn matrix(&self, names: &Names, top: usize) -> Matrix {
        let view = View {
            filter: self.filter.clone(),
            sort: Sort::Accesses,
            per_vcpu: false,
            by: By::Page,
        };
        let mut shown = page_rows(&self.total, names, &view);
        let mut devices = by_device(&rows(&self.total, names, &view));
        let devices_left = devices.split_off(MAX_DEVICES.min(devices.len()));
        let sum = |devices: &[(String, Counts)]| devices.iter().map(|(_, sum)| sum.count).sum();
        let (drawn, left): (u64, u64) = (sum(&devices), sum(&devices_left));
        let unmatched = unmatched(&shown, &self.total, &view);
        let vms: BTreeSet<u64> = shown.iter().map(|row| row.key.vm).collect();
        let mut processes: BTreeMap<u32, (String, BTreeSet<u64>)> = BTreeMap::new();
        for row in &shown {
            let new = || (row.process.clone(), BTreeSet::new());
            let (_, vms) = processes.entry(row.tgid).or_insert_with(new);
            vms.insert(row.key.vm);
        }
        let all = self.total.vms.values().map(|vm| vm.tgid).collect();
        let hidden = shown.split_off(top.min(shown.len()));
        shown.sort_by_key(|row| row.key);
        Matrix {
            hidden: (
                hidden.len(),
                hidden.iter().map(|row| row.counts.count).sum(),
            ),
            ends: self
                .columns()
                .filter_map(|steps| Some(steps.last()?.end))
                .collect(),
            cells: self.cells(&shown),
            rows: shown,
            devices,
            devices_hidden: (devices_left.len(), left),
            accesses: drawn + left,
            vms: vms.len(),
            processes,
            names_unused: names.maps(&all).unused,
            unmatched,
        }
    }

    /// A column is the time between two samples, or several such times: what happened when in
    /// between is not known.
    fn columns(&self) -> impl Iterator<Item = &[Step]> {
        self.steps
            .chunks(self.steps.len().div_ceil(MAX_COLUMNS).max(1))
    }

    fn cells(&self, rows: &[Row]) -> Vec<Vec<f64>> {
        let places: HashMap<Key, usize> = rows.iter().map(|row| row.key).zip(0..).collect();
        let mut cells = vec![Vec::new(); rows.len()];
        let mut start = 0.0;
        for steps in self.columns() {
            let mut counts = vec![0; rows.len()];
            for (key, count) in steps.iter().flat_map(|step| &step.counts) {
                if let Some(&row) = places.get(key) {
                    counts[row] += count;
                }
            }
            let end = steps.last().map_or(start, |step| step.end);
            for (row, count) in cells.iter_mut().zip(counts) {
                // Two samples are never at the same time; a hostile file may say so.
                row.push(count as f64 / (end - start).max(1e-9));
            }
            start = end;
        }
        cells
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::sample;

    fn collect(steps: &[(u64, u64)]) -> Matrix {
        let mut collector = Collector::new(Filter::default());
        for &(milliseconds, count) in steps {
            let mut grown = sample::two_vms();
            for vcpu in grown.vms.values_mut().flat_map(|vm| vm.vcpus.values_mut()) {
                for page in vcpu.pages.values_mut() {
                    page.counts.count = count;
                }
            }
            collector.add(&grown, Duration::from_millis(milliseconds));
        }
        collector.matrix(&Names::default(), 3)
    }

    #[test]
    fn nothing_is_lost_in_columns() {
        for steps in [
            vec![(100, 7)],
            vec![(100, 7), (100, 0), (100, 5)],
            vec![(100, 7), (900, 11), (10, 3)],
            (0..1000).map(|n| (10 + n % 7, n)).collect(),
        ] {
            let matrix = collect(&steps);
            for (row, cells) in matrix.rows.iter().zip(&matrix.cells) {
                let starts = [0.0].iter().chain(&matrix.ends);
                let widths = matrix
                    .ends
                    .iter()
                    .zip(starts)
                    .map(|(end, start)| end - start);
                let sum: f64 = cells
                    .iter()
                    .zip(widths)
                    .map(|(rate, width)| rate * width)
                    .sum();
                let count = row.counts.count as f64;
                assert!((sum - count).abs() < 1e-6 * count, "{sum} of {count}");
            }
        }
    }

    #[test]
    fn rates_are_in_their_time() {
        let matrix = collect(&[(500, 10), (500, 0), (500, 20)]);
        assert_eq!(matrix.ends, [0.5, 1.0, 1.5]);
        // Two vCPUs use the doorbell.
        let doorbell = matrix
            .rows
            .iter()
            .position(|row| row.key.gpa == 0xfe00_3000)
            .unwrap();
        assert_eq!(matrix.cells[doorbell], [40.0, 0.0, 80.0]);
    }

    #[test]
    fn pages_are_in_order_and_the_rest_is_counted() {
        let matrix = collect(&[(500, 10)]);
        let keys: Vec<_> = matrix
            .rows
            .iter()
            .map(|row| (row.key.vm, row.key.gpa))
            .collect();
        assert!(keys.is_sorted());
        assert_eq!(matrix.rows.len(), 3);
        assert_eq!(matrix.hidden, (1, 10));
    }

    #[test]
    fn no_time_at_all() {
        let matrix = Collector::default().matrix(&Names::default(), 3);
        assert!(matrix.rows.is_empty());
        let matrix = collect(&[(0, 5)]);
        assert!(matrix.cells.iter().flatten().all(|rate| rate.is_finite()));
    }
}
