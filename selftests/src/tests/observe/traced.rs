// SPDX-License-Identifier: GPL-2.0
//! kvm-mmio counts by KVM's own tracepoints, which need neither the extension nor a patch.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::programs::{MANY, NOBODY, Recorder, Scratch, Stat, finish, need, number, run_guest};
use super::watch::{PAGE_COUNTS, machine_with};
use crate::guest::vcpu::{mov_from_memory, mov_to_memory};
use crate::guest::{Machine, Mode, PAGE, Vcpu};
use crate::{expect_eq, host, skip};

crate::test_table! {
    observe_by_tracepoints: "kvm-mmio shows exactly what a guest did, by the tracepoints of any KVM"
        => tracepoints(),
    observe_by_instruction:
        "kvm-mmio tells which instruction of a guest did what, and how long it took"
        => instructions(),
    observe_by_range: "kvm-mmio tells apart what devices have of the page that they share"
        => ranges(),
    observe_by_many_addresses:
        "kvm-mmio counts each access where addresses are more than it keeps apart"
        => many_addresses(),
    observe_by_bpf: "kvm-mmio counts the same by BPF in the kernel as from each event" => bpf(),
    observe_rights: "kvm-mmio promises tracepoints to those who may follow them, and to nobody else"
        => rights(),
}

/// Whether the kernel can count by BPF. If not, kvm-mmio has to say so.
pub(super) fn has_bpf() -> Result<bool> {
    let mut command = Command::new("kvm-mmio");
    let output = command.args(["stat", "--source", "bpf", "--", "true"]);
    let output = output.output().context("kvm-mmio")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success() || errors.contains("the kernel is built without BPF"),
        "{errors}"
    );
    Ok(output.status.success())
}

/// Those that count by tracepoints here.
pub(super) fn sources() -> Result<Vec<&'static str>> {
    let bpf = has_bpf()?.then_some("bpf");
    Ok(["tracepoints", "perf"].into_iter().chain(bpf).collect())
}

fn tracepoints() -> Result<()> {
    need("kvm-mmio")?;
    let (machine, mut vcpus) = machine_with(2)?;
    let stats = sources()?.into_iter().map(|it| Stat::start(&machine, it));
    let stats: Vec<_> = stats.collect::<Result<_>>()?;
    run_guest(&machine, &mut vcpus)?;
    stats
        .into_iter()
        .try_for_each(|it| it.expect_guest(&machine))
}

/// An instruction that accesses a page.
struct Site {
    page: u64,
    rip: u64,
    count: u64,
}

/// Of `run_guest()`, in which each access is one instruction at the start of its program.
fn sites(vcpus: &mut [Vcpu]) -> Result<[Site; 4]> {
    let mut site = |vcpu: usize, page, size, is_read: bool, count| {
        let vcpu = &mut vcpus[vcpu];
        let rip = match is_read {
            true => vcpu.load(mov_from_memory(Mode::Long, size)),
            false => vcpu.load(mov_to_memory(Mode::Long, size)),
        }?;
        Ok::<_, anyhow::Error>(Site { page, rip, count })
    };
    Ok([
        site(0, 1, 4, false, 3)?,
        site(0, 1, 8, true, 1)?,
        site(0, 2, 2, false, 2)?,
        site(1, 3, 1, false, MANY)?,
    ])
}

/// `kvm-mmio stat` by instruction, with times if the source has them.
fn start_by_rip(source: &str, json: &Scratch, symbols: &str) -> Result<Recorder> {
    let stat = ["--json", "stat", "--source", source, "--by", "rip"];
    let times = if has_times(source) {
        &["--latency"][..]
    } else {
        &[]
    };
    let files = ["--symbols", symbols, "-o", json.path()?, "--"];
    Recorder::start("kvm-mmio", &[&stat[..], times, &files].concat())
}

fn has_times(source: &str) -> bool {
    source != "module"
}

