// SPDX-License-Identifier: GPL-2.0
//! Recordings: readings over time, in a file.
//!
//! The first frame tells where and how it was made; names that are given, and those of processes
//! once they are known, have frames of their own. Each sample has the state of all VMs, and of
//! vCPUs and pages those that have changed since the sample before, with their whole state. The
//! last frame says that nothing is missing.

mod content;
pub mod frame;

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use crate::reading::Reading;
use crate::region::{Given, Names, Owner};
use content::{Frame, Sample, apply_sites, sites_between};
use frame::{Damage, Fault};

pub use content::Start;

/// Writes a recording.
pub struct Recorder<W> {
    out: frame::Writer<W>,
    /// The state after the last sample.
    last: Reading,
    /// Ranges, and names of processes, that have been written.
    given: Vec<Given>,
    processes: BTreeMap<u32, String>,
    /// Bytes of the file so far.
    pub bytes: u64,
}

impl<W: Write> Recorder<W> {
    pub fn new(out: W, start: Start) -> io::Result<Self> {
        let mut recorder = Self {
            out: frame::Writer::new(out)?,
            last: Reading::default(),
            given: Vec::new(),
            processes: BTreeMap::new(),
            bytes: frame::MAGIC.len() as u64,
        };
        let host = start.host.clone();
        recorder.write(&Frame::Start(start))?;
        if !host.is_empty() {
            recorder.write(&Frame::Host(host))?;
        }
        Ok(recorder)
    }

    /// Writes all ranges if any has changed: one that has gone must not name what has come.
    pub fn give(&mut self, given: Vec<Given>) -> io::Result<()> {
        if given == self.given {
            return Ok(());
        }
        self.given.clone_from(&given);
        self.write(&Frame::Given(given))
    }

    /// Writes the names of processes that have not been written yet.
    pub fn name(&mut self, processes: &BTreeMap<u32, String>) -> io::Result<()> {
        let mut new = processes.clone();
        new.retain(|process, _| !self.processes.contains_key(process));
        if new.is_empty() {
            return Ok(());
        }
        self.processes.extend(new.clone());
        self.write(&Frame::Processes(new))
    }

    pub fn add(&mut self, reading: &Reading) -> io::Result<()> {
        let sites = sites_between(&self.last, reading);
        if !sites.is_empty() {
            self.write(&Frame::Sites(sites))?;
        }
        self.write(&Frame::Sample(Sample::between(&self.last, reading)))?;
        self.last.clone_from(reading);
        Ok(())
    }

    pub fn finish(mut self) -> io::Result<u64> {
        self.write(&Frame::End)?;
        Ok(self.bytes)
    }

    fn write(&mut self, frame: &Frame) -> io::Result<()> {
        let payload = postcard::to_stdvec(frame).map_err(io::Error::other)?;
        self.bytes += self.out.write(&payload)?;
        Ok(())
    }
}

/// Reads a recording, one sample after another.
pub struct Player<R> {
    input: frame::Reader<R>,
    pub start: Start,
    given: Vec<Given>,
    processes: BTreeMap<u32, String>,
    state: Reading,
    /// The end frame has been read.
    ended: bool,
}

impl<R: Read> Player<R> {
    pub fn new(input: R) -> Result<Self, Damage> {
        let mut input = frame::Reader::new(input)?;
        let start = match next(&mut input)? {
            Some((_, Frame::Start(start))) => start,
            Some((offset, _)) => {
                let fault = Fault::Content("the first frame is none of a start".to_owned());
                return Err(Damage { offset, fault });
            }
            None => {
                let (offset, fault) = (input.offset(), Fault::NoEnd);
                return Err(Damage { offset, fault });
            }
        };
        let state = Reading {
            counters: start.counters.clone(),
            ..Reading::default()
        };
        let owner = Owner::Only;
        let old = start.regions.iter().cloned();
        Ok(Self {
            input,
            given: old.map(|region| Given { owner, region }).collect(),
            processes: BTreeMap::new(),
            start,
            state,
            ended: false,
        })
    }

    /// The names so far; those that are `given` besides come first.
    pub fn names(&self, given: Vec<Given>) -> Names {
        Names::new([given, self.given.clone()].concat(), self.processes.clone())
    }

    /// Up to version 5 of the format, a frame had what is new.
    fn give(&mut self, given: Vec<Given>) {
        if self.input.version() < 6 {
            self.given.extend(given);
        } else {
            self.given = given;
        }
    }

    /// The state at the next sample; None behind the last one.
    pub fn step(&mut self) -> Result<Option<&Reading>, Damage> {
        let content = |offset, fault| Damage { offset, fault };
        loop {
            match next(&mut self.input)? {
                Some((offset, _)) if self.ended => return Err(content(offset, Fault::Trailing)),
                Some((offset, Frame::Sample(sample))) => {
                    sample
                        .apply(&mut self.state)
                        .map_err(|fault| content(offset, fault))?;
                    return Ok(Some(&self.state));
                }
                Some((_, Frame::Given(given))) => self.give(given),
                Some((_, Frame::Processes(new))) => self.processes.extend(new),
                Some((_, Frame::Sites(sites))) => {
                    apply_sites(sites, self.input.version(), &mut self.state);
                }
                Some((_, Frame::Host(host))) => self.start.host = host,
                Some((_, Frame::End)) => self.ended = true,
                Some((offset, Frame::Start(_))) => {
                    let fault = Fault::Content("a second start".to_owned());
                    return Err(content(offset, fault));
                }
                None if self.ended => return Ok(None),
                None => return Err(content(self.input.offset(), Fault::NoEnd)),
            }
        }
    }
}

