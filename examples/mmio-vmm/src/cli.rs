// SPDX-License-Identifier: GPL-2.0
//! The command line.

use std::path::PathBuf;

use clap::Parser;

use crate::layout;
use crate::wiring::Mode;

/// A small VMM whose devices answer the guest in the kernel, as far as --registers says
///
/// The guest's console is standard output. It ends when the guest resets or switches off; then it
/// prints, to standard error, how often each device's registers made the guest exit.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Options {
    /// The guest's kernel, a bzImage or a vmlinux, with ACPI and virtio-mmio
    #[arg(long, value_name = "FILE")]
    pub kernel: PathBuf,

    /// An initramfs
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,

    /// What the kernel is told
    #[arg(
        long,
        value_name = "WORDS",
        default_value = "console=ttyS0 reboot=k panic=-1"
    )]
    pub cmdline: String,

    /// Memory, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 256,
          value_parser = clap::value_parser!(u64).range(16..=layout::DEVICES >> 20))]
    pub memory: u64,

    /// Who answers the devices' registers
    #[arg(long, value_enum, value_name = "MODE", default_value_t = Mode::Ioeventfd)]
    pub registers: Mode,

    /// A disk of virtio-mmio, whose size is a multiple of 512 bytes
    #[arg(long, value_name = "FILE")]
    pub block: Vec<PathBuf>,

    /// A network card of virtio-mmio, whose peer answers ARP and ping, and echoes UDP and TCP
    #[arg(long)]
    pub net: bool,

    /// A disk of NVMe
    #[arg(long, value_name = "FILE")]
    pub nvme: Option<PathBuf>,

    /// Print the counts as JSON, to standard error
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn options_are_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn wrong_values_are_refused() {
        let parse = |words: &[&str]| {
            Options::try_parse_from([&["mmio-vmm", "--kernel", "k"], words].concat())
        };
        assert!(parse(&["--net", "--registers", "read-only"]).unwrap().net);
        assert!(parse(&["--memory", "8"]).is_err());
        assert!(parse(&["--registers", "none"]).is_err());
    }
}
