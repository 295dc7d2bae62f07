// SPDX-License-Identifier: GPL-2.0
//! The statistics file tells apart which instruction has accessed a page, for who asks for it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;

use anyhow::{Context, Result};

use super::heat::Heat;
use super::watch::{PAGE_COUNTS, access, values, watched};
use crate::expect_eq;
use crate::guest::vcpu::{mov_from_memory, mov_to_memory};
use crate::guest::{Bus, Match, Mode};
use crate::stats::device::{Device, PATH, Vcpu};

crate::test_table! {
    observe_instructions: "the statistics file: by instruction for who asks, exactly" => instructions(),
    observe_instructions_begin_and_end:
        "the statistics file: instructions are told apart as long as the file is open"
        => begin_and_end(),
    observe_instructions_refused: "the statistics file: what else is written to it is refused"
        => refused(),
}

const WORD: &[u8] = b"instructions";

/// What `rip` is if it was not told.
const UNKNOWN: u64 = u64::MAX;

fn open_telling() -> Result<Device> {
    let device = Device::open_counting()?;
    expect_eq!((&device.0).write(WORD)?, WORD.len());
    Ok(device)
}

/// The counts of a page by instruction.
fn by_rip(vcpu: &Vcpu, gpa: u64) -> BTreeMap<u64, [u64; 5]> {
    let pages = vcpu.pages.iter().filter(|page| page["gpa"] == gpa);
    pages
        .map(|page| (page["rip"], values(page, PAGE_COUNTS)))
        .collect()
}

/// Stores and loads of two sizes, to userspace and to a doorbell, from the first access on.
fn instructions() -> Result<()> {
    let (_heat, device, machine, mut vcpu) = watched(Heat::off()?)?;
    let _telling = open_telling()?;
    let data = Match::Data { len: 4, value: 0 };
    let bell = machine.doorbell(Bus::Mmio(machine.gpa(2)), data)?;
    let store = vcpu.load(mov_to_memory(Mode::Long, 4))?;
    let short_store = vcpu.load(mov_to_memory(Mode::Long, 2))?;
    let load = vcpu.load(mov_from_memory(Mode::Long, 4))?;
    for _ in 0..3 {
        access(&machine, &mut vcpu, 1, 4, (1, 2))?;
        access(&machine, &mut vcpu, 1, 2, (4, 0))?;
        for _ in 0..5 {
            vcpu.write(machine.gva(2), 4, 0)?;
        }
    }
    expect_eq!(bell.rings()?, 15);

    let vms = device.my_vms()?;
    let seen = &vms[0].vcpus[0];
    seen.expect_all_recorded()?;
    let wanted = BTreeMap::from([
        (store, [3, 0, 3, 0, 3]),
        (short_store, [12, 0, 12, 0, 12]),
        (load, [6, 6, 0, 0, 6]),
    ]);
    expect_eq!(by_rip(seen, machine.gpa(1)), wanted);
    let wanted = BTreeMap::from([(store, [15, 0, 15, 15, 0])]);
    expect_eq!(by_rip(seen, machine.gpa(2)), wanted);
    Ok(())
}

/// Of the stores so far, those that were told, and those that were not.
fn begin_and_end() -> Result<()> {
    const TELLS: u32 = 1 << 3;
    let (_heat, device, machine, mut vcpu) = watched(Heat::on()?)?;
    let store = vcpu.load(mov_to_memory(Mode::Long, 4))?;
    let mut expect = |step: &str, told: u64, untold: u64| -> Result<()> {
        access(&machine, &mut vcpu, 1, 4, (3, 0))?;
        let vms = device.my_vms()?;
        let seen = by_rip(&vms[0].vcpus[0], machine.gpa(1));
        let writes = |rip| seen.get(&rip).map_or(0, |counts| counts[2]);
        expect_eq!((writes(store), writes(UNKNOWN)), (told, untold), "{step}");
        Ok(())
    };
    let tells = || Ok::<_, anyhow::Error>(device.snapshot()?.flags & TELLS != 0);
    expect("nobody has asked", 0, 3)?;
    let first = open_telling()?;
    expect_eq!(tells()?, true);
    expect("one", 3, 3)?;
    let second = File::options().write(true).open(PATH)?;
    (&second).write_all(b"instructions\n")?;
    (&second).write_all(WORD)?;
    drop(first);
    expect("another", 6, 3)?;
    let counts_only = Device::open_counting()?;
    drop(second);
    expect_eq!(tells()?, false);
    expect("nobody any more", 6, 6)?;
    drop(counts_only);
    expect("once more", 6, 9)
}

fn refused() -> Result<()> {
    let _heat = Heat::off()?;
    let device = Device::open_counting()?;
    let long = [WORD, b"\n\n"].concat();
    for text in [&b"x"[..], b"", b"instruction", b"instructions \nx", &long] {
        let error = (&device.0).write(text).err();
        let error = error.with_context(|| format!("{text:?} was taken"))?;
        expect_eq!(error.raw_os_error(), Some(libc::EINVAL), "{text:?}");
    }
    let error = (&Device::open()?.0).write(WORD).err();
    let error = error.context("a file that is open for reading only was written")?;
    expect_eq!(error.raw_os_error(), Some(libc::EBADF));
    expect_eq!(device.snapshot()?.flags & (1 << 3), 0);
    Ok(())
}
