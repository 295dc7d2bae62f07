// SPDX-License-Identifier: GPL-2.0
//! What a report leaves out: who and where somebody is.

use std::fs;

/// Parameters of the kernel's command line that bear on what is tested or measured. None of them
/// names a person, a machine, a disk or an address.
const PARAMETERS: &[&str] = &[
    "amd_iommu",
    "amd_pstate",
    "clearcpuid",
    "clocksource",
    "cpuidle.off",
    "default_hugepagesz",
    "gather_data_sampling",
    "hugepages",
    "hugepagesz",
    "idle",
    "indirect_target_selection",
    "intel_idle.max_cstate",
    "intel_iommu",
    "intel_pstate",
    "iommu",
    "irqaffinity",
    "isolcpus",
    "kpti",
    "l1d_flush",
    "l1tf",
    "mce",
    "mds",
    "mem_encrypt",
    "mitigations",
    "mmio_stale_data",
    "no5lvl",
    "nohz",
    "nohz_full",
    "nokaslr",
    "nomce",
    "nopcid",
    "nopti",
    "nosmt",
    "nospec_store_bypass_disable",
    "nospectre_v1",
    "nospectre_v2",
    "nowatchdog",
    "nox2apic",
    "nmi_watchdog",
    "preempt",
    "processor.max_cstate",
    "pti",
    "rcu_nocbs",
    "reg_file_data_sampling",
    "retbleed",
    "spec_rstack_overflow",
    "spec_store_bypass_disable",
    "spectre_bhi",
    "spectre_v2",
    "spectre_v2_user",
    "srbds",
    "threadirqs",
    "transparent_hugepage",
    "tsa",
    "tsc",
    "tsx",
    "tsx_async_abort",
    "vmscape",
];

fn bears_on_kvm(word: &str) -> bool {
    let name = word.split('=').next().unwrap_or("").replace('-', "_");
    let is_module = ["kvm.", "kvm_intel.", "kvm_amd.", "kvm_mmio_ext."]
        .iter()
        .any(|module| name.starts_with(module));
    (is_module || PARAMETERS.contains(&name.as_str())) && !word.contains('/')
}

/// The kernel's command line, with words that bear on nothing here replaced by their number.
pub fn command_line(text: &str) -> String {
    let (kept, others): (Vec<_>, Vec<_>) =
        text.split_whitespace().partition(|word| bears_on_kvm(word));
    let mut kept = kept.join(" ");
    if !others.is_empty() {
        if !kept.is_empty() {
            kept.push(' ');
        }
        kept += &format!("({} others not shown)", others.len());
    }
    kept
}

/// Paths that are the same on every machine.
const KERNEL_FILES: &[&str] = &["/sys/", "/proc/", "/dev/"];

/// What programs and the kernel print, without names and paths of this machine.
pub struct Filter {
    names: Vec<String>,
}

impl Filter {
    /// For this machine and this user.
    pub fn here() -> Self {
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let users = ["USER", "LOGNAME", "SUDO_USER"].map(|name| std::env::var(name).ok());
        let short = host.split('.').next().unwrap_or("").to_owned();
        Self::of([host, short].into_iter().chain(users.into_iter().flatten()))
    }

    fn of(names: impl IntoIterator<Item = String>) -> Self {
        let mut names: Vec<_> = names
            .into_iter()
            .map(|name| name.trim().to_owned())
            // What everybody is called says nothing.
            .filter(|name| !["", "root", "localhost", "(none)"].contains(&name.as_str()))
            .collect();
        // A whole name before its first part.
        names.sort_by_key(|name| std::cmp::Reverse(name.len()));
        Self { names }
    }

    pub fn apply(&self, text: &str) -> String {
        text.split_inclusive(char::is_whitespace)
            .map(|word| self.word(word))
            .collect()
    }

    fn word(&self, word: &str) -> String {
        let mut word = word.to_owned();
        if let Some(at) = word.find('/') {
            let (start, path) = word.split_at(at);
            let is_absolute = !start.ends_with(|c: char| c.is_alphanumeric() || "._-".contains(c));
            if is_absolute && !KERNEL_FILES.iter().any(|known| path.starts_with(known)) {
                let end = path.trim_end_matches(|c: char| c.is_whitespace() || c == ':');
                // The file's own name, and where in it, tell what has failed.
                let file = end.rsplit('/').next().unwrap_or("");
                word = format!("{start}[path]/{file}{}", &path[end.len()..]);
            }
        }
        for name in &self.names {
            word = without_name(&word, name);
        }
        word
    }
}

/// `name` may be part of a longer name, such as that of a function, which stays.
fn without_name(text: &str, name: &str) -> String {
    let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let (mut result, mut rest) = (String::new(), text);
    while let Some(at) = rest.find(name) {
        let (before, after) = (&rest[..at], &rest[at + name.len()..]);
        let left = before.chars().next_back().or(result.chars().next_back());
        result += before;
        result += if is_part(left) || is_part(after.chars().next()) {
            name
        } else {
            "[name]"
        };
        rest = after;
    }
    result + rest
}

#[cfg(test)]
mod tests {
    use super::{Filter, command_line};

    #[test]
    fn a_command_line_keeps_what_matters() {
        assert_eq!(
            command_line(
                "BOOT_IMAGE=/boot/vmlinuz root=UUID=12-34 ip=10.0.0.7 mitigations=auto,nosmt \
                 kvm-intel.ept=0 ro kvm.tdp_mmu=N nopti hugepages=4\n"
            ),
            "mitigations=auto,nosmt kvm-intel.ept=0 kvm.tdp_mmu=N nopti hugepages=4 \
             (4 others not shown)"
        );
        assert_eq!(command_line("quiet"), "(1 others not shown)");
        assert_eq!(command_line(""), "");
        assert_eq!(command_line("kvm.file=/home/me"), "(1 others not shown)");
    }

    #[test]
    fn names_and_paths_go() {
        let filter = Filter::of(["pluto.example.org\n", "pluto", "root", "ann"].map(str::to_owned));
        assert_eq!(
            filter.apply("7.3.4-pluto on pluto.example.org by ann, an annex\n"),
            "7.3.4-[name] on [name] by [name], an annex\n"
        );
        assert_eq!(
            filter.apply("at /home/ann/.cargo/x/lib.rs:12:3: no\t\"/tmp/a b=/x/y"),
            "at [path]/lib.rs:12:3: no\t\"[path]/a b=[path]/y"
        );
    }

    #[test]
    fn the_kernels_own_files_stay() {
        let filter = Filter::of(["pluto".to_owned()]);
        let text = "# opening /dev/kvm: src/tests/access.rs:3, 1/2 of /sys/module/kvm, \
                    on/off plutonium\n";
        assert_eq!(filter.apply(text), text);
    }
}
