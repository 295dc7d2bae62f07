// SPDX-License-Identifier: GPL-2.0
//! What is asked for at random: each call ends as the model says, and leaves what the model has.

use std::io;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, ensure};

use super::Limits;
use super::model::{errors_of_adding, errors_of_removing};
use super::world::{Added, FILES, Fd, VMS, World};
use crate::guest::{Event, Machine, Mode, Place, Registers, Request, on_read, on_write, signal};
use crate::host::locked_pages;
use crate::random::Random;
use crate::{expect_eq, skip, tap};

pub const PROVES: &str = "src/registers.rs: \
    each request, however wrong, ends as documented, and the registers are those of the good ones";

/// Where registers may be, from the first address of the guest's window.
const PLACES: u64 = 64;
/// Calls between two looks at what is there.
const CALLS: u64 = 50;

#[derive(Debug, Default)]
struct Counts {
    added: u64,
    removed: u64,
    refused: u64,
    closed: u64,
    destroyed: u64,
    looks: u64,
}

pub fn run(limits: Limits) -> Result<()> {
    let Some(mut world) = World::new()? else {
        skip!("the extension is not loaded");
    };
    let mut random = Random::new(limits.seed);
    let mut counts = Counts::default();
    for call in 0..limits.calls {
        world
            .call(&mut random, &mut counts)
            .with_context(|| format!("call {call}"))?;
        if call % CALLS == 0 {
            world
                .look(&mut random)
                .with_context(|| format!("after call {call}: {:x?}", world.added))?;
            counts.looks += 1;
        }
    }
    tap::note(format!("{} calls: {counts:?}", limits.calls));
    ensure!(counts.added > 0 && counts.removed > 0 && counts.refused > 0);
    drop(world);
    expect_eq!(locked_pages()?, 0);
    Ok(())
}

impl World {
    fn call(&mut self, random: &mut Random, counts: &mut Counts) -> Result<()> {
        match random.below(1000) {
            0..600 => self.add(random, counts),
            600..990 => self.remove(random, counts),
            990..998 => {
                counts.closed += 1;
                self.close(random.below(FILES) as usize)
            }
            _ => {
                counts.destroyed += 1;
                self.destroy(random.below(VMS) as usize)
            }
        }
    }

    fn add(&mut self, random: &mut Random, counts: &mut Counts) -> Result<()> {
        let file = random.below(FILES) as usize;
        let request = self.random_request(random);
        let allowed = errors_of_adding(self, &request);
        let result = self.files[file].add(&request);
        if ends_as_allowed(&allowed, result).with_context(|| format!("adding {request:x?}"))? {
            let Fd::Vm(vm) = self.fd(request.vm_fd) else {
                unreachable!("it was added to a VM");
            };
            self.added.push(Added { file, vm, request });
            counts.added += 1;
        } else {
            counts.refused += 1;
        }
        Ok(())
    }

    fn remove(&mut self, random: &mut Random, counts: &mut Counts) -> Result<()> {
        let mut file = random.below(FILES) as usize;
        let mut place = Place {
            gpa: self.gpa() + random.below(PLACES),
            vm_fd: self.random_vm(random),
            reserved: u32::from(random.percent(2)),
        };
        if !self.added.is_empty() && random.percent(80) {
            let added = random.pick(&self.added);
            place.gpa = added.request.gpa;
            if random.percent(90) {
                (file, place.vm_fd) = (added.file, self.vms[added.vm].0.vm().as_raw_fd());
            }
        }
        let allowed = errors_of_removing(self, file, &place);
        let result = self.files[file].remove(&place);
        if ends_as_allowed(&allowed, result).with_context(|| format!("removing {place:x?}"))? {
            let Fd::Vm(vm) = self.fd(place.vm_fd) else {
                unreachable!("it was removed from a VM");
            };
            self.added.retain(|added| !added.is_at(vm, place.gpa));
            counts.removed += 1;
        } else {
            counts.refused += 1;
        }
        Ok(())
    }

    /// The registers of a file go with it.
    fn close(&mut self, file: usize) -> Result<()> {
        self.files[file] = Registers::open()?.context("the extension has gone")?;
        self.added.retain(|added| added.file != file);
        Ok(())
    }

    /// Those of a VM as well.
    fn destroy(&mut self, vm: usize) -> Result<()> {
        self.vms[vm] = Machine::with_vcpu(Mode::Long)?;
        self.added.retain(|added| added.vm != vm);
        Ok(())
    }

    /// Compares what there is: pages, and what an access of each size does at one place.
    fn look(&mut self, random: &mut Random) -> Result<()> {
        expect_eq!(locked_pages()?, self.added.len() as u64);
        let (vm, offset) = (random.below(VMS) as usize, random.below(PLACES));
        for size in [1, 2, 4, 8] {
            let value = random.next() & u64::MAX >> (64 - 8 * u64::from(size));
            self.write(vm, offset, size, value)
                .with_context(|| format!("VM {vm}, {value:#x} of {size} to {offset:#x}"))?;
        }
        Ok(())
    }

