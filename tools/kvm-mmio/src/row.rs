// SPDX-License-Identifier: GPL-2.0
//! What a table shows: one row for each page, of a VM or of each of its vCPUs.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use regex_lite::Regex;

use crate::counts::Counts;
use crate::reading::{Last, Page, Reading, Vcpu, Vm};
use crate::region::{Maps, Names, PAGE};
use crate::share::{self, Share, Sites};
use crate::site::{Place, SOMEWHERE, Site, Times};
use crate::view::{By, Filter, View};
use crate::words::short;

/// A page of a VM, or of a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub vm: u64,
    pub gpa: u64,
    /// None: all of the VM.
    pub vcpu: Option<u32>,
    /// It is what a device has of a page that others share, from this address on.
    pub part: bool,
}

#[derive(Clone, Debug)]
pub struct Row {
    pub key: Key,
    pub tgid: u32,
    /// What its process is called; empty if nobody knows.
    pub process: String,
    pub ended: bool,
    pub name: String,
    /// The range that the page is part of; its address if nobody knows what is there.
    pub device: String,
    /// Devices that share the page, and these counts; empty if there is one.
    pub shared: Vec<String>,
    pub counts: Counts,
    pub last: Last,
    /// By instruction, where these are known.
    pub sites: Sites,
    /// What instructions are called.
    pub symbols: BTreeMap<u64, String>,
}

impl Row {
    /// How long accesses took, if that is known.
    pub fn times(&self) -> Times {
        let mut sum = Times::default();
        self.sites.values().for_each(|site| sum += &site.times);
        sum
    }

    /// Whether the page, its device or one of those that share it is called so.
    fn has_name(&self, name: &Regex) -> bool {
        let mut names = [&self.name, &self.device].into_iter().chain(&self.shared);
        names.any(|text| name.is_match(text))
    }
}

/// The names of pages of all VMs that are shown.
pub fn maps<'a>(reading: &Reading, names: &'a Names, filter: &Filter) -> Maps<'a> {
    let shown = reading
        .vms
        .iter()
        .filter(|(id, vm)| filter.has_vm(**id, vm));
    names.maps(&shown.map(|(_, vm)| vm.tgid).collect::<BTreeSet<_>>())
}

/// The rows of a reading in the order in which they are shown: devices that share a page have a
/// row each, if they can be told apart.
pub fn rows(reading: &Reading, names: &Names, view: &View) -> Vec<Row> {
    rows_of(reading, names, view, reading.clock.is_exact())
}

/// The same, with one row for a page.
pub fn page_rows(reading: &Reading, names: &Names, view: &View) -> Vec<Row> {
    rows_of(reading, names, view, false)
}

fn rows_of(reading: &Reading, names: &Names, view: &View, divided: bool) -> Vec<Row> {
    let maps = maps(reading, names, &view.filter);
    let mut rows: Vec<Row> = pages(reading, view)
        .into_iter()
        .flat_map(|(key, sum)| {
            let page = Named {
                key,
                vm: sum.vm,
                names,
                maps: &maps,
            };
            page.rows(&sum, divided)
        })
        .filter(|row| {
            view.filter
                .name
                .as_ref()
                .is_none_or(|name| row.has_name(name))
        })
        .collect();
    // The keys are in order already, and the sort is stable.
    rows.sort_by_key(|row| Reverse(view.sort.key(&row.counts)));
    rows
}

/// A page, and those who know what is there.
struct Named<'a> {
    key: Key,
    vm: &'a Vm,
    names: &'a Names,
    maps: &'a Maps<'a>,
}

impl Named<'_> {
    fn rows(&self, sum: &Sum, divided: bool) -> Vec<Row> {
        let map = self.maps.of(self.vm.tgid);
        let parts = if divided {
            map.parts(self.key.gpa)
        } else {
            Vec::new()
        };
        let (shares, rest) = share::divide(parts, sum.page.counts, &sum.places);
        let alone = shares.is_empty();
        let mut rows: Vec<Row> = shares.into_iter().map(|share| self.part(share)).collect();
        if alone || rest.counts.count != 0 {
            let last = if alone { sum.page.last } else { Last::UNKNOWN };
            rows.push(Row {
                name: map.page(self.key.gpa),
                device: map.device(self.key.gpa),
                shared: map.shared(self.key.gpa),
                last,
                ..self.row(rest.counts, rest.sites)
            });
        }
        rows
    }

    /// That of a device which has a part of the page.
    fn part(&self, share: Share) -> Row {
        let key = Key {
            gpa: share.part.start,
            part: true,
            ..self.key
        };
        Row {
            key,
            name: share.part.name.clone(),
            device: share.part.name,
            ..self.row(share.counts, share.sites)
        }
    }

    /// Without the names of what is there.
    fn row(&self, counts: Counts, sites: Sites) -> Row {
        let tgid = self.vm.tgid;
        let symbol = |rip: u64| Some((rip, self.maps.symbol(tgid, rip)?));
        Row {
            key: self.key,
            tgid,
            process: self.names.process(tgid).to_owned(),
            ended: self.vm.ended,
            name: String::new(),
            device: String::new(),
            shared: Vec::new(),
            counts,
            last: Last::UNKNOWN,
            symbols: sites.keys().flatten().copied().filter_map(symbol).collect(),
            sites,
        }
    }
}