fn instructions() -> Result<()> {
    need("kvm-mmio")?;
    let (machine, mut vcpus) = machine_with(2)?;
    let sites = sites(&mut vcpus)?;
    let symbols = Scratch::new("symbols");
    fs::write(&symbols.0, format!("{:x} T ring_bell\n", sites[2].rip))?;
    let symbols_of_me = format!("{}={}", std::process::id(), symbols.path()?);
    let mut started = Vec::new();
    let module = host::extension_enabled().map(|_| "module");
    for source in sources()?.into_iter().chain(module) {
        let json = Scratch::new(&format!("{source}-sites"));
        let recorder = start_by_rip(source, &json, &symbols_of_me)?;
        started.push((recorder, json, has_times(source)));
    }
    run_guest(&machine, &mut vcpus)?;
    for (recorder, json, timed) in started {
        recorder.stop()?;
        expect_sites(&fs::read_to_string(&json.0)?, &machine, &sites, timed)?;
    }
    Ok(())
}

/// What is said of this process, by lines of a kind.
fn lines(text: &str, kind: &str) -> Result<Vec<Value>> {
    let lines = text.lines().map(serde_json::from_str);
    let lines: Vec<Value> = lines.collect::<Result<_, _>>()?;
    let me = u64::from(std::process::id());
    let is_mine = |line: &Value| line["kind"] == *kind && number(line, "tgid") == me;
    Ok(lines.into_iter().filter(is_mine).collect())
}

fn expect_sites(text: &str, machine: &Machine, sites: &[Site], timed: bool) -> Result<()> {
    let mine = lines(text, "group")?;
    expect_eq!(mine.len(), sites.len(), "{text}");
    for site in sites {
        let gpa = format!("{:#x}", machine.gpa(site.page));
        let rip = format!("{:#x}", site.rip);
        let line = mine
            .iter()
            .find(|line| line["gpa"] == *gpa && line["rip"] == *rip);
        let line = line.with_context(|| format!("nothing of {rip} at {gpa}: {text}"))?;
        expect_eq!(number(line, "count"), site.count, "{line}");
        expect_eq!(line["symbol"] == "ring_bell+0x0", site.page == 2, "{line}");
        if timed {
            expect_times(line)?;
        }
    }
    Ok(())
}

fn expect_times(line: &Value) -> Result<()> {
    let [min, p50, p99, max] =
        ["min", "p50", "p99", "max"].map(|name| number(&line["latency_ns"], name));
    ensure!(0 < min && min <= p50 && p50 <= p99 && p99 <= max, "{line}");
    ensure!(max < 300 * 1_000_000_000, "{line}");
    Ok(())
}

/// Page 1, which `run_guest()` writes at the start and reads further on, is of two devices.
fn ranges() -> Result<()> {
    need("kvm-mmio")?;
    let (machine, mut vcpus) = machine_with(2)?;
    let names = Scratch::new("ranges");
    let region =
        |name, start| format!("[[region]]\nname = \"{name}\"\nstart = {start:#x}\nsize = 0x10\n");
    let at = machine.gpa(1);
    fs::write(&names.0, region("left", at) + &region("right", at + 0x10))?;
    let mut started = Vec::new();
    for source in sources()? {
        let json = Scratch::new(&format!("{source}-ranges"));
        let stat = ["--json", "stat", "--source", source];
        let files = ["--regions", names.path()?, "-o", json.path()?, "--"];
        started.push((
            Recorder::start("kvm-mmio", &[&stat[..], &files].concat())?,
            json,
        ));
    }
    run_guest(&machine, &mut vcpus)?;
    for (recorder, json) in started {
        recorder.stop()?;
        let text = fs::read_to_string(&json.0)?;
        let lines = lines(&text, "page")?;
        for (name, gpa, wanted) in [
            ("left", at, [3, 0, 3, 0, 3]),
            ("right", at + 0x10, [1, 1, 0, 0, 1]),
        ] {
            let line = lines.iter().find(|line| line["device"] == *name);
            let line = line.with_context(|| format!("nothing of {name}: {text}"))?;
            let gpa = format!("{gpa:#x}");
            expect_eq!(line["gpa"], gpa, "{line}");
            expect_eq!(PAGE_COUNTS.map(|name| number(line, name)), wanted, "{line}");
        }
        expect_eq!(lines.len(), 4, "{text}");
    }
    Ok(())
}

