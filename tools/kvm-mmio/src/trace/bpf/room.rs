// SPDX-License-Identifier: GPL-2.0
//! Room in the maps of the programs: what VMs had that have ended is for the next ones.
//!
//! The programs find places and times by their keys, in hashes. Once a key is removed there, nobody
//! finds what it was of; that is cleared then, and its number put into a ring that the programs take
//! numbers from. While a key is removed, the kernel runs no program on the processor that does it:
//! an event that comes just then, as the kernel has run something else, is lost, and counted as such
//! since Linux 6.7. So keys are removed only of what has ended.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;

use anyhow::Result;
use aya::Pod;
use aya::maps::{HashMap, MapData, MapError};
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use super::programs::Programs;
use super::tally::{Place, Tally, Time, Totals};
use super::words::Words;

pub struct Room {
    place_of: HashMap<MapData, [u64; 3], u32>,
    time_of: HashMap<MapData, u64, u32>,
    threads: HashMap<MapData, u32, [u64; 6]>,
    spare_places: Words,
    spare_times: Words,
    /// Processes have the same numbers here as the programs see.
    sees_processes: bool,
}

impl Room {
    pub fn new(programs: &mut Programs) -> Result<Self> {
        Ok(Self {
            place_of: programs.take_hash("place_of")?,
            time_of: programs.take_hash("time_of")?,
            threads: programs.take_hash("threads")?,
            spare_places: programs.words("spare_places")?,
            spare_times: programs.words("spare_times")?,
            sees_processes: is_initial_namespace(),
        })
    }

    /// Those of these processes that have ended.
    pub fn ended(&self, mut processes: BTreeSet<u32>) -> BTreeSet<u32> {
        processes.retain(|process| self.sees_processes && has_ended(*process));
        processes
    }

    /// Frees what processes have, which have ended, and threads that have. If that fails, all is
    /// as before but for keys, and may be tried again. `words` are places, times and totals, as
    /// which so many places and times were `given` before.
    pub fn free(
        &mut self,
        tally: &Tally,
        ended: &BTreeSet<u32>,
        given: [u64; 2],
        words: [&Words; 3],
    ) -> Result<()> {
        let [places, times] = tally.of(ended);
        for time in &times {
            remove(&mut self.time_of, tally.times[*time].key)?;
        }
        for place in &places {
            remove(&mut self.place_of, tally.places[*place].key)?;
        }
        self.forget_threads()?;
        let [of_places, of_times, totals] = words;
        let give =
            |indices: Vec<usize>, records: &Words, size: usize, ring: &Words, kind: usize| {
                let mut given = given[kind];
                for index in indices {
                    (0..size).for_each(|word| records.store(index * size + word, 0));
                    ring.store(slot(given), index as u64 + 1);
                    given += 1;
                }
                // What precedes it is there for whoever sees this.
                totals.store(Totals::GIVEN[kind], given);
            };
        give(places, of_places, Place::WORDS, &self.spare_places, 0);
        give(times, of_times, Time::WORDS, &self.spare_times, 1);
        Ok(())
    }

    /// Of any process, as there is room for so many only.
    fn forget_threads(&mut self) -> Result<()> {
        let threads: Vec<u32> = self.threads.keys().collect::<Result<_, _>>()?;
        let mut ended = threads.into_iter().filter(|thread| has_ended(*thread));
        ended.try_for_each(|thread| remove(&mut self.threads, thread))
    }
}

/// Where in a ring the next one is, of so many before.
fn slot(given: u64) -> usize {
    // PLACES and TIMES in bpf/counts.h.
    (given % 65536) as usize
}

/// That it is not there is as well.
fn remove<K: Pod, V: Pod>(map: &mut HashMap<MapData, K, V>, key: K) -> Result<()> {
    match map.remove(&key) {
        Err(MapError::SyscallError(error)) if error.io_error.kind() == ErrorKind::NotFound => {
            Ok(())
        }
        done => Ok(done?),
    }
}

/// Whether there is no such process or thread, also where /proc hides those of others.
fn has_ended(number: u32) -> bool {
    let number = i32::try_from(number).ok().and_then(Pid::from_raw);
    number.is_some_and(|number| test_kill_process(number) == Err(Errno::SRCH))
}

/// As the kernel calls that of all processes (`PROC_PID_INIT_INO`).
fn is_initial_namespace() -> bool {
    let name = fs::read_link("/proc/self/ns/pid");
    name.is_ok_and(|name| name.as_os_str() == "pid:[4026531836]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_lives_or_does_not() {
        assert!(!has_ended(std::process::id()));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        // Until somebody has waited for it, its number is its own.
        assert!(!has_ended(child.id()));
        child.wait().unwrap();
        assert!(has_ended(child.id()));
        // No process.
        assert!(!has_ended(0) && !has_ended(u32::MAX));
    }
}