/// What names had to match, if there are accesses and none of them does.
pub fn unmatched(rows: &[Row], reading: &Reading, view: &View) -> Option<String> {
    let name = view.filter.name.as_ref().filter(|_| rows.is_empty())?;
    (!pages(reading, view).is_empty()).then(|| name.as_str().to_owned())
}

/// What is known of a page of a VM, or of a vCPU.
pub struct Sum<'a> {
    vm: &'a Vm,
    page: Page,
    places: BTreeMap<Place, Site>,
}

impl Sum<'_> {
    fn add(&mut self, vcpu: &Vcpu, gpa: u64, page: &Page) {
        self.page += page;
        for from in [gpa, gpa | SOMEWHERE] {
            let places = (from, None)..=(from | (PAGE - 1), Some(u64::MAX));
            for (place, site) in vcpu.sites.range(places) {
                *self.places.entry(*place).or_default() += site;
            }
        }
    }
}

/// The pages of a reading, with their VMs.
pub fn pages<'a>(reading: &'a Reading, view: &View) -> BTreeMap<Key, Sum<'a>> {
    let mut pages: BTreeMap<Key, Sum> = BTreeMap::new();
    let per_vcpu = view.per_vcpu || view.by == By::Vcpu;
    let shown = reading
        .vms
        .iter()
        .filter(|(id, vm)| view.filter.has_vm(**id, vm));
    for (&id, vm) in shown {
        for (&vcpu, state) in vm.vcpus.iter().filter(|(id, _)| view.filter.has_vcpu(**id)) {
            for (&gpa, page) in &state.pages {
                let key = Key {
                    vm: id,
                    gpa,
                    vcpu: per_vcpu.then_some(vcpu),
                    part: false,
                };
                let sum = pages.entry(key).or_insert_with(|| Sum {
                    vm,
                    page: Page::default(),
                    places: BTreeMap::new(),
                });
                sum.add(state, gpa, page);
            }
        }
    }
    pages
}

/// What a process is called where there are several: two may have the same name.
pub fn process_label(process: &str, tgid: u32) -> String {
    match process {
        "" => format!("PID {tgid}"),
        name => format!("{name} [{tgid}]"),
    }
}

/// Accesses by device, the most first: (name, counts). Devices of several VMs are apart.
pub fn by_device<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Vec<(String, Counts)> {
    let mut devices: BTreeMap<(u64, &str), Counts> = BTreeMap::new();
    let mut vms: BTreeMap<u64, (u32, &str)> = BTreeMap::new();
    for row in rows {
        vms.insert(row.key.vm, (row.tgid, &row.process));
        *devices.entry((row.key.vm, &row.device)).or_default() += row.counts;
    }
    let label = |vm: u64, name: &str| match vms.len() {
        1 => name.to_owned(),
        _ => format!("{}: {name}", vm_label(vm, &vms)),
    };
    let mut devices: Vec<_> = devices
        .into_iter()
        .map(|((vm, name), sum)| (label(vm, name), sum))
        .collect();
    devices.sort_by_key(|(_, counts)| Reverse(counts.count));
    devices
}

/// What a VM is called among others: by its process, by its number, or by both if several
/// processes have several.
fn vm_label(vm: u64, vms: &BTreeMap<u64, (u32, &str)>) -> String {
    let (tgid, process) = vms[&vm];
    let of_process = vms.values().filter(|(other, _)| *other == tgid).count();
    let process = process_label(&short(process, PROCESS), tgid);
    match of_process {
        1 => process,
        all if all == vms.len() => format!("VM {vm}"),
        _ => format!("{process} VM {vm}"),
    }
}

