// SPDX-License-Identifier: GPL-2.0
//! The man page and the completions of shells, made from the parser.

use std::io::Write;

use anyhow::Result;
use clap::CommandFactory;
use clap_mangen::Man;

use crate::cli::{Cli, Generated};
use crate::command::top::KEYS;
use crate::failure::HELP;
use crate::output::COLUMNS;

pub fn run(out: &mut dyn Write, what: &Generated) -> Result<()> {
    let mut command = Cli::command();
    command.build();
    match what {
        Generated::Man => man(out, &command),
        Generated::Completions { shell } => {
            // It panics where it cannot write.
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut command, "kvm-mmio", &mut script);
            let script = String::from_utf8(script)?;
            // In bash, clap_complete gives subcommands one name where it looks for the word and
            // another where it looks for its options, if there is a hyphen in the program's.
            let script = script.replace("kvm__subcmd__mmio", "kvm__mmio");
            Ok(out.write_all(script.as_bytes())?)
        }
    }
}

/// One page, with a section for each subcommand.
fn man(mut out: &mut dyn Write, command: &clap::Command) -> Result<()> {
    let page = Man::new(command.clone()).section("8");
    page.render_title(&mut out)?;
    page.render_name_section(&mut out)?;
    page.render_synopsis_section(&mut out)?;
    page.render_description_section(&mut out)?;
    page.render_options_section(&mut out)?;
    for subcommand in command
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
    {
        if subcommand.get_name() == "help" {
            continue;
        }
        let section = Man::new(subcommand.clone());
        writeln!(
            out,
            ".SH \"KVM-MMIO {}\"",
            subcommand.get_name().to_uppercase()
        )?;
        section.render_synopsis_section(&mut out)?;
        section.render_description_section(&mut out)?;
        section.render_options_section(&mut out)?;
    }
    definitions(out, "COLUMNS", COLUMNS)?;
    definitions(out, "KEYS OF TOP", KEYS)?;
    exit_status(out)?;
    definitions(out, "FILES", FILES)?;
    definitions(out, "EXAMPLES", EXAMPLES)
}

const FILES: &[(&str, &str)] = &[
    ("/dev/kvm_mmio_ext", "the statistics of the module"),
    (
        "/sys/kernel/tracing/events/kvm",
        "KVM's tracepoints, which figures are from where the module is not loaded",
    ),
    (
        "/sys/module/kvm_mmio_ext/parameters/heat",
        "whether accesses are counted by page while nobody has the statistics open for that, as \
         top, record and stat have",
    ),
    (
        "/proc/PID/cmdline, /proc/PID/comm",
        "what a VM is called: QEMU's -name, Firecracker's --id, else the program",
    ),
    (
        "/proc/PID/cgroup",
        "the unit of systemd that is named with the program",
    ),
    (
        "kvm-mmio.rec",
        "the recording, unless another file is named",
    ),
];

const EXAMPLES: &[(&str, &str)] = &[
    (
        "kvm-mmio top --mtree 4711=web.mtree --mtree 4712=db.mtree",
        "the pages that two VMs of QEMU access now, by the names that `info mtree` has shown for \
         each",
    ),
    (
        "kvm-mmio record --duration 10m && kvm-mmio plot -o mmio.png",
        "ten minutes as a picture",
    ),
    (
        "ssh host kvm-mmio record -d 10s -o - | kvm-mmio report -",
        "ten seconds of another host, without a file",
    ),
    (
        "kvm-mmio stat -f virtio -- sleep 1m",
        "exactly how often a minute's pages of virtio devices were accessed",
    ),
    (
        "kvm-mmio stat --by rip --symbols 4711=kallsyms -- sleep 10",
        "the instructions of a guest that access each page, by the guest's own /proc/kallsyms",
    ),
    (
        "kvm-mmio stat --latency -- sleep 10",
        "how long accesses take, the VMM included",
    ),
    (
        "kvm-mmio top --qmp 4711=/run/web.qmp",
        "the pages of a VM by the names that its QEMU gives them now",
    ),
    (
        "kvm-mmio record --rotate 1h --keep 24",
        "always the last day, a file for each hour",
    ),
    (
        "kvm-mmio export -o /var/lib/prometheus/node-exporter/kvm-mmio.prom",
        "metrics for node_exporter's textfile collector",
    ),
    (
        "kvm-mmio export --listen 9753 --heat",
        "metrics for a Prometheus on this machine, counted by page",
    ),
];

/// A section of terms, each with what it means.
fn definitions(out: &mut dyn Write, title: &str, list: &[(&str, &str)]) -> Result<()> {
    writeln!(out, ".SH \"{title}\"")?;
    for (term, text) in list {
        writeln!(out, ".TP\n\\fB{}\\fR\n{}", roff(term), roff(text))?;
    }
    Ok(())
}

/// Text that has no meaning to troff.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    match text.starts_with(['.', '\'']) {
        true => format!("\\&{text}"),
        false => text,
    }
}

/// As it stands in the help, line by line.
fn exit_status(out: &mut dyn Write) -> Result<()> {
    writeln!(out, ".SH \"EXIT STATUS\"\n.nf")?;
    for line in HELP.lines().skip(1) {
        writeln!(out, "{}", line.replace('-', "\\-"))?;
    }
    Ok(writeln!(out, ".fi")?)
}
