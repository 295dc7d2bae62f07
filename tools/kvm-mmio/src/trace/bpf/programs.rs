// SPDX-License-Identifier: GPL-2.0
//! The programs in the kernel, and the memory that they count in.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use aya::programs::TracePoint;
use aya::{Ebpf, EbpfLoader, Pod};
use perf_event_open::config::{Cpu, Opts, Proc};
use perf_event_open::count::Counter;
use perf_event_open::event::tp::Tracepoint;

use super::layout::{self, Variable};
use super::words::Words;
use crate::device::System;
use crate::trace::event::{Format, Kind};

/// Empty if there was no compiler for it, see bpf/build.rs.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/count.bpf.o"));

/// As long as they live, they are attached if they have been.
pub struct Programs {
    all: Ebpf,
    formats: Vec<Format>,
    attached: Vec<Counter>,
}

impl Programs {
    /// Has the kernel accept them, with the one for times if these are wanted.
    pub fn load(system: &System, times: bool) -> Result<Self> {
        ensure!(
            !OBJECT.is_empty(),
            "this program was built without clang, which compiles for it"
        );
        let formats = formats(system, times)?;
        let mut variables = vec![("is_timed", u32::from(times))];
        for format in &formats {
            variables.extend(layout::variables(format)?);
        }
        let mut all = load(&variables)?;
        for format in &formats {
            program(&mut all, format.kind)?.load()?;
        }
        Ok(Self {
            all,
            formats,
            attached: Vec::new(),
        })
    }

    /// That of exits is the last, as others count nothing before it has seen a thread.
    pub fn attach(&mut self) -> Result<()> {
        for format in self.formats.iter().rev() {
            let program = program(&mut self.all, format.kind)?;
            self.attached.push(attach(program, format.id)?);
        }
        Ok(())
    }

    /// How often they were not run, as another program was at work on the processor.
    pub fn missed(&self) -> u64 {
        let programs = self.all.programs();
        let missed = programs.filter_map(|(_, program)| {
            let file = program.fd().ok()?.as_fd().as_raw_fd();
            misses(&fs::read_to_string(format!("/proc/self/fdinfo/{file}")).ok()?)
        });
        missed.sum()
    }

    /// A map of theirs, from now on the caller's alone.
    pub fn take_hash<K: Pod, V: Pod>(&mut self, name: &str) -> Result<HashMap<MapData, K, V>> {
        let map = self.all.take_map(name).context(name.to_owned())?;
        Ok(HashMap::try_from(map)?)
    }

    /// An array of theirs.
    pub fn words(&self, name: &'static str) -> Result<Words> {
        let Some(Map::Array(array)) = self.all.map(name) else {
            anyhow::bail!("there is no array {name}");
        };
        let info = array.info()?;
        let bytes = info.max_entries() as usize * info.value_size() as usize;
        Ok(Words::map(array.fd(), bytes)?)
    }
}

fn formats(system: &System, times: bool) -> Result<Vec<Format>> {
    let more: &[Kind] = if times { &[Kind::Entry] } else { &[] };
    let kinds = [&Kind::COUNTED, more].concat();
    let formats = kinds.into_iter().map(|kind| Format::read(system, kind));
    Ok(formats.collect::<Result<_, _>>()?)
}

fn load(variables: &[Variable]) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    // Where fields are is said by tracefs, so the types of this kernel are not needed.
    loader.btf(None);
    for (name, value) in variables {
        loader.set_global(name, value, true);
    }
    Ok(loader.load(OBJECT)?)
}

fn program(all: &mut Ebpf, kind: Kind) -> Result<&mut TracePoint> {
    let program = all.program_mut(kind.name()).context(kind.name())?;
    Ok(program.try_into()?)
}

/// As long as the counter is open, the program is run wherever the tracepoint is passed. It is of
/// this thread alone and not enabled, so that the kernel counts nothing besides.
fn attach(program: &TracePoint, id: u64) -> Result<Counter> {
    let target = (Proc::CURRENT, Cpu::ALL);
    let counter = Counter::new(Tracepoint { id }, target, Opts::default())?;
    counter.attach_bpf(&File::from(program.fd()?.as_fd().try_clone_to_owned()?))?;
    Ok(counter)
}

/// What the kernel says of a program's file. None if it is too old.
fn misses(info: &str) -> Option<u64> {
    let mut lines = info.lines();
    let count = lines.find_map(|line| line.strip_prefix("recursion_misses:"))?;
    count.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_missed_is_known() {
        let info = "pos:\t0\nprog_type:\t5\nrun_cnt:\t0\nrecursion_misses:\t17\n";
        assert_eq!(misses(info), Some(17));
        assert_eq!(misses("pos:\t0\n"), None);
    }

    #[test]
    #[ignore = "needs clang where this was built"]
    fn they_were_compiled() {
        assert!(!OBJECT.is_empty());
    }
}