    fn write(&mut self, vm: usize, offset: u64, size: u8, value: u64) -> Result<()> {
        let (machine, vcpu) = &mut self.vms[vm];
        let (gva, gpa) = (machine.gva(1) + offset, machine.gpa(1) + offset);
        self.memory.write_u64(0, u64::MAX);
        let writes = |added: &&Added| {
            let request = &added.request;
            let is_all = added.is_at(vm, gpa) && request.len == u32::from(size);
            is_all && request.on_write != on_write::EXIT
        };
        let register = self.added.iter().find(writes);
        let events = vcpu.write(gva, size, value)?;
        let Some(Added { request, .. }) = register else {
            expect_eq!(events, [Event::write(gpa, size.into(), value)]);
            expect_eq!(self.event.read().unwrap_or(0), 0);
            return Ok(());
        };
        expect_eq!(events, []);

        // All words are of the first 8 bytes, so that one look shows whatever has changed.
        let shift = 8 * (request.user_addr - self.memory.hva());
        let mask = u64::MAX >> (64 - 8 * u64::from(size)) << shift;
        let written = value << shift;
        let new = match request.on_write {
            on_write::STORE => !mask | written,
            on_write::CLEAR => !written,
            _ => u64::MAX,
        };
        expect_eq!(self.memory.read_u64(0), new);
        let rings = match request.signal {
            signal::NEVER => false,
            signal::ALWAYS => true,
            signal::VALUE => value == request.datamatch,
            _ => new != u64::MAX,
        };
        expect_eq!(self.event.read().unwrap_or(0), u64::from(rings));
        Ok(())
    }

    fn random_vm(&self, random: &mut Random) -> i32 {
        let vm = random.below(VMS) as usize;
        let vm = self.vms[vm].0.vm().as_raw_fd();
        match random.below(40) {
            0 => -1,
            1 => self.event.as_raw_fd(),
            2 => self.other.as_raw_fd(),
            3 => random.next() as i32 | 1 << 20,
            _ => vm,
        }
    }

    /// Mostly one that is good, with a field or two that may not be.
    fn random_request(&self, random: &mut Random) -> Request {
        let len = random.pick(&[1, 2, 4, 8]);
        let signals = random.percent(50);
        let mut request = Request {
            gpa: self.gpa() + random.below(PLACES / len) * len,
            user_addr: self.memory.hva() + random.below(8 / len) * len,
            datamatch: 0,
            len: len as u32,
            vm_fd: self.random_vm(random),
            event_fd: -1,
            on_write: random.pick(&[on_write::STORE, on_write::CLEAR, on_write::SET]),
            on_read: random.pick(&[on_read::EXIT, on_read::RETURN, on_read::CLEAR]),
            signal: signal::NEVER,
            reserved: [0; 25],
        };
        if signals {
            request.event_fd = self.event.as_raw_fd();
            request.signal = random.pick(&[signal::ALWAYS, signal::VALUE, signal::CHANGE]);
        }
        if request.signal == signal::VALUE {
            request.datamatch = random.next() & u64::MAX >> (64 - 8 * len);
        }
        while random.percent(20) {
            self.change_a_field(random, &mut request);
        }
        request
    }

    fn change_a_field(&self, random: &mut Random, request: &mut Request) {
        match random.below(10) {
            0 => request.gpa = random.pick(&[request.gpa + 1, u64::MAX - 7, u64::MAX, request.gpa]),
            // Nothing is at the first page, beyond a process's last, and at no address at all.
            1 => request.user_addr = random.pick(&[request.user_addr + 1, 8, 1 << 47, 1 << 63]),
            2 => request.datamatch = random.next() >> random.below(64),
            3 => request.len = random.pick(&[0, 3, 16, 1 << 16, 1 << 31, 4]),
            4 => request.vm_fd = self.random_vm(random),
            5 => request.event_fd = self.random_event(random),
            6 => request.on_write = random.below(6) as u8,
            7 => request.on_read = random.below(6) as u8,
            8 => request.signal = random.below(6) as u8,
            _ => request.reserved[random.below(25) as usize] = random.below(256) as u8,
        }
    }

    fn random_event(&self, random: &mut Random) -> i32 {
        let vm = self.vms[0].0.vm().as_raw_fd();
        let (event, other) = (self.event.as_raw_fd(), self.other.as_raw_fd());
        random.pick(&[-1, i32::MIN, i32::MAX, vm, other, event])
    }
}

/// Whether a call has succeeded, which it must if no error is allowed, and must not otherwise.
fn ends_as_allowed(allowed: &[i32], result: io::Result<()>) -> Result<bool> {
    let error = result.as_ref().err().and_then(io::Error::raw_os_error);
    let is_right = match error {
        None => allowed.is_empty(),
        Some(error) => allowed.contains(&error),
    };
    ensure!(is_right, "{result:?}, allowed are the errors {allowed:?}");
    Ok(error.is_none())
}
