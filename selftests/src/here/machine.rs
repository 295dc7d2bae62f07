// SPDX-License-Identifier: GPL-2.0
//! What a reader must know of a machine to judge its figures, and nothing that tells whose it is.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Result;

use super::private::{self, Filter};
use crate::host;

/// Properties of a processor on which KVM's way with MMIO depends.
const FLAGS: &[&str] = &[
    "vmx",
    "ept",
    "vpid",
    "ept_ad",
    "svm",
    "npt",
    "nrip_save",
    "decodeassists",
    "flushbyasid",
    "pause_filter",
    "vnmi",
    "avic",
    "la57",
    "pcid",
    "invpcid",
    "smap",
    "smep",
    "umip",
    "pku",
    "sme",
    "sev",
    "sev_es",
    "sev_snp",
    "constant_tsc",
    "nonstop_tsc",
    "flush_l1d",
    "md_clear",
    "ibrs",
    "ibrs_enhanced",
    "autoibrs",
];

/// What /proc/cpuinfo says of the first processor.
pub struct Processor(BTreeMap<String, String>);

impl Processor {
    pub fn parse(cpuinfo: &str) -> Self {
        let first = cpuinfo.split("\n\n").next().unwrap_or("");
        let pairs = first.lines().filter_map(|line| line.split_once(':'));
        Self(
            pairs
                .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
                .collect(),
        )
    }

    fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("-", String::as_str)
    }

    fn has(&self, flag: &str) -> bool {
        ["flags", "vmx flags"]
            .iter()
            .any(|name| self.get(name).split_whitespace().any(|word| word == flag))
    }

    fn describe(&self) -> Vec<(&'static str, String)> {
        let flags = FLAGS.iter().copied().filter(|flag| self.has(flag));
        vec![
            ("processor", self.get("model name").to_owned()),
            (
                "family, model, stepping",
                format!(
                    "{} {}, {}, {}",
                    self.get("vendor_id"),
                    self.get("cpu family"),
                    self.get("model"),
                    self.get("stepping")
                ),
            ),
            ("microcode", self.get("microcode").to_owned()),
            ("addresses", self.get("address sizes").to_owned()),
            ("of its flags", flags.collect::<Vec<_>>().join(" ")),
            (
                "under a hypervisor",
                if self.has("hypervisor") {
                    "yes: KVM is nested here, or the processor is emulated"
                } else {
                    "no"
                }
                .to_owned(),
            ),
        ]
    }
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".into())
}

fn first_lines(filter: &Filter, processor: usize) -> Vec<(&'static str, String)> {
    let kernel = |name: &str| or_dash(read(format!("/proc/sys/kernel/{name}")));
    let cpu = Path::new("/sys/devices/system/cpu");
    let online = host::cpus().map_or("-".into(), |count| count.to_string());
    let own = cpu.join(format!("cpu{processor}/cpufreq"));
    let clocks = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let mut lines =
        Processor::parse(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default()).describe();
    lines.extend([
        ("processors online", online),
        (
            "hyper-threading (SMT)",
            or_dash(read(cpu.join("smt/control"))),
        ),
        (
            "frequency governor",
            or_dash(read(own.join("scaling_governor"))),
        ),
        ("clock source", or_dash(read(clocks))),
        ("kernel", filter.apply(&kernel("osrelease"))),
        ("its build", filter.apply(&kernel("version"))),
        (
            "its command line",
            private::command_line(&read("/proc/cmdline").unwrap_or_default()),
        ),
        ("taint", kernel("tainted")),
    ]);
    lines
}

/// All parameters of a module that can be read.
fn parameters(module: &str) -> Vec<(String, String)> {
    let folder = format!("/sys/module/{module}/parameters");
    let mut names: Vec<_> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
        .into_iter()
        .filter_map(|name| {
            let value = host::parameter(module, &name)?;
            Some((format!("{module}.{name}"), value))
        })
        .collect()
}