/// More bytes than addresses that a vCPU has by BPF, one after another.
fn many_addresses() -> Result<()> {
    const BYTES: u64 = 4096 + 500;

    need("kvm-mmio")?;
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let mut started = Vec::new();
    for source in sources()? {
        let json = Scratch::new(&format!("{source}-many"));
        let stat = [
            "--json",
            "stat",
            "--source",
            source,
            "-o",
            json.path()?,
            "--",
        ];
        started.push((Recorder::start("kvm-mmio", &stat)?, json));
    }
    vcpu.fill(machine.gva(1), BYTES)?;
    for (recorder, json) in started {
        recorder.stop()?;
        let text = fs::read_to_string(&json.0)?;
        let lines = lines(&text, "page")?;
        let told: Vec<_> = lines.iter().map(|line| number(line, "writes")).collect();
        expect_eq!(told, [PAGE, BYTES - PAGE], "{text}");
    }
    Ok(())
}

/// Guests that do whatever an access may be.
const GUESTS: &[&str] = &[
    "string_",
    "access_crossing",
    "doorbell_wildcard",
    "doorbell_many",
];

fn bpf() -> Result<()> {
    need("kvm-mmio")?;
    if !has_bpf()? {
        skip!("the kernel is built without BPF");
    }
    let (by_bpf, by_perf) = (Scratch::new("by-bpf"), Scratch::new("by-perf"));
    let me = std::env::current_exe()?;
    let mut command = Command::new("kvm-mmio");
    for (source, json) in [("bpf", &by_bpf), ("perf", &by_perf)] {
        if source == "perf" {
            command.arg("kvm-mmio");
        }
        command.args(["--json", "stat", "--top", "99999", "--by", "rip"]);
        command.args(["--source", source, "-o", json.path()?, "--"]);
    }
    finish(command.arg(me).args(GUESTS).output()?)?;
    let [by_bpf, by_perf] = [by_bpf, by_perf].map(|json| groups(&json));
    let (by_bpf, by_perf) = (by_bpf?, by_perf?);
    ensure!(by_perf.len() > 10, "{by_perf:?}");
    expect_eq!(by_bpf, by_perf);
    Ok(())
}

/// Which source `kvm-mmio status` names, and how it is.
fn source_of(uid: u32) -> Result<String> {
    let output = Command::new("kvm-mmio")
        .arg("status")
        .uid(uid)
        .gid(uid)
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let mut lines = text.lines();
    let source = lines.find(|line| line.split_whitespace().nth(1) == Some("source"));
    Ok(source.with_context(|| text.clone())?.to_owned())
}

fn rights() -> Result<()> {
    need("kvm-mmio")?;
    let module = host::extension_enabled().is_some();
    let (of_root, of_nobody) = (source_of(0)?, source_of(NOBODY)?);
    let way = match has_bpf()? {
        _ if module => "the module",
        true => "tracepoints, by BPF",
        false => "tracepoints, by perf",
    };
    ensure!(of_root.ends_with(way), "{of_root}");
    ensure!(
        of_nobody.contains("you may not read tracefs"),
        "{of_nobody}"
    );
    expect_eq!(of_nobody.starts_with("denied"), !module, "{of_nobody}");
    Ok(())
}

/// The lines of instructions, in an order of their own.
fn groups(json: &Scratch) -> Result<Vec<String>> {
    let text = fs::read_to_string(&json.0)?;
    let group = |line: &&str| line.starts_with("{\"kind\":\"group\"");
    let mut lines: Vec<_> = text.lines().filter(group).map(str::to_owned).collect();
    lines.sort();
    Ok(lines)
}
