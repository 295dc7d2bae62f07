// SPDX-License-Identifier: GPL-2.0
//! `kvm-mmio status`: what is there, what is missing, and what to do.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::Result;
use rustix::fs::OFlags;
use serde::Serialize;

use crate::device::System;
use crate::failure::{Failure, Status};
use crate::json_lines;
use crate::trace;
use crate::words;

/// How a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Ok,
    /// It works without, but less.
    Note,
    /// It does not work without.
    Missing,
    /// It cannot be seen by this user.
    Denied,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename = "check")]
struct Check {
    name: &'static str,
    state: State,
    value: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "str::is_empty")]
    advice: &'static str,
}

impl Check {
    fn ok(name: &'static str, value: impl Into<String>) -> Self {
        Self::new(name, State::Ok, value, "")
    }

    fn new(
        name: &'static str,
        state: State,
        value: impl Into<String>,
        advice: &'static str,
    ) -> Self {
        Self {
            name,
            state,
            value: value.into(),
            advice,
        }
    }
}

pub fn run(out: &mut dyn Write, system: &System, json: bool) -> Result<()> {
    let checks = checks(system);
    if json {
        json_lines::header(out, "status")?;
        checks
            .iter()
            .try_for_each(|check| json_lines::line(out, check))?;
    } else {
        checks.iter().try_for_each(|check| print(out, check))?;
    }
    let has = |state| checks.iter().any(|check| check.state == state);
    if has(State::Missing) {
        return Err(Failure::Silent(Status::Unavailable as u8).into());
    }
    if has(State::Denied) {
        return Err(Failure::Silent(Status::Denied as u8).into());
    }
    Ok(())
}

/// A line each, in colour on a terminal and without `NO_COLOR`.
fn print(out: &mut dyn Write, check: &Check) -> Result<()> {
    use anstyle::{AnsiColor, Style};
    let (mark, color) = match check.state {
        State::Ok => ("ok", AnsiColor::Green),
        State::Note => ("note", AnsiColor::Yellow),
        State::Missing => ("missing", AnsiColor::Red),
        State::Denied => ("denied", AnsiColor::Red),
    };
    let choice = anstream::AutoStream::choice(&std::io::stdout());
    let style = match choice {
        anstream::ColorChoice::Never => Style::new(),
        _ => color.on_default(),
    };
    writeln!(
        out,
        "{style}{mark:8}{style:#}{:16}{}",
        check.name, check.value
    )?;
    if !check.advice.is_empty() {
        writeln!(out, "{:24}{}", "", check.advice)?;
    }
    Ok(())
}

fn checks(system: &System) -> Vec<Check> {
    let no_perf = trace::explain_no_perf(system);
    let no_bpf = trace::explain_no_bpf(system);
    // How it is that the extension is not there: without it, tracepoints will do.
    let absent = match (&no_perf, &no_bpf) {
        (None, _) | (_, None) | (Some(Failure::Denied(_)), _) => State::Note,
        _ => State::Missing,
    };
    let mut checks = vec![
        kernel(system, absent),
        vendor(system),
        caching(system),
        module(system, absent),
    ];
    if system.has_module(MODULE) {
        checks.push(switch(system, "enabled", State::Note, ENABLE));
        checks.push(switch(
            system,
            "fast",
            State::Note,
            "every access goes to KVM's emulator",
        ));
        checks.push(heat(system));
        checks.extend(mask(system));
        checks.push(statistics(system));
        checks.extend(readers(system));
    }
    checks.extend(sources(system.has_module(MODULE), no_perf, no_bpf));
    checks
}

const MODULE: &str = "kvm_mmio_ext";
const ENABLE: &str = "echo Y > /sys/module/kvm_mmio_ext/parameters/enabled";
const NO_HEAT: &str = "echo N > /sys/module/kvm_mmio_ext/parameters/heat";

/// The kernels that there are patches for.
const SUPPORTED: &str = "Debian's 7.2 and 7.3 need no build of the kernel: apt install $(make -s deb), \
     see Documentation/stock-kernels.rst; another Linux 7.2 or Linux 7.3 needs a build with patches/7.2 or patches/7.3, see \
     patches/README.rst";

/// Whether KVM has the hooks: a function of theirs is among the symbols of the kernel.
fn kernel(system: &System, absent: State) -> Check {
    let name = "kernel";
    let release = system.kernel();
    let symbols = fs::read_to_string(system.path("/proc/kallsyms")).unwrap_or_default();
    let has = |wanted| {
        symbols
            .lines()
            .any(|line| line.split_whitespace().nth(2) == Some(wanted))
    };
    if system.has_module(MODULE) || has("kvm_mmio_ext_register") {
        return Check::ok(name, format!("{release}, KVM has the hooks"));
    }
    if system.has_module("kvm") && has("kvm_init") {
        let value = format!("{release}, KVM has no hooks for the extension");
        return Check::new(name, absent, value, SUPPORTED);
    }
    let value = format!("{release}, hooks not visible");
    Check::new(
        name,
        State::Note,
        value,
        "they are seen once the module kvm is loaded: modprobe kvm",
    )
}

