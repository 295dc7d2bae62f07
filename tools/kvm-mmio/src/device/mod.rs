// SPDX-License-Identifier: GPL-2.0
//! The extension in the running kernel: its statistics file and its parameters.

#[cfg(test)]
pub mod sample;
pub mod wire;
mod wire_error;

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::failure::{Failure, warn};
use crate::reading::{ENABLED, HEAT, Reading};
use crate::stats_format::TELL_INSTRUCTIONS;

/// The kernel as this program sees it: below another root in tests and containers.
#[derive(Clone, Debug)]
pub struct System {
    root: PathBuf,
}

impl System {
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// A parameter of a module; None if there is no such module or parameter.
    pub fn parameter(&self, module: &str, name: &str) -> Option<String> {
        let path = self.path(&format!("/sys/module/{module}/parameters/{name}"));
        Some(fs::read_to_string(path).ok()?.trim().to_owned())
    }

    pub fn has_module(&self, module: &str) -> bool {
        self.path(&format!("/sys/module/{module}")).is_dir()
    }

    pub fn kernel(&self) -> String {
        let release = fs::read_to_string(self.path("/proc/sys/kernel/osrelease"));
        release.map_or_else(
            |_| "unknown".to_owned(),
            |release| release.trim().to_owned(),
        )
    }

    /// What the machine is called; empty if it has no name.
    pub fn host(&self) -> String {
        let name = fs::read_to_string(self.path("/proc/sys/kernel/hostname")).unwrap_or_default();
        match name.trim() {
            "(none)" => String::new(),
            name => name.to_owned(),
        }
    }

    /// What a process is called, if it lives and can be seen from here: as its VMM was told to
    /// call the VM, else as its program and the unit of systemd that it is in.
    pub fn process_name(&self, tgid: u32) -> Option<String> {
        let read = |file| fs::read(self.path(&format!("/proc/{tgid}/{file}")));
        let program = read("comm").ok()?;
        let arguments = read("cmdline").unwrap_or_default();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        let program = text(&program);
        let cgroup = || unit(&text(&read("cgroup").unwrap_or_default()));
        let of_unit = || cgroup().map(|unit| format!("{program} in {unit}"));
        let name = guest_name(&String::from_utf8_lossy(&arguments)).or_else(of_unit);
        let name = name.unwrap_or(program);
        Some(name.replace(|c: char| c.is_control(), "?"))
    }

    /// The processes that have the statistics file open, this one excepted, as far as they can be
    /// seen: the module stays as long as there are any.
    pub fn readers(&self) -> Vec<Reader> {
        let device = self.path(DEVICE);
        let mut readers = Vec::new();
        for process in entries(&self.path("/proc")) {
            let pid = process
                .file_name()
                .and_then(|name| name.to_str()?.parse().ok());
            let Some(pid) = pid.filter(|pid| *pid != std::process::id()) else {
                continue;
            };
            let files: Vec<_> = entries(&process.join("fd"))
                .filter(|file| fs::read_link(file).is_ok_and(|target| target == device))
                .collect();
            // The mode of a link in /proc is that of the open file.
            let mode = |file| fs::symlink_metadata(file).map_or(0, |link| link.mode());
            if !files.is_empty() {
                readers.push(Reader {
                    pid,
                    counts: files.iter().any(|file| mode(file) & 0o200 != 0),
                });
            }
        }
        readers.sort_by_key(|reader| reader.pid);
        readers
    }

    pub fn open(&self) -> Result<Device> {
        Device::open(self, File::options().read(true))
    }

    /// The same. The kernel counts by page as long as it is open, and by instruction if that is
    /// wanted, which ends with this process however that ends.
    pub fn open_counting(&self, instructions: bool) -> Result<Device> {
        let mut device = Device::open(self, File::options().read(true).write(true))?;
        if instructions {
            let written = device.file.write_all(TELL_INSTRUCTIONS);
            written.context("the module does not count by instruction")?;
        }
        match device.read()?.clock.flags & HEAT {
            0 => Err(Failure::Unavailable(NOT_COUNTING.to_owned()).into()),
            _ => Ok(device),
        }
    }
}

/// Who has the statistics file open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reader {
    pub pid: u32,
    /// The kernel counts by page meanwhile.
    pub counts: bool,
}

const DEVICE: &str = "/dev/kvm_mmio_ext";

/// What a folder has, if it can be seen.
fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path()))
}

/// The name that a VM has in the command line of its VMM: `-name guest=NAME` of QEMU, which
/// libvirt gives too, and `--id NAME` of Firecracker.
fn guest_name(arguments: &str) -> Option<String> {
    let mut arguments = arguments.split('\0');
    let program = arguments.next()?.rsplit('/').next()?;
    if program.starts_with("qemu") || program == "kvm" {
        arguments.find(|argument| matches!(*argument, "-name" | "--name"))?;
        // A comma in a value is written twice.
        let value = arguments.next()?.replace(",,", "\0");
        let mut parts = value.split(',').enumerate();
        let name = parts.find_map(|(place, part)| match part.split_once('=') {
            Some((key, name)) => (key == "guest").then_some(name),
            None => (place == 0).then_some(part),
        })?;
        return Some(name.replace('\0', ",")).filter(|name| !name.is_empty());
    }
    if program == "firecracker" {
        arguments.find(|argument| *argument == "--id")?;
        return arguments.next().map(str::to_owned);
    }
    None
}

