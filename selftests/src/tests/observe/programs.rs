// SPDX-License-Identifier: GPL-2.0
//! Programs that people use read what the extension shows: perf, trace-cmd, and kvm-mmio.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::heat::{HEAT, Heat};
use super::trace::{events_of, expect_program, my_vm, of_vm, run_program};
use super::watch::{PAGE_COUNTS, access, machine_with};
use crate::expect_eq;
use crate::guest::{Machine, Mode, Vcpu};
use crate::skip;
use crate::stats::device::{Device, PATH};
use crate::stats::kvm::vcpu_stats;

crate::test_table! {
    observe_by_trace_cmd:
        "trace-cmd records one event for each access, with all that is known of it"
        => trace_cmd(),
    observe_by_perf: "perf records one event for each access, with all that is known of it"
        => perf(),
    observe_by_perf_filtered: "the fields of the events can be used in filters" => perf_filtered(),
    observe_by_kvm_mmio: "kvm-mmio shows exactly what a guest did while a command ran"
        => kvm_mmio(),
    observe_own_vm:
        "who runs a VM reads its statistics by KVM_GET_STATS_FD without any rights"
        => own_vm(),
    observe_by_nobody: "kvm-mmio tells who is not root what is wrong" => nobody(),
}

/// Of vCPU 1, to have more events than fit into one piece of a trace buffer.
pub(super) const MANY: u64 = 200;

/// A file of this test alone, removed at the end.
pub(super) struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        let name = format!("mmio-test-{}-{name}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    pub fn path(&self) -> Result<&str> {
        self.0.to_str().context("the path is not UTF-8")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Who has failed has not made it.
        let _ = fs::remove_file(&self.0);
    }
}

/// A program that records as long as a command runs. That is `cat`: what it repeats says that
/// it runs, the end of its input ends it.
pub(super) struct Recorder {
    program: Child,
    output: BufReader<ChildStdout>,
}

impl Recorder {
    pub fn start(program: &str, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(arguments).arg("cat");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut program = command.stderr(Stdio::piped()).spawn()?;
        let mut input = program.stdin.take().context("no input")?;
        input.write_all(b"recording\n")?;
        program.stdin = Some(input);
        let mut output = BufReader::new(program.stdout.take().context("no output")?);
        let mut line = String::new();
        while line != "recording\n" {
            line.clear();
            if output.read_line(&mut line)? == 0 {
                finish(program.wait_with_output()?)?;
                anyhow::bail!("it has not run the command");
            }
        }
        // trace-cmd's readers leave nothing if they are stopped before they have begun.
        thread::sleep(Duration::from_secs(1));
        Ok(Self { program, output })
    }

    pub fn stop(mut self) -> Result<()> {
        drop(self.program.stdin.take());
        io::copy(&mut self.output, &mut io::sink())?;
        finish(self.program.wait_with_output()?).map(|_| ())
    }
}

/// What a program has printed, if it succeeded.
pub(super) fn finish(output: Output) -> Result<String> {
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {errors}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

pub(super) fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output();
    finish(output.context(program.to_owned())?).with_context(|| format!("{program} {arguments:?}"))
}

/// Fails as not applicable without this program. With it, the test may take longer than others:
/// programs start slowly on a machine that is emulated and shares its host.
pub(super) fn need(program: &str) -> Result<()> {
    const SECONDS: u32 = 300;
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|folder| folder.join(program).exists()) {
        skip!("{program} is not in PATH");
    }
    // SAFETY: a plain system call, twice; the alarm ends this test if it hangs.
    unsafe { libc::alarm(libc::alarm(0).max(SECONDS)) };
    Ok(())
}

/// The guest of these tests: a program with one event of each kind on vCPU 0, many on vCPU 1.
pub(super) fn run_guest(machine: &Machine, vcpus: &mut [Vcpu]) -> Result<()> {
    run_program(machine, &mut vcpus[0])?;
    access(machine, &mut vcpus[1], 3, 1, (MANY, 0))
}