/// The build ID in the notes of an ELF file: GNU's note of type 3.
fn build_id(notes: &[u8]) -> Option<String> {
    let field = |at: usize| {
        let bytes = notes.get(at..at + 4)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?) as usize)
    };
    let (name, length, kind) = (field(0)?, field(4)?, field(8)?);
    let start = 12 + name.next_multiple_of(4);
    let id = notes.get(start..start.checked_add(length)?)?;
    (kind == 3).then(|| id.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn module() -> Vec<(&'static str, String)> {
    let folder = Path::new("/sys/module/kvm_mmio_ext");
    let notes = fs::read(folder.join("notes/.note.gnu.build-id")).unwrap_or_default();
    vec![
        ("version", or_dash(read(folder.join("version")))),
        ("source version", or_dash(read(folder.join("srcversion")))),
        ("build ID", or_dash(build_id(&notes))),
        ("taint", or_dash(read(folder.join("taint")))),
    ]
}

fn section<N: AsRef<str>>(title: &str, lines: &[(N, String)]) -> String {
    let width = lines.iter().map(|(name, _)| name.as_ref().len()).max();
    let width = width.unwrap_or(0);
    let mut text = format!("\n{title}\n{}\n", "-".repeat(title.len()));
    for (name, value) in lines {
        text += format!("{:width$}  {value}", name.as_ref()).trim_end();
        text.push('\n');
    }
    text
}

/// The machine in several sections; what is measured is measured on `processor`.
pub fn describe(filter: &Filter, processor: usize) -> Result<String> {
    let mitigations: Vec<_> = host::vulnerabilities()?.into_iter().collect();
    let modules = ["kvm", "kvm_intel", "kvm_amd", "kvm_mmio_ext"];
    let values: Vec<_> = modules.into_iter().flat_map(parameters).collect();
    Ok([
        section("Machine", &first_lines(filter, processor)),
        section("Mitigations", &mitigations),
        section("Module kvm_mmio_ext", &module()),
        section("Parameters", &values),
    ]
    .concat())
}

#[cfg(test)]
mod tests {
    use super::{Processor, build_id, section};

    const INTEL: &str = "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\n\
                         model\t\t: 60\nmodel name\t: A: processor\nstepping\t: 3\n\
                         microcode\t: 0x27\nflags\t\t: fpu vmx hypervisor\n\
                         vmx flags\t: vnmi ept\n\nprocessor\t: 1\nmodel name\t: another\n";

    fn value(text: &str, name: &str) -> String {
        let lines = Processor::parse(text).describe();
        lines.into_iter().find(|line| line.0 == name).unwrap().1
    }

    #[test]
    fn the_first_processor_is_described() {
        assert_eq!(value(INTEL, "processor"), "A: processor");
        assert_eq!(
            value(INTEL, "family, model, stepping"),
            "GenuineIntel 6, 60, 3"
        );
        assert_eq!(value(INTEL, "microcode"), "0x27");
        assert_eq!(value(INTEL, "of its flags"), "vmx ept vnmi");
        assert_eq!(value(INTEL, "addresses"), "-");
    }

    #[test]
    fn a_hypervisor_is_noticed() {
        assert!(value(INTEL, "under a hypervisor").starts_with("yes"));
        let plain = INTEL.replace(" hypervisor", "");
        assert_eq!(value(&plain, "under a hypervisor"), "no");
    }

    #[test]
    fn a_build_id_is_read() {
        let note = |kind: u8| {
            [
                &[4, 0, 0, 0, 2, 0, 0, 0, kind, 0, 0, 0][..],
                b"GNU\0",
                &[0xab, 0x01, 0, 0],
            ]
            .concat()
        };
        assert_eq!(build_id(&note(3)).as_deref(), Some("ab01"));
        assert_eq!(build_id(&note(1)), None);
        assert_eq!(build_id(&note(3)[..17]), None);
        assert_eq!(build_id(&[]), None);
    }

    #[test]
    fn sections_are_aligned() {
        let lines = [("a", "x".to_owned()), ("long", String::new())];
        assert_eq!(section("Title", &lines), "\nTitle\n-----\na     x\nlong\n");
    }
}
