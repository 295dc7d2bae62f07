// SPDX-License-Identifier: GPL-2.0
//! kvm-mmio answers scrapes, and its counters grow by what guests do between two.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::programs::{MANY, need, run_guest};
use super::traced::sources;
use super::watch::{access, machine_with};
use crate::guest::Machine;
use crate::{expect_eq, host};

crate::test_table! {
    observe_by_scrapes: "kvm-mmio answers scrapes, exactly, whatever it counts by" => scrapes(),
}

/// `kvm-mmio export`, which listens.
pub(super) struct Exporter {
    program: Child,
    address: String,
}

impl Exporter {
    pub fn start(source: &str) -> Result<Self> {
        let mut command = Command::new("kvm-mmio");
        command.args(["export", "--listen", "0", "--source", source]);
        if source == "module" {
            command.arg("--heat");
        }
        let mut program = command.stderr(Stdio::piped()).spawn()?;
        let mut errors = BufReader::new(program.stderr.take().context("no errors")?);
        let mut said = String::new();
        let address = loop {
            let mut line = String::new();
            if errors.read_line(&mut line)? == 0 {
                program.wait()?;
                anyhow::bail!("{source}: {said}");
            }
            said += &line;
            if let Some((_, rest)) = line.split_once("http://") {
                break rest.trim().trim_end_matches("/metrics").to_owned();
            }
        };
        // What it may say later has to go somewhere.
        std::thread::spawn(move || std::io::copy(&mut errors, &mut std::io::sink()));
        Ok(Self { program, address })
    }

    pub fn scrape(&self) -> Result<String> {
        let mut stream = TcpStream::connect(&self.address)?;
        write!(stream, "GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        ensure!(text.starts_with("HTTP/1."), "{text}");
        Ok(text)
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

/// The sum of the accesses that this process has made to a page, as a scrape has them.
fn accesses(text: &str, gpa: u64) -> Result<u64> {
    let labels = [
        format!("page=\"{gpa:#x}\""),
        format!("pid=\"{}\"", std::process::id()),
    ];
    sum(text, "kvm_mmio_page_accesses_total", &labels)
}

/// The sum of the series of a name that have these labels.
pub(super) fn sum(text: &str, name: &str, labels: &[String]) -> Result<u64> {
    let lines = text.lines().filter(|line| {
        line.split(['{', ' ']).next() == Some(name)
            && labels.iter().all(|label| line.contains(label))
    });
    lines
        .map(|line| {
            let value = line.rsplit(' ').next().context("no value")?;
            Ok(value.parse::<u64>()?)
        })
        .sum()
}

/// Of pages 1 to 3.
fn expect_counts(text: &str, machine: &Machine, counts: [u64; 3]) -> Result<()> {
    for (page, count) in (1..).zip(counts) {
        let found = accesses(text, machine.gpa(page))?;
        expect_eq!(found, count, "page {page}: {text}");
    }
    ensure!(text.contains("\nkvm_mmio_up 1\n"), "{text}");
    Ok(())
}

fn scrapes() -> Result<()> {
    need("kvm-mmio")?;
    let (machine, mut vcpus) = machine_with(2)?;
    let module = (host::extension_enabled() == Some(true)).then_some("module");
    let exporters = sources()?.into_iter().chain(module).map(Exporter::start);
    let exporters: Vec<_> = exporters.collect::<Result<_>>()?;
    let expect = |counts| {
        exporters
            .iter()
            .try_for_each(|exporter| expect_counts(&exporter.scrape()?, &machine, counts))
    };
    run_guest(&machine, &mut vcpus)?;
    expect([4, 2, MANY])?;
    access(&machine, &mut vcpus[1], 3, 1, (MANY, 0))?;
    expect([4, 2, 2 * MANY])
}