/// Characters of the name of a process that a device goes by.
const PROCESS: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::sample;
    use crate::reading::EXACT;
    use crate::region::{Given, Owner, Region, Source};
    use crate::view::Sort;

    fn table(view: &View) -> Vec<(u64, Option<u32>, String, u64)> {
        rows(&sample::two_vms(), &Names::default(), view)
            .into_iter()
            .map(|row| (row.key.vm, row.key.vcpu, row.name, row.counts.count))
            .collect()
    }

    fn row(vm: u64, vcpu: Option<u32>, name: &str, count: u64) -> (u64, Option<u32>, String, u64) {
        (vm, vcpu, name.to_owned(), count)
    }

    #[test]
    fn vcpus_are_summed() {
        assert_eq!(
            table(&View::default()),
            [
                row(1, None, "0xfe003000", 10000),
                row(1, None, "local APIC", 600),
                row(2, None, "HPET", 42),
                row(1, None, "0xfebd0000", 20),
            ]
        );
    }

    #[test]
    fn or_not() {
        let view = View {
            by: By::Page,
            per_vcpu: true,
            sort: Sort::Userspace,
            filter: Filter {
                name: Some(Regex::new("^0x").unwrap()),
                ..Filter::default()
            },
        };
        assert_eq!(
            table(&view),
            [
                row(1, Some(0), "0xfebd0000", 20),
                row(1, Some(0), "0xfe003000", 9000),
                row(1, Some(1), "0xfe003000", 1000),
            ]
        );
    }

    #[test]
    fn filters() {
        let filter = |vms: &[u64], pids: &[u32], vcpus: &[u32]| {
            table(&View {
                filter: Filter {
                    vms: vms.to_vec(),
                    pids: pids.to_vec(),
                    vcpus: vcpus.to_vec(),
                    name: None,
                },
                ..View::default()
            })
        };
        assert_eq!(filter(&[2], &[], &[]), [row(2, None, "HPET", 42)]);
        assert_eq!(filter(&[], &[4712], &[]), [row(2, None, "HPET", 42)]);
        assert_eq!(filter(&[1], &[4712], &[]), []);
        assert_eq!(filter(&[], &[], &[1]), [row(1, None, "0xfe003000", 1000)]);
    }

    #[test]
    fn devices() {
        let rows = rows(&sample::two_vms(), &Names::default(), &View::default());
        let devices: Vec<_> = by_device(&rows)
            .into_iter()
            .map(|(name, counts)| (name, counts.count))
            .collect();
        let expected = [
            ("PID 4711: 0xfe003000", 10000),
            ("PID 4711: local APIC", 600),
            ("PID 4712: HPET", 42),
            ("PID 4711: 0xfebd0000", 20),
        ];
        assert_eq!(
            devices,
            expected.map(|(name, count)| (name.to_owned(), count))
        );
    }

    #[test]
    fn vms_of_one_process_have_devices_of_their_own() {
        let mut reading = sample::two_vms();
        let mut labels = || {
            let rows = rows(&reading, &Names::default(), &View::default());
            let labels = by_device(&rows).into_iter().map(|(label, _)| label);
            let mut labels: Vec<_> = labels.filter(|label| label.contains("APIC")).collect();
            labels.sort();
            let again = reading.vms[&1].clone();
            reading.vms.insert(3, again);
            labels
        };
        assert_eq!(labels(), ["PID 4711: local APIC"]);
        let both = ["PID 4711 VM 1: local APIC", "PID 4711 VM 3: local APIC"];
        assert_eq!(labels(), both);
        reading.vms.remove(&2);
        let rows = rows(&reading, &Names::default(), &View::default());
        assert!(
            by_device(&rows)
                .iter()
                .all(|(label, _)| label.starts_with("VM "))
        );
    }

    #[test]
    fn devices_of_one_page() {
        const AT: u64 = 0xfe00_3000;

        let region = |name: &str, start: u64| Given {
            owner: Owner::All,
            region: Region {
                name: name.to_owned(),
                start,
                last: start + 511,
                source: Source::User,
            },
        };
        let given = vec![region("left", AT), region("right", AT + 512)];
        let names = Names::new(given, [].into());
        let mut reading = sample::traced();
        let told = |reading: &Reading| {
            let rows = rows(reading, &names, &View::default()).into_iter();
            let rows = rows.filter(|row| row.key.gpa & !(PAGE - 1) == AT);
            rows.map(|row| (row.key.gpa, row.name, row.shared.len(), row.counts.count))
                .collect::<Vec<_>>()
        };
        assert_eq!(told(&reading), [(AT, "left + right".to_owned(), 2, 10000)]);
        // One of the two vCPUs has accessed the other device.
        let vcpu = reading.vms.get_mut(&1).unwrap().vcpus.get_mut(&1).unwrap();
        let (&(_, rip), site) = vcpu.sites.last_key_value().unwrap();
        let (place, site) = ((AT + 512, rip), site.clone());
        vcpu.sites.remove(&(AT, rip));
        vcpu.sites.insert(place, site);
        for vcpu in reading.vms.get_mut(&1).unwrap().vcpus.values_mut() {
            let rest = vcpu.sites.remove(&(AT, None)).unwrap();
            vcpu.sites.insert((SOMEWHERE | AT, None), rest);
        }
        reading.clock.flags |= EXACT;
        assert_eq!(
            told(&reading),
            [
                (AT, "left".to_owned(), 0, 8995),
                (AT + 512, "right".to_owned(), 0, 995),
                (AT, "left + right".to_owned(), 2, 10),
            ]
        );
        let pages = page_rows(&reading, &names, &View::default());
        let page = pages.iter().find(|row| row.key.gpa == AT).unwrap();
        assert_eq!(page.counts.count, 10000);
    }
}