/// Records that guest, and fails unless what `print` then says of it is exactly what it did.
fn expect_trace(program: &str, record: &[&str], print: &[&str]) -> Result<()> {
    need(program)?;
    let _heat = Heat::off()?;
    let file = Scratch::new(program);
    let device = Device::open()?;
    let (machine, mut vcpus) = machine_with(2)?;
    let recorder = Recorder::start(program, &[record, &["-o", file.path()?]].concat())
        .with_context(|| format!("{program} {record:?}"))?;
    run_guest(&machine, &mut vcpus)?;
    recorder
        .stop()
        .with_context(|| format!("{program} {record:?}"))?;
    // Not recorded any more.
    access(&machine, &mut vcpus[1], 3, 1, (1, 1))?;

    let text = run(program, &[print, &["-i", file.path()?]].concat())?;
    let vm = my_vm(&device)?;
    let events = events_of(&text, "mmio_access", &of_vm(vm.fields["vm"]));
    expect_eq!(events.len() as u64, 6 + MANY, "{text}");
    let (one, zero): (Vec<_>, Vec<_>) = events
        .into_iter()
        .partition(|event| event.contains(" vcpu 1 "));
    expect_program(&zero, &machine)?;
    let me = std::process::id();
    let at = machine.gpa(3);
    let write = format!("{me} vcpu 1 gpa {at:#x} size 1 write");
    for event in &one {
        let (event, outcome) = event.rsplit_once(' ').context("no outcome")?;
        expect_eq!(event, write);
        ensure!(
            ["fast_userspace", "emulated_userspace"].contains(&outcome),
            "{outcome}"
        );
    }
    Ok(())
}

fn trace_cmd() -> Result<()> {
    expect_trace("trace-cmd", &["record", "-e", "kvm_mmio_ext"], &["report"])
}

const PERF_RECORD: &[&str] = &["record", "--all-cpus", "--no-buildid", "-e"];
const PERF_SCRIPT: &[&str] = &["script", "--fields", "event,trace"];

fn perf() -> Result<()> {
    let record = [PERF_RECORD, &["kvm_mmio_ext:*"]].concat();
    expect_trace("perf", &record, PERF_SCRIPT)
}

fn perf_filtered() -> Result<()> {
    need("perf")?;
    let _heat = Heat::off()?;
    let file = Scratch::new("perf");
    let device = Device::open()?;
    let (machine, mut vcpus) = machine_with(2)?;
    // The doorbell of run_program().
    let filter = format!(
        "gpa == {:#x} && vcpu == 0 && size == 2 && direction == 2",
        machine.gpa(2)
    );
    let event = ["kvm_mmio_ext:mmio_access", "--filter", &filter];
    let output = ["-o", file.path()?];
    let recorder = Recorder::start("perf", &[PERF_RECORD, &event, &output].concat())?;
    run_guest(&machine, &mut vcpus)?;
    recorder.stop()?;

    let text = run("perf", &[PERF_SCRIPT, &["-i", file.path()?]].concat())?;
    let events = events_of(&text, "mmio_access", &of_vm(my_vm(&device)?.fields["vm"]));
    expect_eq!(events.len(), 2, "{text}");
    ensure!(
        events
            .iter()
            .all(|event| event.ends_with("kernel") || event.ends_with("irqsoff")),
        "{text}"
    );
    Ok(())
}

/// A number of a JSON line.
pub(super) fn number(line: &Value, name: &str) -> u64 {
    line[name].as_u64().unwrap_or(u64::MAX)
}

/// `kvm-mmio stat`, which counts by page while it lives.
pub(super) struct Stat {
    recorder: Recorder,
    json: Scratch,
    names: Scratch,
}

impl Stat {
    /// With a name for page 2 of the machine.
    pub fn start(machine: &Machine, source: &str) -> Result<Self> {
        let (json, names) = (
            Scratch::new(&format!("{source}-json")),
            Scratch::new(&format!("{source}-toml")),
        );
        let name = format!(
            "[[region]]\nname = \"bell\"\nstart = {:#x}\n",
            machine.gpa(2)
        );
        fs::write(&names.0, name)?;
        let stat = ["--json", "stat", "--source", source, "--per-vcpu"];
        let files = ["--regions", names.path()?, "-o", json.path()?, "--"];
        let recorder = Recorder::start("kvm-mmio", &[&stat[..], &files].concat())?;
        Ok(Self {
            recorder,
            json,
            names,
        })
    }

