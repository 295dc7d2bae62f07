// SPDX-License-Identifier: GPL-2.0
//! The program as it is started, on a kernel made of files.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

// The generator of statistics files finds the types that it needs at this crate's root.
use kvm_mmio::recording::{Recorder, Start};
use kvm_mmio::{counts, reading, site};
#[allow(dead_code)]
#[path = "../../src/device/sample.rs"]
mod sample;
#[allow(dead_code)]
#[path = "../../../../src/pure/stats_format.rs"]
mod stats_format;
#[allow(dead_code)]
#[path = "../support/mod.rs"]
mod support;

mod export;
mod instructions;
mod many;
mod names;
mod recordings;
mod shell;
mod stat;
mod status;

use reading::Reading;
use support::{Done, Kernel, doubled, doubled_of};

const NOBODY: u32 = 65534;

/// The program below a folder that everybody may enter.
fn as_nobody(kernel: &Kernel, arguments: &[&str]) -> Done {
    let program = kernel.path("kvm-mmio");
    fs::copy(env!("CARGO_BIN_EXE_kvm-mmio"), &program).unwrap();
    let mut command = Command::new(&program);
    command.arg("--root").arg(kernel.folder()).args(arguments);
    let root = fs::metadata("/proc/self").unwrap();
    if root.uid() == 0 {
        command.uid(NOBODY).gid(NOBODY);
    }
    loop {
        // A process that another test has begun just now may have the copy open still.
        match command.output() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(Duration::from_millis(10));
            }
            done => return Done::from(done.unwrap()),
        }
    }
}

/// Makes the device say something else, as a command that is run: how the program has it open,
/// `rw`. All at once, as the program may be reading.
fn change(kernel: &Kernel, reading: &Reading) -> String {
    kernel.write("after", sample::file(reading));
    "ls -l /proc/$PPID/fd | sed -n 's/^l\\(..\\).*kvm_mmio_ext$/\\1/p'; \
     cat after 1<> dev/kvm_mmio_ext"
        .to_owned()
}

/// A recording of what has grown in `doubled()`, with three samples.
fn recorded(kernel: &Kernel) -> PathBuf {
    let script = format!("{}; sleep 0.3", change(kernel, &doubled()));
    let arguments = [
        "record", "-o", "rec", "-i", "0.1", "--", "sh", "-c", &script,
    ];
    kernel.run(&arguments).expect(0, "rw", "10662 accesses");
    kernel.path("rec")
}

/// Answers as QEMU's monitor would, each client with the next of these maps, the last one for ever.
fn monitor(socket: &Path, maps: &[&'static str]) {
    let maps = maps.to_vec();
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        for (client, stream) in listener.incoming().enumerate() {
            let map = maps[client.min(maps.len() - 1)];
            // A client may go at any time.
            let _ = converse(stream.unwrap(), map);
        }
    });
}

/// Answers one client as the monitor for people does: with a prompt, and what was typed.
fn monitor_for_people(socket: &Path, map: &'static str) {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        let (mut output, _) = listener.accept().unwrap();
        write!(
            output,
            "QEMU 10.0.13 monitor - type 'help' for more information\r\n(qemu) "
        )
        .unwrap();
        let mut question = String::new();
        let mut input = BufReader::new(output.try_clone().unwrap());
        input.read_line(&mut question).unwrap();
        assert_eq!(question, "info mtree\n");
        let map = map.replace('\n', "\r\n");
        write!(output, "i\x1b[K\x1b[Dinfo mtree\x1b[K\r\n{map}(qemu) ").unwrap();
    });
}

fn converse(stream: UnixStream, map: &str) -> std::io::Result<()> {
    let mut output = stream.try_clone()?;
    let mut input = BufReader::new(stream).lines();
    let mut command = || -> serde_json::Value {
        let line = input.next().and_then(Result::ok);
        line.map_or(serde_json::Value::Null, |line| {
            serde_json::from_str(&line).unwrap()
        })
    };
    writeln!(
        output,
        r#"{{"QMP": {{"version": {{}}, "capabilities": []}}}}"#
    )?;
    assert_eq!(command()["execute"], "qmp_capabilities");
    writeln!(output, r#"{{"return": {{}}}}"#)?;
    let asked = command();
    assert_eq!(asked["execute"], "human-monitor-command");
    assert_eq!(asked["arguments"]["command-line"], "info mtree");
    writeln!(output, r#"{{"timestamp": {{}}, "event": "RTC_CHANGE"}}"#)?;
    match map {
        "" => writeln!(
            output,
            r#"{{"error": {{"class": "x", "desc": "not today"}}}}"#
        ),
        map => writeln!(output, "{}", serde_json::json!({"return": map})),
    }
}

/// What tracepoints have told, recorded.
fn traced(kernel: &Kernel) {
    let mut readings = vec![sample::idle()];
    for second in 1..=3 {
        let mut next = readings.last().unwrap().clone();
        next.add(&sample::traced());
        next.clock.flags |= reading::TRACED;
        next.clock.boottime = sample::idle().clock.boottime + second * 1_000_000_000;
        readings.push(next);
    }
    let start = Start {
        program: "test".to_owned(),
        kernel: "7.3.4".to_owned(),
        wall_clock: 1_800_000_000,
        interval_ms: 1000,
        counters: sample::idle().counters,
        regions: Vec::new(),
        host: String::new(),
    };
    let file = fs::File::create(kernel.path("kvm-mmio.rec")).unwrap();
    let mut recorder = Recorder::new(file, start).unwrap();
    readings
        .iter()
        .for_each(|reading| recorder.add(reading).unwrap());
    recorder.finish().unwrap();
}

/// The first line of a table.
fn kernel_report_titles() -> String {
    let kernel = Kernel::with(&sample::two_vms());
    let script = change(&kernel, &doubled());
    let stat = ["stat", "--per-vcpu", "--", "sh", "-c", &script];
    let done = kernel.run(&stat).expect(0, "", "ns each");
    done.err.lines().next().unwrap().to_owned()
}

/// What bash offers for the last of these words.
fn completed(kernel: &Kernel, words: &[&str]) -> String {
    const SCRIPT: &str = "source ./script; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); \
        function=$(complete -p kvm-mmio | sed 's/.*-F //; s/ .*//'); \
        $function \"$1\" \"${COMP_WORDS[COMP_CWORD]}\" \"${COMP_WORDS[COMP_CWORD - 1]}\"; \
        echo \"${COMPREPLY[@]}\"";
    let mut bash = Command::new("bash");
    bash.args(["-c", SCRIPT, "bash"])
        .args(words)
        .current_dir(kernel.folder());
    Done::from(bash.output().unwrap())
        .expect(0, "", "")
        .out
        .trim()
        .to_owned()
}

/// An answer of `export --listen`.
fn get(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn tool(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(name)
}
