// SPDX-License-Identifier: GPL-2.0
//! What shells and readers of manuals get.

use super::*;

#[test]
fn help_man_page_and_completions() {
    let kernel = Kernel::bare();
    kernel
        .run(&["--help"])
        .expect(0, "5    a recording is damaged", "");
    kernel
        .run(&["nonsense"])
        .expect(2, "", "unrecognized subcommand");
    kernel
        .run(&["top", "-i", "0"])
        .expect(2, "", "not between 1ms");
    let man = kernel
        .run(&["generate", "man"])
        .expect(0, ".TH kvm-mmio 8", "");
    for part in [
        "KVM-MMIO STAT",
        "KVM-MMIO EXPORT",
        "COLUMNS",
        "KEYS OF TOP",
        "reset the totals",
        "FILES",
        "/dev/kvm_mmio_ext",
        "EXAMPLES",
        "\\-\\-mtree 4711=web.mtree",
        "a recording is damaged",
        "info mtree",
    ] {
        assert!(man.out.contains(part), "{part}");
    }
    assert!(
        !man.out.contains("GENERATE") && !man.out.contains("-root"),
        "{}",
        man.out
    );
    let printed = kernel_report_titles();
    let columns = man
        .out
        .split(".SH \"COLUMNS\"")
        .nth(1)
        .unwrap()
        .split(".SH")
        .next()
        .unwrap();
    for title in printed
        .split_whitespace()
        .filter(|title| !["ns", "each"].contains(title))
    {
        assert!(columns.contains(title), "no column {title} in the man page");
    }
    for shell in ["bash", "zsh", "fish"] {
        kernel
            .run(&["generate", "completions", shell])
            .expect(0, "kvm-mmio", "");
    }
}

/// What `make` says of a program that says this of its version.
fn made(kernel: &Kernel, version: &str) -> Done {
    let built = kernel.path("out/cargo-tools/x86_64-unknown-linux-gnu/release");
    fs::create_dir_all(&built).unwrap();
    for (program, does) in [
        (kernel.path("cargo"), "true"),
        (built.join("kvm-mmio"), version),
    ] {
        fs::write(&program, format!("#!/bin/sh\n{does}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut make = Command::new("make");
    make.args(["-s", "-C", env!("CARGO_MANIFEST_DIR")])
        .arg(format!("CARGO={}", kernel.path("cargo").display()))
        .arg(format!("OUTPUT={}", kernel.path("out").display()));
    // A make that runs the tests has its own settings.
    for name in ["MAKEFLAGS", "MAKELEVEL", "RUST_TARGET"] {
        make.env_remove(name);
    }
    Done::from(make.output().unwrap())
}

#[test]
fn make_ends_with_what_is_missing() {
    let kernel = Kernel::bare();
    let done = made(&kernel, "echo 'kvm-mmio 0.1.0 (without BPF)'");
    let done = done.expect(0, "", "Install clang, and make it again.");
    assert_eq!(done.err.lines().count(), 1, "{}", done.err);
    let done = made(&kernel, "echo kvm-mmio 0.1.0").expect(0, "", "");
    assert_eq!(done.err, "");
    // As this program says it.
    let said = kernel.run(&["--version"]).expect(0, "kvm-mmio 0.1.0", "");
    let status = Kernel::stock().run(&["status"]).out;
    assert_eq!(
        said.out.contains(" (without BPF)"),
        status.contains("built without clang")
    );
}
