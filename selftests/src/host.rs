// SPDX-License-Identifier: GPL-2.0
//! What the machine under test is: parameters of the loaded modules.

use std::collections::BTreeMap;
use std::fs::{self, DirEntry};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result};

fn parameter_path(module: &str, name: &str) -> PathBuf {
    ["/sys/module", module, "parameters", name].iter().collect()
}

/// A module's parameter, or None when the module or the parameter does not exist.
pub fn parameter(module: &str, name: &str) -> Option<String> {
    fs::read_to_string(parameter_path(module, name))
        .ok()
        .map(|value| value.trim().to_owned())
}

/// Changes a module's parameter.
pub fn set_parameter(module: &str, name: &str, value: &str) -> io::Result<()> {
    fs::write(parameter_path(module, name), value)
}

/// A module's parameter that is Y or N. It is put back when this is dropped.
pub struct Switch {
    module: &'static str,
    name: &'static str,
    before: String,
}

impl Switch {
    pub fn keep(module: &'static str, name: &'static str) -> Result<Self> {
        let before =
            parameter(module, name).with_context(|| format!("{module} has no parameter {name}"))?;
        Ok(Self {
            module,
            name,
            before,
        })
    }

    /// Whether it was on in the beginning.
    pub fn was_on(&self) -> bool {
        is_yes(&self.before)
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    pub fn set(&self, on: bool) -> Result<()> {
        set_parameter(self.module, self.name, if on { "Y" } else { "N" })
            .with_context(|| format!("turning {} of {}", self.name, self.module))
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        // What could be written before can be written again; a drop has nobody to tell.
        let _ = set_parameter(self.module, self.name, &self.before);
    }
}

fn is_yes(value: &str) -> bool {
    matches!(value, "Y" | "1")
}

fn is_on(module: &str, name: &str) -> bool {
    parameter(module, name).is_some_and(|value| is_yes(&value))
}

fn own_switch(name: &str) -> Option<bool> {
    parameter("kvm_mmio_ext", name).map(|value| is_yes(&value))
}

fn set_own_switch(name: &str, on: bool) -> io::Result<()> {
    set_parameter("kvm_mmio_ext", name, if on { "Y" } else { "N" })
}

/// The switch of the extension; None when it is not loaded.
pub fn extension_enabled() -> Option<bool> {
    own_switch("enabled")
}

/// Turns the extension on or off.
pub fn set_extension(enabled: bool) -> io::Result<()> {
    set_own_switch("enabled", enabled)
}

/// The switch of the extension's fast path; None when the extension is not loaded or has none.
pub fn fast_path() -> Option<bool> {
    own_switch("fast")
}

/// Turns the fast path on or off.
pub fn set_fast_path(on: bool) -> io::Result<()> {
    set_own_switch("fast", on)
}

/// The switch of what the fast path does with interrupts off; None as for [`fast_path`].
pub fn irqs_off() -> Option<bool> {
    own_switch("irqsoff")
}

/// Turns that on or off.
pub fn set_irqs_off(on: bool) -> io::Result<()> {
    set_own_switch("irqsoff", on)
}

/// Whether a guest has a CR2 of its own under shadow paging. The AMD that Bochs is (`svm-nrips`)
/// neither loads nor saves it on VMRUN and VM exits (2.7 and 3.0); what KVM then reads is the host's,
/// with or without the extension. The test is by the name of that processor.
pub fn keeps_cr2() -> bool {
    static KEEPS: OnceLock<bool> = OnceLock::new();
    *KEEPS.get_or_init(|| {
        let bochs = fs::read_to_string("/proc/cpuinfo").is_ok_and(|info| info.contains("A8-5600K"));
        !bochs || is_on("kvm_amd", "npt")
    })
}

/// Whether the machine's processor is QEMU's own, by its name.
pub fn is_qemu() -> bool {
    fs::read_to_string("/proc/cpuinfo").is_ok_and(|info| info.contains("QEMU TCG CPU"))
}

/// What the lab's kernels can have the processor report as silicon does, a bit for each:
/// lab/config/silicon.patch.
pub mod silicon {
    /// RFLAGS.RF is 1 after a fault.
    pub const RF: u32 = 1 << 0;
    /// SVM: there is no next RIP after one.
    pub const NO_NRIP: u32 = 1 << 1;
    /// SVM: there are the bytes of the instruction after one.
    pub const BYTES: u32 = 1 << 2;
    /// SVM: but seldom all of them.
    pub const CUT: u32 = 1 << 3;
    /// VMX: the length of the instruction that an EPT misconfiguration tells is wrong.
    pub const NO_LENGTH: u32 = 1 << 4;
}

/// What it reports now; None where the kernel cannot have it do so.
pub fn silicon() -> Option<u32> {
    parameter("kvm", "silicon")?.parse().ok()
}

/// Has the processor report this from now on.
pub fn set_silicon(mask: u32) -> io::Result<()> {
    set_parameter("kvm", "silicon", &mask.to_string())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    Intel,
    Amd,
}

/// What the kernel does about the processor's vulnerabilities, by their names.
pub fn vulnerabilities() -> Result<BTreeMap<String, String>> {
    const FOLDER: &str = "/sys/devices/system/cpu/vulnerabilities";
    let read = |entry: io::Result<DirEntry>| -> io::Result<_> {
        let entry = entry?;
        let state = fs::read_to_string(entry.path())?;
        let name = entry.file_name().to_string_lossy().into_owned();
        Ok((name, state.trim().to_owned()))
    };
    fs::read_dir(FOLDER)
        .and_then(|entries| entries.map(read).collect())
        .context(FOLDER)
}

/// How KVM works on this machine.
#[derive(Clone, Copy, Debug)]
pub struct Modes {
    pub vendor: Vendor,
    /// EPT or NPT; shadow paging otherwise.
    pub tdp: bool,
    pub tdp_mmu: bool,
    pub mmio_caching: bool,
    /// SVM: the processor tells the address of the next instruction, if it is not made not to.
    pub nrips: bool,
}

impl Modes {
    pub fn detect() -> Result<Self> {
        let (vendor, tdp) = match (parameter("kvm_intel", "ept"), parameter("kvm_amd", "npt")) {
            (Some(_), _) => (Vendor::Intel, is_on("kvm_intel", "ept")),
            (_, Some(_)) => (Vendor::Amd, is_on("kvm_amd", "npt")),
            (None, None) => return Err(anyhow::anyhow!("neither kvm_intel nor kvm_amd is loaded")),
        };
        Ok(Self {
            vendor,
            tdp,
            tdp_mmu: tdp && is_on("kvm", "tdp_mmu"),
            mmio_caching: is_on("kvm", "mmio_caching"),
            nrips: is_on("kvm_amd", "nrips"),
        })
    }

