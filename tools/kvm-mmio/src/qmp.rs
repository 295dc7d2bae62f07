// SPDX-License-Identifier: GPL-2.0
//! QEMU's monitors, the one for programs (QMP) and the one for people (HMP): as much of them as it
//! takes to ask for the address space.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// How long QEMU may take for an answer; it waits if another client has the monitor.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest message that is taken.
const LONGEST: u64 = 16 << 20;

const QUESTION: &str = "info mtree";

/// What the monitor for people begins a line with when it has nothing more to say.
const PROMPT: &[u8] = b"\n(qemu) ";

/// What `info mtree` prints in the VM whose monitor listens there.
pub fn mtree(socket: &Path) -> Result<String> {
    ask(socket).with_context(|| format!("QEMU's monitor at {}", socket.display()))
}

fn ask(socket: &Path) -> Result<String> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut monitor = Monitor {
        input: BufReader::new(stream.try_clone()?),
        output: stream,
    };
    let greeting = monitor.line()?;
    let is_qmp = serde_json::from_str(&greeting).is_ok_and(|value: Value| value["QMP"].is_object());
    if is_qmp {
        return monitor.ask_as_program();
    }
    // "QEMU 10.0.13 monitor - type 'help' for more information"
    ensure!(
        greeting.starts_with("QEMU ") && greeting.contains(" monitor"),
        "it is no monitor: start QEMU with -qmp unix:SOCKET,server,nowait"
    );
    monitor.ask_as_person()
}

struct Monitor {
    input: BufReader<UnixStream>,
    output: UnixStream,
}

impl Monitor {
    fn ask_as_program(&mut self) -> Result<String> {
        self.execute(&json!({"execute": "qmp_capabilities"}))?;
        let command = json!({
            "execute": "human-monitor-command",
            "arguments": {"command-line": QUESTION},
        });
        let answer = self.execute(&command)?;
        let text = answer.as_str().context("an answer that is no text")?;
        Ok(text.to_owned())
    }

    /// The question comes back before the answer, as on a terminal; it is no line of a map.
    fn ask_as_person(&mut self) -> Result<String> {
        self.until_prompt()?;
        writeln!(self.output, "{QUESTION}")?;
        self.until_prompt()
    }

    /// One line; QEMU may have gone without it.
    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let mut input = (&mut self.input).take(LONGEST);
        let length = input.read_line(&mut line).context("no answer")?;
        ensure!(length != 0, "no answer");
        Ok(line)
    }

    fn until_prompt(&mut self) -> Result<String> {
        // What was read before has ended with a line.
        let mut text = b"\n".to_vec();
        while !text.ends_with(PROMPT) {
            let mut input = (&mut self.input).take(LONGEST.saturating_sub(text.len() as u64));
            let length = input.read_until(b' ', &mut text).context("no answer")?;
            ensure!(length != 0, "an answer without an end");
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// What a command returns. Events that come in between are of no interest.
    fn execute(&mut self, command: &Value) -> Result<Value> {
        writeln!(self.output, "{command}")?;
        loop {
            let line = self.line()?;
            let mut answer: Value =
                serde_json::from_str(&line).context("an answer that is no JSON")?;
            if let Some(error) = answer.get("error") {
                bail!("it refuses: {}", error["desc"].as_str().unwrap_or_default());
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }
}