/// The next frame, and where it begins.
fn next<R: Read>(input: &mut frame::Reader<R>) -> Result<Option<(u64, Frame)>, Damage> {
    let offset = input.offset();
    let damage = |fault| Damage { offset, fault };
    let Some(payload) = input.read().map_err(damage)? else {
        return Ok(None);
    };
    match postcard::take_from_bytes(&payload) {
        Ok((frame, [])) => Ok(Some((offset, frame))),
        Ok(_) => Err(damage(Fault::Content(
            "it is longer than it says".to_owned(),
        ))),
        Err(error) => Err(damage(Fault::Content(error.to_string()))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::device::sample;
    use crate::region::Region;
    use crate::site::SOMEWHERE;

    fn start() -> Start {
        Start {
            program: "1.2.3".to_owned(),
            kernel: "7.3.4".to_owned(),
            wall_clock: 1_800_000_000,
            interval_ms: 100,
            counters: sample::idle().counters,
            regions: Vec::new(),
            host: String::new(),
        }
    }

    #[test]
    fn the_host_comes_back() {
        let mut bytes = Vec::new();
        let host = "a-host".to_owned();
        let start = Start { host, ..start() };
        let mut recorder = Recorder::new(&mut bytes, start.clone()).unwrap();
        recorder.add(&grown(0)).unwrap();
        recorder.finish().unwrap();
        let mut player = Player::new(bytes.as_slice()).unwrap();
        player.step().unwrap();
        assert_eq!(player.start, start);
    }

    fn record(readings: &[Reading]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut recorder = Recorder::new(&mut bytes, start()).unwrap();
        for reading in readings {
            recorder.add(reading).unwrap();
        }
        let size = recorder.finish().unwrap();
        assert_eq!(size, bytes.len() as u64);
        bytes
    }

    /// The readings that can be played, and what ended them.
    fn play(bytes: &[u8]) -> (Vec<Reading>, Option<Damage>) {
        let mut player = match Player::new(bytes) {
            Ok(player) => player,
            Err(damage) => return (Vec::new(), Some(damage)),
        };
        let mut readings = Vec::new();
        loop {
            match player.step() {
                Ok(Some(reading)) => readings.push(reading.clone()),
                Ok(None) => return (readings, None),
                Err(damage) => return (readings, Some(damage)),
            }
        }
    }

    fn grown(by: u64) -> Reading {
        let mut reading = sample::two_vms();
        reading.clock.boottime += by * 100_000_000;
        for vcpu in reading.vms.get_mut(&1).unwrap().vcpus.values_mut() {
            vcpu.pages.get_mut(&0xfe00_3000).unwrap().counts.count += by;
        }
        reading
    }

    #[test]
    fn a_sample_has_what_changed() {
        let one = record(&[grown(0)]).len();
        let two = record(&[grown(0), grown(1)]).len();
        assert!(two - one < one / 2, "{two} after {one}");
    }

    #[test]
    fn no_end_is_damage_but_loses_nothing() {
        let mut bytes = record(&[grown(0), grown(1)]);
        let whole = bytes.len();
        bytes.truncate(whole - 9);
        let (readings, damage) = play(&bytes);
        let damage = damage.unwrap();
        assert_eq!(readings, [grown(0), grown(1)]);
        assert_eq!(damage.offset, bytes.len() as u64);
        assert!(matches!(damage.fault, Fault::NoEnd));
    }

    #[test]
    fn what_follows_the_end_is_damage() {
        let mut bytes = record(&[grown(0)]);
        let whole = bytes.len();
        bytes.extend_from_within(whole - 9..);
        let (readings, damage) = play(&bytes);
        assert_eq!(readings.len(), 1);
        assert_eq!(damage.unwrap().offset, whole as u64);
    }

    #[test]
    fn names_come_back() {
        let region = Region {
            name: "doorbell".to_owned(),
            start: 0xfe00_3000,
            last: 0xfe00_3fff,
            source: crate::region::Source::User,
        };
        let owner = Owner::Process(4711);
        let mut bytes = Vec::new();
        let mut recorder = Recorder::new(&mut bytes, start()).unwrap();
        recorder.give(vec![Given { owner, region }]).unwrap();
        let mut processes: BTreeMap<u32, String> = [(4711, "web".to_owned())].into();
        for name in ["db", "not once more"] {
            recorder.name(&processes).unwrap();
            recorder.add(&grown(0)).unwrap();
            processes.insert(4712, name.to_owned());
        }
        recorder.name(&[(4712, "db".to_owned())].into()).unwrap();
        recorder.name(&processes).unwrap();
        recorder.finish().unwrap();
        let mut player = Player::new(bytes.as_slice()).unwrap();
        while player.step().unwrap().is_some() {}
        let names = player.names(Vec::new());
        assert_eq!((names.process(4711), names.process(4712)), ("web", "db"));
        let maps = names.maps(&[4711, 4712].into());
        assert_eq!(maps.of(4711).device(0xfe00_3000), "doorbell");
        assert_eq!(maps.of(4712).device(0xfe00_3000), "0xfe003000");
    }

    fn given(name: &str, start: u64) -> Given {
        let region = Region {
            name: name.to_owned(),
            start,
            last: start + 0xfff,
            source: crate::region::Source::Qemu,
        };
        let owner = Owner::Process(4711);
        Given { owner, region }
    }

    /// Two devices that change places. Up to version 5, frames had what is new only.
    #[test]
    fn the_last_names_count() {
        let mut bytes = Vec::new();
        let mut recorder = Recorder::new(&mut bytes, start()).unwrap();
        for [first, second] in [["a", "b"], ["b", "a"]] {
            let both = vec![given(first, 0xd000_0000), given(second, 0xd000_1000)];
            recorder.give(both.clone()).unwrap();
            let size = recorder.bytes;
            recorder.give(both).unwrap();
            assert_eq!(recorder.bytes, size);
            recorder.add(&grown(0)).unwrap();
        }
        recorder.finish().unwrap();
        for (version, wanted) in [(6, ["b", "a"]), (5, ["a", "b"])] {
            bytes[11] = version;
            let mut player = Player::new(bytes.as_slice()).unwrap();
            while player.step().unwrap().is_some() {}
            let names = player.names(Vec::new());
            let maps = names.maps(&[4711].into());
            let found = [0xd000_0000, 0xd000_1000].map(|gpa| maps.of(4711).device(gpa));
            assert_eq!(found, wanted, "version {version}");
        }
    }

    /// Of version 2, which had no names of processes, and those of pages in the start.
    #[test]
    fn an_old_recording_is_read() {
        let region = Region {
            name: "doorbell".to_owned(),
            start: 0xfe00_3000,
            last: 0xfe00_3fff,
            source: crate::region::Source::User,
        };
        let mut start = start();
        start.regions.push(region);
        let mut bytes = Vec::new();
        let mut recorder = Recorder::new(&mut bytes, start).unwrap();
        recorder.add(&grown(0)).unwrap();
        recorder.finish().unwrap();
        bytes[11] = 2;
        let mut player = Player::new(bytes.as_slice()).unwrap();
        assert_eq!(player.step().unwrap(), Some(&grown(0)));
        let names = player.names(Vec::new());
        let maps = names.maps(&[4711].into());
        assert_eq!(maps.of(4711).device(0xfe00_3000), "doorbell");
    }

    #[test]
    fn instructions_come_back() {
        let mut twice = sample::traced();
        twice.add(&sample::traced());
        let readings = [sample::traced(), sample::traced(), twice];
        let (played, damage) = play(&record(&readings));
        assert!(damage.is_none(), "{damage:?}");
        assert_eq!(played, readings);
    }

    /// Of version 4, which had pages where there are addresses now.
    #[test]
    fn old_instructions_are_of_pages() {
        let mut bytes = record(&[sample::traced()]);
        bytes[11] = 4;
        let mut player = Player::new(bytes.as_slice()).unwrap();
        let reading = player.step().unwrap().unwrap();
        let vcpus = reading.vms.values().flat_map(|vm| vm.vcpus.values());
        let mut places = vcpus.flat_map(|vcpu| vcpu.sites.keys()).peekable();
        assert!(places.peek().is_some());
        assert!(places.all(|(address, _)| address & SOMEWHERE != 0));
    }

    proptest! {
        #[test]
        fn readings_come_back(readings in prop::collection::vec(sample::reading(), 0..5)) {
            let (played, damage) = play(&record(&readings));
            prop_assert!(damage.is_none(), "{:?}", damage);
            prop_assert_eq!(played, readings);
        }

        #[test]
        fn damage_anywhere(place in any::<prop::sample::Index>(), byte in 1u8..) {
            let readings = [grown(0), grown(1), grown(2)];
            let mut bytes = record(&readings);
            let place = place.index(bytes.len());
            bytes[place] ^= byte;
            // The same frames, of a version before.
            prop_assume!(place != 11 || !(2..6).contains(&bytes[11]));
            let (played, damage) = play(&bytes);
            let damage = damage.unwrap();
            prop_assert!(damage.offset <= place as u64);
            prop_assert_eq!(&played, &readings[..played.len()]);
            // Only the frame that was hit is lost, and what follows it.
            prop_assert_eq!(played.len(), (1..=3).filter(|n| record(&readings[..*n]).len() - 9 <= place).count());
        }

        /// Frames with good checksums and any content.
        #[test]
        fn hostile_frames(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..6)) {
            let mut bytes = Vec::new();
            let mut recorder = Recorder::new(&mut bytes, start()).unwrap();
            for payload in &payloads {
                recorder.out.write(payload).unwrap();
            }
            play(&bytes);
        }
    }
}