    /// Whether the extension, where it is loaded and switched on, answers the doorbells of 64-bit
    /// code before interrupts are on again.
    pub fn rings_with_irqs_off(&self) -> bool {
        let is_realtime = Path::new("/sys/kernel/realtime").exists();
        self.tdp && self.mmio_caching && irqs_off().is_some() && !is_realtime
    }

    /// Whether KVM can signal a zero-length ioeventfd at the exit, without the emulator: it needs
    /// an MMIO fault that names the GPA, and on SVM the address of the next instruction.
    pub fn fast_wildcard(&self) -> bool {
        let next_rip = self.nrips && silicon().unwrap_or(0) & silicon::NO_NRIP == 0;
        self.mmio_caching && self.tdp && (self.vendor == Vendor::Intel || next_rip)
    }

    /// Whether the processor tells where the instruction after an MMIO access is, if KVM's shortcut
    /// for zero-length ioeventfds relies on that.
    pub fn knows_next_rip(&self) -> bool {
        !self.fast_wildcard() || silicon().unwrap_or(0) & silicon::NO_LENGTH == 0
    }

    /// Whether KVM does, of plain stores by code with flat segments: with the extension on its fast
    /// path comes first, as it knows what else an instruction does.
    pub fn skips_wildcards(&self) -> bool {
        self.fast_wildcard() && fast_path() != Some(true)
    }
}

/// Keeps the calling thread on one processor.
pub fn run_on(processor: usize) -> Result<()> {
    // SAFETY: an all-zero cpu_set_t is an empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: only writes to the set; a number beyond its size panics.
    unsafe { libc::CPU_SET(processor, &mut set) };
    // SAFETY: the set is of the size given and is only read.
    if unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) } != 0 {
        return Err(io::Error::last_os_error()).context("sched_setaffinity");
    }
    Ok(())
}

/// Processors online, those included that the calling thread may not use.
pub fn cpus() -> Result<usize> {
    // SAFETY: the function has no preconditions.
    let count = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    usize::try_from(count).context("counting processors")
}

/// The time-stamp counter.
pub fn ticks() -> u64 {
    // SAFETY: it exists on every 64-bit processor, and nothing here forbids user mode to read it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Pages that count as locked memory of this process.
pub fn locked_pages() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let kilobytes: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmLck:")?.strip_suffix("kB"))
        .context("no VmLck in /proc/self/status")?
        .trim()
        .parse()?;
    Ok(kilobytes / 4)
}