/// The vendor module, and the kind of page tables.
fn vendor(system: &System) -> Check {
    let name = "KVM";
    for (module, title, paging, two_dimensional) in [
        ("kvm_intel", "Intel", "ept", "EPT"),
        ("kvm_amd", "AMD", "npt", "NPT"),
    ] {
        if system.has_module(module) {
            let on = matches!(system.parameter(module, paging).as_deref(), Some("Y" | "1"));
            let mode = if on { two_dimensional } else { "shadow paging" };
            return Check::ok(name, format!("{module}: {title} with {mode}"));
        }
    }
    let advice = "modprobe kvm_intel or kvm_amd, with virtualization enabled in the firmware";
    Check::new(
        name,
        State::Missing,
        "neither kvm_intel nor kvm_amd is loaded",
        advice,
    )
}

fn caching(system: &System) -> Check {
    let name = "MMIO caching";
    match system.parameter("kvm", "mmio_caching").as_deref() {
        Some("Y" | "1") => Check::ok(name, "on"),
        Some(_) => Check::new(
            name,
            State::Note,
            "off: no fault is known as MMIO, every access goes to KVM's emulator",
            "load kvm without mmio_caching=0; some processors cannot",
        ),
        None => Check::new(name, State::Note, "unknown", ""),
    }
}

fn module(system: &System, absent: State) -> Check {
    if system.has_module(MODULE) {
        return Check::ok("module", "kvm_mmio_ext is loaded");
    }
    let advice =
        "modprobe kvm_mmio_ext, or insmod kvm_mmio_ext.ko, best before kvm_intel or kvm_amd";
    Check::new("module", absent, "kvm_mmio_ext is not loaded", advice)
}

fn switch(system: &System, name: &'static str, off: State, advice: &'static str) -> Check {
    match system.parameter(MODULE, name).as_deref() {
        Some("Y" | "1") => Check::ok(name, "on"),
        Some(_) => Check::new(name, off, "off", advice),
        None => Check::new(
            name,
            State::Missing,
            "the module has no such parameter",
            "build the module from the same source as this program",
        ),
    }
}

/// Whether the parameter has accesses counted by page. Readers need it if they do not have them
/// counted themselves; nobody else does.
fn heat(system: &System) -> Check {
    let check = switch(system, "heat", State::Ok, "");
    if check.state != State::Ok || check.value == "off" || !system.readers().is_empty() {
        return check;
    }
    let value = "on, and nobody reads: each access costs some 60 instructions more";
    Check::new(check.name, State::Note, value, NO_HEAT)
}

/// The value that marks a page as MMIO, from the kernel log.
fn mask(system: &System) -> Option<Check> {
    let log = read_log(system)?;
    let installed = "kvm_mmio_ext: installed MMIO SPTE ";
    let mut values = log
        .lines()
        .rev()
        .filter_map(|line| line.split_once(installed));
    Some(match values.next() {
        Some((_, value)) => Check::ok("mask", value),
        None => Check::new(
            "mask",
            State::Note,
            "not in the kernel log any more",
            "the module logs it when it is loaded",
        ),
    })
}

/// What the kernel log holds at this time. None if it may not be read.
fn read_log(system: &System) -> Option<String> {
    let flags = OFlags::NONBLOCK.bits() as i32;
    let path = system.path("/dev/kmsg");
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .ok()?;
    let (mut log, mut record) = (Vec::new(), [0; 8192]);
    loop {
        match file.read(&mut record) {
            Ok(0) => break,
            Ok(size) => log.extend_from_slice(&record[..size]),
            // A record that was overwritten meanwhile.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            Err(_) => break,
        }
    }
    Some(String::from_utf8_lossy(&log).into_owned())
}

fn statistics(system: &System) -> Check {
    let name = "statistics";
    match system.open().and_then(|device| device.read()) {
        Ok(reading) => {
            let pages = reading.vms.values().flat_map(|vm| vm.vcpus.values());
            let pages = pages.map(|vcpu| vcpu.pages.len() as u64).sum();
            let vms = words::plural(reading.vms.len() as u64, "VM", "VMs");
            let pages = words::plural(pages, "page record", "page records");
            Check::ok(name, format!("readable: {vms}, {pages}"))
        }
        Err(error) => {
            let denied = matches!(error.downcast_ref(), Some(Failure::Denied(_)));
            let state = if denied {
                State::Denied
            } else {
                State::Missing
            };
            Check::new(name, state, format!("{error:#}"), "")
        }
    }
}