    /// Ends it, and fails unless it has counted exactly what `run_guest()` does.
    pub fn expect_guest(self, machine: &Machine) -> Result<()> {
        self.recorder.stop()?;
        drop(self.names);
        let text = fs::read_to_string(&self.json.0)?;
        let lines = text.lines().map(serde_json::from_str);
        let lines: Vec<Value> = lines.collect::<Result<_, _>>()?;
        let me = u64::from(std::process::id());
        let pages = lines.iter().filter(|line| line["kind"] == "page");
        let mine: Vec<_> = pages.filter(|line| number(line, "tgid") == me).collect();
        expect_eq!(mine.len(), 3, "{text}");
        // vCPU, page, and its counts.
        for (vcpu, page, wanted) in [
            (0, 1, [4, 1, 3, 0, 4]),
            (0, 2, [2, 0, 2, 2, 0]),
            (1, 3, [MANY, 0, MANY, 0, MANY]),
        ] {
            let gpa = format!("{:#x}", machine.gpa(page));
            let line = mine.iter().find(|line| line["gpa"] == *gpa);
            let line = line.with_context(|| format!("nothing of {gpa}: {text}"))?;
            let counts = PAGE_COUNTS.map(|name| number(line, name));
            expect_eq!(counts, wanted, "{line}");
            expect_eq!(number(line, "vcpu"), vcpu);
            expect_eq!(line["device"] == "bell", page == 2, "{line}");
        }
        Ok(())
    }
}

fn kvm_mmio() -> Result<()> {
    need("kvm-mmio")?;
    let _heat = Heat::off()?;
    let (machine, mut vcpus) = machine_with(2)?;
    let stats = [
        Stat::start(&machine, "module")?,
        Stat::start(&machine, "tracepoints")?,
    ];
    // A third one that ends takes nothing from the others.
    run("kvm-mmio", &["stat", "--", "true"])?;
    let status = run("kvm-mmio", &["status"])?;
    ensure!(status.contains("kvm-mmio, counts by page"), "{status}");
    run_guest(&machine, &mut vcpus)?;
    for stat in stats {
        stat.expect_guest(&machine)?;
    }
    expect_eq!(fs::read_to_string(HEAT)?, "N\n");

    let status = run("kvm-mmio", &["status"])?;
    ensure!(
        status.contains("readable: 1 VM, 3 page records"),
        "{status}"
    );
    let metrics = run("kvm-mmio", &["export"])?;
    ensure!(metrics.contains("\nkvm_mmio_up 1\n"), "{metrics}");
    Ok(())
}

fn own_vm() -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    // SAFETY: plain system calls, in the process of this test alone.
    let left = unsafe { (libc::setgid(NOBODY), libc::setuid(NOBODY)) };
    expect_eq!(left, (0, 0));
    ensure!(
        fs::File::create("/proc/sys/kernel/panic").is_err(),
        "it may do all"
    );
    let exits = |vcpu: &Vcpu| -> Result<u64> {
        let stats = vcpu_stats(vcpu.fd())?;
        stats.get("mmio_exits").copied().context("no mmio_exits")
    };
    let before = exits(&vcpu)?;
    access(&machine, &mut vcpu, 1, 4, (3, 2))?;
    expect_eq!(exits(&vcpu)? - before, 5);
    Ok(())
}

pub(super) const NOBODY: u32 = 65534;

fn nobody() -> Result<()> {
    need("kvm-mmio")?;
    let _heat = Heat::off()?;
    expect_eq!(Path::new(PATH).exists(), true);
    let mut command = Command::new("kvm-mmio");
    let output = command
        .args(["top", "-n1"])
        .uid(NOBODY)
        .gid(NOBODY)
        .output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    expect_eq!(output.status.code(), Some(4), "{errors}");
    ensure!(errors.contains("run this as root"), "{errors}");
    Ok(())
}
