// SPDX-License-Identifier: GPL-2.0
//! kvm-mmio and many VMs at once, each of a process of its own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::exported::{Exporter, sum};
use super::programs::{Recorder, Scratch, need, number};
use super::traced::{has_bpf, sources};
use crate::host;
use crate::{expect_eq, skip};

crate::test_table! {
    observe_by_many_vms: "kvm-mmio counts many VMs apart, and says which of them have ended"
        => many_vms(),
    observe_by_many_places: "kvm-mmio says how many accesses of many VMs BPF had no room for"
        => many_places(),
    observe_by_many_ended:
        "kvm-mmio has BPF count on, and loses nothing, where VMs that end were more than it has room for"
        => many_ended(),
}

/// A VM that has stored to some bytes, one after another, and waits for its end.
struct Held {
    process: Child,
    bytes: u64,
}

impl Held {
    fn start(bytes: u64) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--hold", "--bytes", &bytes.to_string()]);
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Ok(Self {
            process: command.spawn()?,
            bytes,
        })
    }

    fn wait_until_it_holds(&mut self) -> Result<()> {
        let output = self.process.stdout.as_mut().context("no output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        expect_eq!(line, "holding\n");
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        drop(self.process.stdin.take());
        let status = self.process.wait()?;
        ensure!(status.success(), "{status}");
        Ok(())
    }
}

impl Drop for Held {
    /// Of a test that has failed.
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// So many VMs that live at once.
fn hold_all(bytes: impl Iterator<Item = u64>) -> Result<Vec<Held>> {
    let mut guests: Vec<Held> = bytes.map(Held::start).collect::<Result<_>>()?;
    guests.iter_mut().try_for_each(Held::wait_until_it_holds)?;
    Ok(guests)
}

/// `kvm-mmio stat` by VM.
fn start(source: &str) -> Result<(Recorder, Scratch)> {
    let json = Scratch::new(&format!("{source}-vms"));
    let stat = ["--json", "stat", "--source", source, "--by", "vm"];
    let rest = ["--top", "1000", "-o", json.path()?, "--"];
    let recorder = Recorder::start("kvm-mmio", &[&stat[..], &rest].concat())?;
    Ok((recorder, json))
}

/// What it has said: all of some time, and of each VM.
fn stop((recorder, json): (Recorder, Scratch)) -> Result<(Value, Vec<Value>)> {
    recorder.stop()?;
    let text = fs::read_to_string(&json.0)?;
    let lines = text.lines().map(serde_json::from_str);
    let lines: Vec<Value> = lines.collect::<Result<_, _>>()?;
    let of = |kind| lines.iter().filter(move |line| line["kind"] == kind);
    let all = of("interval").next().context("no interval")?;
    Ok((all.clone(), of("group").cloned().collect()))
}

/// A hundred on KVM as it is; with the extension, which has many more settings that are tested,
/// fewer.
fn most_vms() -> u64 {
    match host::extension_enabled() {
        None => 100,
        Some(_) => 20,
    }
}

fn many_vms() -> Result<()> {
    need("kvm-mmio")?;
    let most = most_vms();
    let module = (host::extension_enabled() == Some(true)).then_some("module");
    let sources = sources()?.into_iter().chain(module);
    let started: Vec<_> = sources.map(start).collect::<Result<_>>()?;
    let mut guests = hold_all(1..=most)?;
    let half = guests.len() / 2;
    guests[..half].iter_mut().try_for_each(Held::end)?;
    for recorder in started {
        let (all, vms) = stop(recorder)?;
        expect_eq!(vms.len(), guests.len(), "{all}");
        expect_eq!(number(&all, "accesses"), most * (most + 1) / 2, "{all}");
        expect_eq!(number(&all, "events_lost"), 0, "{all}");
        for (index, guest) in guests.iter().enumerate() {
            let is_it = |vm: &&Value| number(vm, "tgid") == u64::from(guest.process.id());
            let vm = vms.iter().find(is_it);
            let vm = vm.with_context(|| format!("nothing of VM {index}: {vms:?}"))?;
            let told = ["count", "writes", "userspace"].map(|name| number(vm, name));
            expect_eq!(told, [guest.bytes; 3], "{vm}");
            expect_eq!(vm["ended"], index < half, "{vm}");
        }
    }
    guests.iter_mut().skip(half).try_for_each(Held::end)
}

/// More pairs of an address and an instruction than BPF has places for, though no vCPU has more
/// than its share.
fn many_places() -> Result<()> {
    const PLACES: u64 = 65536;
    const BYTES: u64 = 4000;
    const VMS: u64 = 17;

    need("kvm-mmio")?;
    if host::extension_enabled().is_some() {
        skip!("BPF counts the same without the extension, where this is tested");
    }
    if !has_bpf()? {
        skip!("the kernel is built without BPF");
    }
    let started = start("bpf")?;
    let mut guests = hold_all((0..VMS).map(|_| BYTES))?;
    let (all, vms) = stop(started)?;
    expect_eq!(number(&all, "accesses"), PLACES, "{all}");
    expect_eq!(number(&all, "events_lost"), VMS * BYTES - PLACES, "{all}");
    let sum = |name| vms.iter().map(|vm| number(vm, name)).sum::<u64>();
    expect_eq!(["count", "userspace"].map(sum), [PLACES; 2], "{vms:?}");
    guests.iter_mut().try_for_each(Held::end)
}

/// As many pairs of an address and an instruction as BPF has places for, and some more, of VMs that
/// end one after another, with a scrape now and then.
fn many_ended() -> Result<()> {
    const BYTES: u64 = 4000;
    const VMS: u64 = 20;

    need("kvm-mmio")?;
    if host::extension_enabled().is_some() {
        skip!("BPF counts the same without the extension, where this is tested");
    }
    if !has_bpf()? {
        skip!("the kernel is built without BPF");
    }
    let exporter = Exporter::start("bpf")?;
    let mut lives = Held::start(BYTES)?;
    lives.wait_until_it_holds()?;
    let accesses = |text: &str, vm: &Held| {
        let label = format!("pid=\"{}\"", vm.process.id());
        sum(text, "kvm_mmio_accesses_total", &[label])
    };
    for number in 1..=VMS {
        let mut guest = Held::start(BYTES)?;
        guest.wait_until_it_holds()?;
        // Of one half, there is no scrape before they end.
        if number % 2 == 0 {
            let text = exporter.scrape()?;
            expect_eq!(accesses(&text, &guest)?, BYTES, "VM {number}: {text}");
        }
        guest.end()?;
        let text = exporter.scrape()?;
        expect_eq!(accesses(&text, &guest)?, BYTES, "VM {number}: {text}");
        expect_eq!(accesses(&text, &lives)?, BYTES, "VM {number}: {text}");
        const LOST: &str = "kvm_mmio_events_lost_total";
        ensure!(text.contains(&format!("\n{LOST}")), "{text}");
        expect_eq!(sum(&text, LOST, &[])?, 0, "{text}");
    }
    lives.end()
}
