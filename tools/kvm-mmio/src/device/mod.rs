// SPDX-License-Identifier: GPL-2.0
//! The extension in the running kernel: its statistics file and its parameters.

#[cfg(test)]
pub mod sample;
pub mod wire;

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::failure::{Failure, warn};
use crate::reading::Reading;

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

    /// What a process is called, if it lives and can be seen from here: as its VMM was told to
    /// call the VM, else as its program.
    pub fn process_name(&self, tgid: u32) -> Option<String> {
        let read = |file| fs::read(self.path(&format!("/proc/{tgid}/{file}")));
        let program = read("comm").ok()?;
        let arguments = read("cmdline").unwrap_or_default();
        let name = guest_name(&String::from_utf8_lossy(&arguments));
        let name = name.unwrap_or_else(|| String::from_utf8_lossy(&program).trim().to_owned());
        Some(name.replace(|c: char| c.is_control(), "?"))
    }

    pub fn open(&self) -> Result<Device> {
        Device::open(self)
    }
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

/// The statistics file, open. While it is, the kernel keeps the counts of VMs that end.
pub struct Device {
    file: File,
    path: PathBuf,
}

impl Device {
    fn open(system: &System) -> Result<Self> {
        let path = system.path("/dev/kvm_mmio_ext");
        match File::open(&path) {
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
        ErrorKind::PermissionDenied => {
            Failure::Denied(format!("{path} can be read by root only: run this as root"))
        }
        ErrorKind::NotFound if system.has_module("kvm_mmio_ext") => Failure::Unavailable(format!(
            "the module kvm_mmio_ext is loaded, but there is no {path}: the module is older than \
             this program, or /dev is not the kernel's own"
        )),
        ErrorKind::NotFound => Failure::Unavailable(
            "the module kvm_mmio_ext is not loaded: load it with `insmod kvm_mmio_ext.ko`; \
             `kvm-mmio status` says what else is missing"
                .to_owned(),
        ),
        ErrorKind::WouldBlock => {
            Failure::Unavailable("the module is being loaded: try again".to_owned())
        }
        _ => Failure::Unavailable(format!("cannot open {path}: {error}")),
    }
}

/// Counting by page, switched on for as long as this lives.
pub struct Heat {
    path: PathBuf,
    /// It was off before.
    switch_off: bool,
}

impl Heat {
    pub fn on(system: &System) -> Result<Self> {
        let path = system.path("/sys/module/kvm_mmio_ext/parameters/heat");
        let was = fs::read_to_string(&path).map_err(|error| {
            Failure::Unavailable(format!(
                "the extension cannot count by page: {}: {error}",
                path.display()
            ))
        })?;
        let switch_off = was.trim() == "N";
        if switch_off {
            fs::write(&path, "Y").map_err(|error| match error.kind() {
                ErrorKind::PermissionDenied => Failure::Denied(format!(
                    "{} can be written by root only: run this as root",
                    path.display()
                )),
                _ => Failure::Unavailable(format!("cannot write {}: {error}", path.display())),
            })?;
        }
        Ok(Self { path, switch_off })
    }
}

impl Heat {
    /// Switches counting off again, if it was off.
    pub fn restore(&self) {
        if !self.switch_off {
            return;
        }
        if let Err(error) = fs::write(&self.path, "N") {
            warn(format_args!(
                "counting by page stays on: {}: {error}",
                self.path.display()
            ));
        }
    }
}

impl Drop for Heat {
    fn drop(&mut self) {
        self.restore();
    }
}

/// Says why no access is fast, if so.
pub fn warn_of_setting(reading: &Reading) {
    if reading.clock.flags & crate::reading::ENABLED == 0 {
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
