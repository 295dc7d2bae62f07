// SPDX-License-Identifier: GPL-2.0
//! `kvm-mmio top` in a real terminal.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

// The generator of statistics files finds the types that it needs at this crate's root.
use kvm_mmio::{counts, reading, site};
#[allow(dead_code)]
#[path = "../src/device/sample.rs"]
mod sample;
#[allow(dead_code)]
#[path = "../../../src/pure/stats_format.rs"]
mod stats_format;
#[allow(dead_code)]
mod support;

use support::{Kernel, doubled};

/// A terminal of 140 columns and 14 lines.
struct Tmux<'a> {
    kernel: &'a Kernel,
}

impl<'a> Tmux<'a> {
    fn start(kernel: &'a Kernel, environment: &str, arguments: &str) -> Self {
        let tmux = Self { kernel };
        let program = env!("CARGO_BIN_EXE_kvm-mmio");
        let root = kernel.folder().display();
        let shell =
            format!("{environment} {program} --root {root} top {arguments}; echo status $?; cat");
        tmux.run(&["-f/dev/null", "new-session", "-d", "-x140", "-y14", &shell]);
        tmux
    }

    fn run(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command
            .arg("-u")
            .arg("-S")
            .arg(self.kernel.path("socket"))
            .args(arguments)
            .env("LC_ALL", "C.UTF-8");
        let output = command.output().expect("tmux is not installed");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    fn keys(&self, keys: &[&str]) {
        self.run(&[&["send-keys"], keys].concat());
    }

    /// The screen, once it has this.
    #[track_caller]
    fn wait_for(&self, text: &str) -> Vec<String> {
        let start = Instant::now();
        loop {
            let screen = self.run(&["capture-pane", "-p"]);
            if screen.contains(text) {
                return screen.lines().map(str::to_owned).collect();
            }
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "no {text:?} in\n{screen}"
            );
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Tmux<'_> {
    fn drop(&mut self) {
        let socket = self.kernel.path("socket");
        let _ = Command::new("tmux")
            .arg("-S")
            .arg(socket)
            .arg("kill-server")
            .output();
    }
}

#[test]
#[ignore = "needs tmux"]
fn a_session() {
    let kernel = Kernel::with(&sample::two_vms());
    let tmux = Tmux::start(&kernel, "NO_COLOR=1", "--interval 0.2");
    tmux.wait_for("0 pages, 0 accesses/s; every 0.2 s");
    assert!(kernel.counts());
    kernel.write("dev/kvm_mmio_ext", sample::file(&doubled()));
    let screen = tmux.wait_for("4 pages");
    let words: Vec<&str> = screen[6].split_whitespace().collect();
    assert_eq!(
        words[..6],
        ["1", "4711", "-", "0xfe003000", "0xfe003000", "10000"]
    );
    tmux.keys(&["f", "APIC|HPET", "Enter"]);
    tmux.wait_for("2 pages");
    tmux.keys(&["x"]);
    tmux.wait_for("process          vCPU");
    tmux.keys(&["h"]);
    tmux.wait_for("reset the totals");
    tmux.keys(&["h", "q"]);
    let screen = tmux.wait_for("status 0");
    assert!(
        !screen.iter().any(|line| line.contains("kvm-mmio top")),
        "{screen:?}"
    );
    assert!(!kernel.counts());
}

/// From all VMs to the pages of one, to what accesses one of these, and back.
#[test]
#[ignore = "needs tmux"]
fn a_look_into_a_vm() {
    let kernel = Kernel::with(&sample::two_vms());
    let tmux = Tmux::start(&kernel, "NO_COLOR=1", "--interval 0.2");
    tmux.wait_for("0 pages");
    kernel.write("dev/kvm_mmio_ext", sample::file(&doubled()));
    tmux.wait_for("4 pages");
    tmux.keys(&["Tab"]);
    let screen = tmux.wait_for("VMs by number");
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        words(&screen[6]).starts_with("1 4711 - 3 10620 "),
        "{screen:?}"
    );
    assert!(
        words(&screen[7]).starts_with("2 4712 - (ended) 1 42 "),
        "{screen:?}"
    );
    assert!(screen[13].contains("Enter its pages"), "{screen:?}");
    tmux.keys(&["Down", "Enter"]);
    let screen = tmux.wait_for("VM 2");
    assert!(
        screen[6].contains("HPET") && screen[7].is_empty(),
        "{screen:?}"
    );
    tmux.keys(&["Escape"]);
    // What was chosen is chosen still.
    tmux.wait_for("VMs by number");
    tmux.keys(&["Up", "Enter"]);
    let screen = tmux.wait_for("VM 1");
    assert!(screen[6].contains("0xfe003000"), "{screen:?}");
    tmux.keys(&["Enter"]);
    let screen = tmux.wait_for("VM 1, page 0xfe003000; instructions are not known");
    assert!(words(&screen[6]).starts_with("0 9000 "), "{screen:?}");
    assert!(words(&screen[7]).starts_with("1 1000 "), "{screen:?}");
    assert!(
        screen[13].contains("Esc back") && !screen[13].contains("Enter"),
        "{screen:?}"
    );
    tmux.keys(&["Escape"]);
    tmux.wait_for("Enter who accesses it");
    tmux.keys(&["Escape"]);
    tmux.wait_for("VMs by number");
    tmux.keys(&["Escape"]);
    tmux.wait_for("status 0");
}

/// The process of `top` on this kernel.
fn pid(kernel: &Kernel) -> String {
    let program = kernel.folder().display().to_string();
    let found = Command::new("pgrep")
        .args(["-f", &format!("^[^ ]*kvm-mmio --root {program}")])
        .output();
    let pid = String::from_utf8(found.unwrap().stdout).unwrap();
    pid.trim().to_owned()
}

#[test]
#[ignore = "needs tmux"]
fn an_end_by_a_signal_puts_everything_back() {
    for signal in ["-TERM", "-QUIT"] {
        let kernel = Kernel::with(&sample::two_vms());
        let tmux = Tmux::start(&kernel, "", "--interval 0.2");
        tmux.wait_for("0 pages");
        let kill = Command::new("kill").args([signal, &pid(&kernel)]).status();
        assert!(kill.unwrap().success());
        let screen = tmux.wait_for("status 0");
        assert!(!screen[0].contains("kvm-mmio top"), "{signal}: {screen:?}");
        assert!(!kernel.counts());
    }
}

/// Without the signal that comes first as a rule: what is drawn, and what is put back, fails.
#[test]
#[ignore = "needs tmux"]
fn a_terminal_that_goes_silently_is_no_failure() {
    let kernel = Kernel::with(&sample::two_vms());
    let end = kernel.path("end");
    let program = env!("CARGO_BIN_EXE_kvm-mmio");
    let shell = format!(
        "trap '' HUP; {program} --root {} top --interval 0.2 2> {}; echo $? > {}",
        kernel.folder().display(),
        kernel.path("errors").display(),
        end.display()
    );
    let tmux = Tmux { kernel: &kernel };
    tmux.run(&["-f/dev/null", "new-session", "-d", "-x140", "-y14", &shell]);
    tmux.wait_for("0 pages");
    drop(tmux);
    let start = Instant::now();
    while !fs::read_to_string(&end).is_ok_and(|text| text.ends_with('\n')) {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "it is still there"
        );
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(fs::read_to_string(end).unwrap(), "0\n");
    assert_eq!(fs::read_to_string(kernel.path("errors")).unwrap(), "");
}

#[test]
#[ignore = "needs tmux"]
fn a_terminal_that_goes_ends_it() {
    let kernel = Kernel::with(&sample::two_vms());
    let tmux = Tmux::start(&kernel, "", "--interval 0.2");
    tmux.wait_for("0 pages");
    drop(tmux);
    let start = Instant::now();
    while kernel.counts() {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "it is still there"
        );
        thread::sleep(Duration::from_millis(50));
    }
}
