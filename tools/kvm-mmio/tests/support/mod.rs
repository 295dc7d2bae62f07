// SPDX-License-Identifier: GPL-2.0
//! A kernel made of files, and what the program does on it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use kvm_mmio::metrics::{Format, Limits, render};
use kvm_mmio::region::Names;
use tempfile::TempDir;

use crate::reading::{Reading, TRACED};
use crate::sample;

/// A folder with the files of a kernel.
pub struct Kernel {
    folder: TempDir,
}

impl Kernel {
    /// Without KVM.
    pub fn bare() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let kernel = Self { folder };
        kernel.write("proc/sys/kernel/osrelease", "7.3.4\n");
        kernel.write("proc/sys/kernel/hostname", "a-host\n");
        kernel
    }

    /// With the extension, which has this to say.
    pub fn with(reading: &Reading) -> Self {
        let kernel = Self::bare();
        kernel.load_kvm();
        kernel.load(reading);
        kernel
    }

    /// A distribution's: KVM without hooks, and with its tracepoints, which can be read. No kernel
    /// has events of their number.
    pub fn stock() -> Self {
        let kernel = Self::bare();
        kernel.load_kvm();
        kernel.write("proc/kallsyms", "0000 T kvm_init\t[kvm]\n");
        kernel.write("proc/sys/kernel/perf_event_paranoid", "3\n");
        kernel.write("sys/devices/system/cpu/online", "0\n");
        for (name, fields) in [
            (
                "kvm_exit",
                &["u32 exit_reason", "u64 guest_rip", "u32 vcpu_id"][..],
            ),
            ("kvm_mmio", &["u32 type", "u32 len", "u64 gpa", "u64 val"]),
            ("kvm_fast_mmio", &["u64 gpa"]),
            ("kvm_userspace_exit", &["u32 reason", "u32 errno"]),
        ] {
            let field = |(place, name): (usize, &&str)| {
                let size = if name.starts_with("u64") { 8 } else { 4 };
                let offset = 8 + 8 * place;
                format!("\tfield:{name};\toffset:{offset};\tsize:{size};\tsigned:0;\n")
            };
            let fields: String = fields.iter().enumerate().map(field).collect();
            kernel.write(
                &format!("sys/kernel/tracing/events/kvm/{name}/format"),
                format!("name: {name}\nID: 99999\nformat:\n{fields}"),
            );
        }
        kernel
    }

    fn load_kvm(&self) {
        self.write("sys/module/kvm/parameters/mmio_caching", "Y\n");
        self.write("sys/module/kvm_amd/parameters/npt", "Y\n");
    }

    /// Loads the extension.
    pub fn load(&self, reading: &Reading) {
        for (name, value) in [("enabled", "Y\n"), ("fast", "Y\n"), ("heat", "N\n")] {
            self.write(&format!("sys/module/kvm_mmio_ext/parameters/{name}"), value);
        }
        self.write(
            "dev/kmsg",
            "6,1,1,-;kvm_mmio_ext: installed MMIO SPTE value 0x9, mask 0x9\n",
        );
        self.write("dev/kvm_mmio_ext", sample::file(reading));
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), content).unwrap();
    }

    /// Whether another process has the statistics open so that the kernel counts by page.
    pub fn counts(&self) -> bool {
        let device = self.path("dev/kvm_mmio_ext");
        let is_other = |process: &Path| !process.ends_with(std::process::id().to_string());
        let processes = entries(Path::new("/proc")).filter(|process| is_other(process));
        let files = processes.flat_map(|process| entries(&process.join("fd")).collect::<Vec<_>>());
        let ours = files.filter(|file| fs::read_link(file).is_ok_and(|target| target == device));
        // That of a link in /proc tells how the file was opened.
        let mut modes = ours.filter_map(|file| Some(fs::symlink_metadata(file).ok()?.mode()));
        modes.any(|mode| mode & 0o200 != 0)
    }

    pub fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kvm-mmio"));
        command
            .arg("--root")
            .arg(self.folder.path())
            .args(arguments);
        command.current_dir(self.folder.path());
        command
    }

    pub fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Done {
        Done::from(self.command(arguments).output().unwrap())
    }
}

/// What a folder has, if it is there still.
fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path()))
}

pub struct Done {
    pub status: i32,
    pub out: String,
    pub err: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Done {
    #[track_caller]
    pub fn expect(self, status: i32, out: &str, err: &str) -> Self {
        let told = format!("status {}\n{}\n{}", self.status, self.out, self.err);
        assert_eq!(self.status, status, "{told}");
        assert!(self.out.contains(out), "no {out:?} in output: {told}");
        assert!(self.err.contains(err), "no {err:?} in errors: {told}");
        self
    }

    pub fn json(&self) -> Vec<serde_json::Value> {
        self.out
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

/// Metrics of what tracepoints have told, with times.
pub fn traced_metrics(format: Format) -> String {
    let mut reading = sample::traced();
    reading.clock.flags |= TRACED;
    let limits = Limits {
        vms: 100,
        pages: 100,
    };
    render(Some(&reading), &Names::default(), limits, format)
}

/// What the kernel says after everything has happened once more.
pub fn doubled() -> Reading {
    doubled_of(&sample::two_vms())
}

pub fn doubled_of(before: &Reading) -> Reading {
    let mut reading = before.clone();
    reading.add(before);
    reading.clock.boottime += 1_500_000_000;
    reading
}
