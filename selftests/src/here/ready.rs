// SPDX-License-Identifier: GPL-2.0
//! Whether this machine can be tested, before anything on it is changed.

use std::fs::{self, File, OpenOptions};
use std::io::{Error, ErrorKind};
use std::path::Path;

/// What is looked at. Files are opened as they will be, but neither read nor written.
pub struct Looks {
    pub has_vendor: bool,
    pub has_extension: bool,
    pub kvm: Result<(), Error>,
    pub switch: Result<(), Error>,
    pub statistics: Result<(), Error>,
}

impl Looks {
    pub fn here() -> Self {
        let module = |name: &str| Path::new("/sys/module").join(name).exists();
        let open = |path: &str, write| {
            let file = OpenOptions::new().read(true).write(write).open(path);
            file.map(|_: File| ())
        };
        Self {
            has_vendor: module("kvm_intel") || module("kvm_amd"),
            has_extension: module("kvm_mmio_ext"),
            kvm: open("/dev/kvm", true),
            switch: open("/sys/module/kvm_mmio_ext/parameters/enabled", true),
            statistics: open("/sys/kernel/debug/kvm_mmio_ext/stats", false),
        }
    }

    /// What to do first, in one line.
    pub fn missing(&self) -> Option<String> {
        if !self.has_vendor {
            return Some(
                "KVM is not loaded: modprobe kvm_intel, or kvm_amd, of the patched kernel, \
                 and load kvm_mmio_ext"
                    .into(),
            );
        }
        if !self.has_extension {
            return Some(
                "kvm_mmio_ext is not loaded: boot the patched kernel and insmod kvm_mmio_ext.ko \
                 (Documentation/using.rst)"
                    .into(),
            );
        }
        let files = [
            ("/dev/kvm", &self.kvm),
            ("the switch of kvm_mmio_ext", &self.switch),
            ("the statistics of kvm_mmio_ext", &self.statistics),
        ];
        files.iter().find_map(|(what, opened)| {
            let Err(error) = opened else {
                return None;
            };
            Some(match error.kind() {
                ErrorKind::PermissionDenied => {
                    format!("{what} is not for this user: run it as root")
                }
                ErrorKind::NotFound if what.contains("statistics") => {
                    "debugfs is not mounted: mount -t debugfs debugfs /sys/kernel/debug".into()
                }
                _ => format!("{what} cannot be opened: {error}"),
            })
        })
    }
}

/// VMs that are alive, as KVM's own statistics name them; None where these cannot be read.
pub fn other_vms() -> Option<usize> {
    let entries = fs::read_dir("/sys/kernel/debug/kvm").ok()?;
    Some(
        entries
            .flatten()
            .filter(|entry| is_vm(&entry.file_name().to_string_lossy()))
            .count(),
    )
}

/// A VM's folder is called by process and file descriptor.
fn is_vm(name: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    name.split_once('-')
        .is_some_and(|(process, file)| is_number(process) && is_number(file))
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::{Looks, is_vm};

    fn ready() -> Looks {
        Looks {
            has_vendor: true,
            has_extension: true,
            kvm: Ok(()),
            switch: Ok(()),
            statistics: Ok(()),
        }
    }

    fn says(looks: Looks, wanted: &str) {
        let said = looks.missing().unwrap();
        assert!(said.contains(wanted), "{said}");
        assert!(!said.contains('\n'), "{said}");
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(ready().missing(), None);
        says(
            Looks {
                has_vendor: false,
                ..ready()
            },
            "modprobe kvm_intel",
        );
        says(
            Looks {
                has_extension: false,
                ..ready()
            },
            "insmod kvm_mmio_ext.ko",
        );
        let denied = || Err(ErrorKind::PermissionDenied.into());
        says(
            Looks {
                kvm: denied(),
                ..ready()
            },
            "/dev/kvm is not for this user",
        );
        says(
            Looks {
                switch: denied(),
                ..ready()
            },
            "run it as root",
        );
        let absent = || Err(ErrorKind::NotFound.into());
        says(
            Looks {
                statistics: absent(),
                ..ready()
            },
            "mount -t debugfs",
        );
        says(
            Looks {
                kvm: absent(),
                ..ready()
            },
            "/dev/kvm cannot be opened",
        );
    }

    #[test]
    fn vms_are_told_from_counters() {
        assert!(is_vm("4711-12"));
        for name in ["exits", "4711-", "-12", "4711", "4711-vcpu0"] {
            assert!(!is_vm(name), "{name}");
        }
    }
}
