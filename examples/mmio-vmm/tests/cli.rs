// SPDX-License-Identifier: GPL-2.0
//! What a person gets wrong is said in one line, with a status. None of it needs KVM.

use std::fs;
use std::process::{Command, Output};

use tempfile::TempDir;

fn run(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mmio-vmm"))
        .args(words)
        .output()
        .unwrap()
}

/// Fails with status 1 and one line, which has `message` in it.
fn fails(words: &[&str], message: &str) {
    let output = run(words);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert!(errors.contains(message), "{errors:?} lacks {message:?}");
}

#[test]
fn files_that_are_not_there() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (kernel, none) = (path("kernel"), path("none"));
    fs::write(&kernel, "no kernel").unwrap();
    fails(&["--kernel", &none], "--kernel");
    fails(&["--kernel", &kernel, "--initrd", &none], "--initrd");
    fails(&["--kernel", &kernel, "--block", &none], "disk");
}

#[test]
fn a_disk_of_no_possible_size() {
    let folder = TempDir::new().unwrap();
    let disk = folder.path().join("disk").to_str().unwrap().to_owned();
    fs::write(&disk, [0; 700]).unwrap();
    fails(&["--kernel", &disk, "--block", &disk], "multiple of 512");
    fs::write(&disk, []).unwrap();
    fails(&["--kernel", &disk, "--nvme", &disk], "is empty");
}

#[test]
fn a_command_line_that_is_too_long() {
    let this = env!("CARGO_BIN_EXE_mmio-vmm");
    let words = "x ".repeat(2000);
    fails(&["--kernel", this, "--cmdline", &words], "--cmdline");
}

#[test]
fn wrong_use() {
    for words in [
        &[][..],
        &["--kernel", "k", "--registers", "none"],
        &["--memory", "1"],
    ] {
        assert_eq!(run(words).status.code(), Some(2));
    }
}
