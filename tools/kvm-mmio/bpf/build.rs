// SPDX-License-Identifier: GPL-2.0
//! Compiles the programs of BPF. Without a compiler, kvm-mmio is built without them and says so.

use std::env;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = "bpf/count.bpf.c";

/// As Debian names them, the newest first.
const VERSIONS: std::ops::RangeInclusive<u32> = 14..=22;

fn main() {
    println!("cargo::rerun-if-changed=bpf");
    println!("cargo::rerun-if-env-changed=CLANG");
    println!("cargo::rerun-if-env-changed=PATH");
    let out = env::var_os("OUT_DIR").expect("cargo names a folder");
    let object = PathBuf::from(out).join("count.bpf.o");
    let mut version = env!("CARGO_PKG_VERSION").to_owned();
    if !compilers().iter().any(|clang| compile(clang, &object)) {
        println!("cargo::warning=without clang, kvm-mmio is built without its programs of BPF");
        // There is none, so this is run whenever something is built: there may be clang by then.
        println!("cargo::rerun-if-changed=bpf/without-clang");
        std::fs::write(&object, []).expect("the folder can be written");
        version.push_str(" (without BPF)");
    }
    println!("cargo::rustc-env=VERSION={version}");
}

fn compilers() -> Vec<String> {
    if let Ok(clang) = env::var("CLANG") {
        return vec![clang];
    }
    let versions = VERSIONS.rev().map(|version| format!("clang-{version}"));
    ["clang".to_owned()].into_iter().chain(versions).collect()
}

/// False if there is no such compiler. One that fails ends the build, as the mistake is ours.
fn compile(clang: &str, object: &Path) -> bool {
    let mut command = Command::new(clang);
    command.args(["--target=bpf", "-mcpu=v3", "-O2", "-Wall", "-Werror", "-c"]);
    match command.arg(SOURCE).arg("-o").arg(object).status() {
        Ok(status) if status.success() => true,
        Ok(status) => panic!("{clang} has not compiled {SOURCE}: {status}; CLANG= names another"),
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        Err(error) => panic!("{clang}: {error}"),
    }
}