/// What counts, what the others would add, and at what cost. What was opened has shown that.
fn sources(has_module: bool, no_perf: Option<Failure>, no_bpf: Option<Failure>) -> Vec<Check> {
    let check = match (no_perf, no_bpf) {
        (None, no_bpf) | (_, no_bpf @ None) => {
            let source = source(has_module, no_bpf.is_none());
            return vec![source, tracepoints(no_bpf), Check::ok("cost", COST)];
        }
        (Some(why), _) if has_module => Check::ok("source", format!("the module only: {why}")),
        (Some(Failure::Denied(why)), _) => {
            Check::new("source", State::Denied, format!("none: {why}"), "")
        }
        (Some(why), _) => Check::new("source", State::Note, format!("none: {why}"), ""),
    };
    vec![check]
}

/// As measured, see Documentation/kvm-mmio-tracepoints.rst.
const COST: &str = "instructions of the host for an access: some 60 by the module, 1400 to 2400 by \
     BPF, 5700 to 11500 by perf";

/// What counts if nothing else is asked for.
fn source(has_module: bool, has_bpf: bool) -> Check {
    let (state, value, advice) = match (has_module, has_bpf) {
        (true, _) => (
            State::Ok,
            "the module",
            "KVM's tracepoints add single times (--latency) and devices that share a page, and cost \
             more",
        ),
        (false, true) => (State::Note, "KVM's tracepoints, by BPF", MODULE_ADDS),
        (false, false) => (State::Note, "KVM's tracepoints, by perf", MODULE_ADDS),
    };
    Check::new("source", state, value, advice)
}

const MODULE_ADDS: &str = "the module adds what is fast and how long it takes, and costs less";

/// Who counts what the tracepoints tell.
fn tracepoints(no_bpf: Option<Failure>) -> Check {
    let name = "tracepoints";
    match no_bpf {
        None => Check::ok(name, "counted in the kernel by BPF"),
        Some(why) => Check::new(
            name,
            State::Note,
            format!("copied to this program by perf, as {why}"),
            "BPF loses fewer events, and costs a fifth",
        ),
    }
}

/// Who keeps the module from being unloaded, if somebody does.
fn readers(system: &System) -> Option<Check> {
    let readers: Vec<_> = system
        .readers()
        .iter()
        .map(|reader| {
            let name = system.process_name(reader.pid).unwrap_or_default();
            let counts = if reader.counts {
                ", counts by page"
            } else {
                ""
            };
            format!("{} {name}{counts}", reader.pid)
        })
        .collect();
    (!readers.is_empty()).then(|| {
        let value = format!("have it open: {}", readers.join("; "));
        let advice = "rmmod says that the module is in use until they have ended";
        Check::new("readers", State::Ok, value, advice)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The source that is said to count, and how the check of it is.
    fn source_of(
        has_module: bool,
        no_perf: Option<Failure>,
        no_bpf: Option<Failure>,
    ) -> (State, String, usize) {
        let checks = sources(has_module, no_perf, no_bpf);
        let source = &checks[0];
        assert_eq!(source.name, "source");
        (source.state, source.value.clone(), checks.len())
    }

    #[test]
    fn a_source_that_was_opened_is_promised() {
        let denied = || Some(Failure::Denied("you may not".to_owned()));
        let old = || Some(Failure::Unavailable("it is old".to_owned()));
        for (has_module, no_perf, no_bpf, state, text, checks) in [
            (false, None, None, State::Note, "by BPF", 3),
            (false, None, denied(), State::Note, "by perf", 3),
            (false, old(), None, State::Note, "by BPF", 3),
            (
                false,
                denied(),
                denied(),
                State::Denied,
                "none: you may not",
                1,
            ),
            (
                false,
                denied(),
                old(),
                State::Denied,
                "none: you may not",
                1,
            ),
            (false, old(), old(), State::Note, "none: it is old", 1),
            (true, None, None, State::Ok, "the module", 3),
            (
                true,
                denied(),
                old(),
                State::Ok,
                "the module only: you may not",
                1,
            ),
        ] {
            let (found, said, count) = source_of(has_module, no_perf, no_bpf);
            assert!(
                found == state && said.contains(text) && count == checks,
                "{said}"
            );
        }
    }

    #[test]
    fn all_kernels_with_patches_are_named() {
        let patches = concat!(env!("CARGO_MANIFEST_DIR"), "/../../patches");
        for entry in fs::read_dir(patches).unwrap() {
            let entry = entry.unwrap();
            // Beside the folders there is a README.
            if !entry.file_type().unwrap().is_dir() {
                continue;
            }
            let name = entry.file_name().into_string().unwrap();
            assert!(SUPPORTED.contains(&format!("patches/{name}")), "{name}");
            assert!(SUPPORTED.contains(&format!("Linux {name}")), "{name}");
        }
    }
}