/// The unit that a control group is of, unless it is a session or a whole user's; `\x2d` is a
/// hyphen in the name of a unit.
fn unit(cgroup: &str) -> Option<String> {
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    let is_unit = |part: &&str| part.ends_with(".service") || part.ends_with(".scope");
    let name = path.rsplit('/').find(is_unit)?;
    let is_user = ["session-", "user@", "init.scope"]
        .iter()
        .any(|user| name.starts_with(user));
    (!is_user).then(|| name.replace("\\x2d", "-"))
}

const NOT_COUNTING: &str = "the module does not count by page while its file is open for \
    writing: it is older than this program";

/// The statistics file, open. While it is, the kernel keeps the counts of VMs that end.
pub struct Device {
    file: File,
    path: PathBuf,
}

impl Device {
    fn open(system: &System, how: &OpenOptions) -> Result<Self> {
        let path = system.path(DEVICE);
        match how.open(&path) {
            Ok(file) => Ok(Self { file, path }),
            Err(error) => Err(explain(system, &path, &error).into()),
        }
    }

    /// Takes a snapshot of all counts.
    pub fn read(&self) -> Result<Reading> {
        let bytes = self
            .read_file()
            .with_context(|| format!("cannot read {}", self.path.display()))?;
        Ok(wire::parse(&bytes)?)
    }

    fn read_file(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; 1 << 16];
        let mut size = 0;
        loop {
            match self.file.read_at(&mut bytes[size..], size as u64) {
                Ok(0) => {
                    bytes.truncate(size);
                    return Ok(bytes);
                }
                Ok(n) => size += n,
                // The snapshot is kept: reading goes on in it.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if size == bytes.len() {
                bytes.resize(2 * size, 0);
            }
        }
    }
}

fn explain(system: &System, path: &Path, error: &io::Error) -> Failure {
    let path = path.display();
    match error.kind() {
        ErrorKind::PermissionDenied => Failure::Denied(format!(
            "you may not open {path}: run this as root, or as a member of the group kvm-mmio, to \
             which the udev rule of the package kvm-mmio gives it"
        )),
        ErrorKind::NotFound if system.has_module("kvm_mmio_ext") => Failure::Unavailable(format!(
            "the module kvm_mmio_ext is loaded, but there is no {path}: the module is older than \
             this program, or /dev is not the kernel's own"
        )),
        ErrorKind::NotFound => Failure::Unavailable(
            "the module kvm_mmio_ext is not loaded: load it with `modprobe kvm_mmio_ext` \
             or `insmod kvm_mmio_ext.ko`; `kvm-mmio status` says what else is missing"
                .to_owned(),
        ),
        ErrorKind::WouldBlock => {
            Failure::Unavailable("the module is being loaded: try again".to_owned())
        }
        _ => Failure::Unavailable(format!("cannot open {path}: {error}")),
    }
}

/// Says why no access is fast, if so.
pub fn warn_of_setting(reading: &Reading) {
    if reading.clock.flags & ENABLED == 0 {
        warn(
            "the extension is switched off, every access goes to KVM's emulator: \
             echo Y > /sys/module/kvm_mmio_ext/parameters/enabled",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_units() {
        for (cgroup, name) in [
            ("0::/system.slice/vm@web.service", Some("vm@web.service")),
            (
                "12:cpu:/\n0::/machine.slice/machine-ch\\x2d1\\x2dweb.scope/vcpu0",
                Some("machine-ch-1-web.scope"),
            ),
            ("0::/user.slice/user-0.slice/session-3.scope", None),
            ("0::/", None),
            ("", None),
        ] {
            assert_eq!(unit(cgroup).as_deref(), name, "{cgroup:?}");
        }
    }

    #[test]
    fn names_of_guests() {
        for (arguments, name) in [
            (
                "/usr/bin/qemu-system-x86_64\0-enable-kvm\0-name\0web\0",
                Some("web"),
            ),
            ("kvm\0-name\0guest=web,debug-threads=on\0", Some("web")),
            (
                "qemu-kvm\0-name\0debug-threads=on,guest=a,,b\0",
                Some("a,b"),
            ),
            ("qemu-kvm\0-name\0debug-threads=on\0", None),
            ("qemu-kvm\0-name", None),
            ("/firecracker\0--id\0fc-1\0--api-sock\0x\0", Some("fc-1")),
            ("vim\0-name\0web\0", None),
            ("", None),
        ] {
            assert_eq!(guest_name(arguments).as_deref(), name, "{arguments:?}");
        }
    }
}
