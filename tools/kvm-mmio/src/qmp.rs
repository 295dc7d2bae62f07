// SPDX-License-Identifier: GPL-2.0
//! QEMU's machine protocol: as much of it as it takes to ask for the address space.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// How long QEMU may take for an answer; it waits if another client has the monitor.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest message that is taken.
const LONGEST: u64 = 16 << 20;

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
    if monitor.next()?.get("QMP").is_none() {
        bail!("it is no QMP monitor: start QEMU with -qmp unix:SOCKET,server,nowait");
    }
    monitor.execute(&json!({"execute": "qmp_capabilities"}))?;
    let command = json!({
        "execute": "human-monitor-command",
        "arguments": {"command-line": "info mtree"},
    });
    let answer = monitor.execute(&command)?;
    Ok(answer
        .as_str()
        .context("an answer that is no text")?
        .to_owned())
}

struct Monitor {
    input: BufReader<UnixStream>,
    output: UnixStream,
}

impl Monitor {
    fn next(&mut self) -> Result<Value> {
        let mut line = String::new();
        (&mut self.input)
            .take(LONGEST)
            .read_line(&mut line)
            .context("no answer")?;
        serde_json::from_str(&line).context("an answer that is no JSON")
    }

    /// What a command returns. Events that come in between are of no interest.
    fn execute(&mut self, command: &Value) -> Result<Value> {
        writeln!(self.output, "{command}")?;
        loop {
            let mut answer = self.next()?;
            if let Some(error) = answer.get("error") {
                bail!("it refuses: {}", error["desc"].as_str().unwrap_or_default());
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }
}
