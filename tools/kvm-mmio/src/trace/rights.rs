// SPDX-License-Identifier: GPL-2.0
//! What a process lacks to follow tracepoints, in a line.

use std::fs;

use crate::device::System;
use crate::failure::Failure;

/// What the kernel has refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// To open tracefs' description of a tracepoint.
    Tracefs,
    /// To open an event of perf.
    Perf,
    /// To load programs of BPF, or to attach them to an event of perf.
    Bpf,
}

/// A capability, by its number in <linux/capability.h>.
type Capability = (u32, &'static str);

const SYS_ADMIN: Capability = (21, "CAP_SYS_ADMIN");
const PERFMON: Capability = (38, "CAP_PERFMON");
const BPF: Capability = (39, "CAP_BPF");

/// From where on Debian's kernels have perf for `CAP_SYS_ADMIN` only.
const PARANOID: i32 = 3;

/// The failure that the kernel's refusal is.
pub fn explain(system: &System, refused: Refused) -> Failure {
    let paranoid = fs::read_to_string(system.path("/proc/sys/kernel/perf_event_paranoid"));
    let paranoid = paranoid.ok().and_then(|text| text.trim().parse().ok());
    // This process' own, whatever kernel is looked at.
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    Failure::Denied(sentence(refused, paranoid, held(&status)))
}

/// The effective capabilities, a bit each; none if that is not told.
fn held(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    bits.unwrap_or_default()
}

fn sentence(refused: Refused, paranoid: Option<i32>, held: u64) -> String {
    let what = match refused {
        Refused::Tracefs => {
            return "you may not read tracefs, which describes KVM's tracepoints: run this as root, or \
                    have tracefs mounted for a group (its options gid= and mode=)"
                .to_owned();
        }
        Refused::Perf => "open events of KVM's tracepoints",
        Refused::Bpf => "load programs of BPF, or not attach them",
    };
    let lacking = lacking(refused, paranoid.unwrap_or_default(), held);
    if lacking.is_empty() {
        return format!(
            "you may not {what}, with all rights that this takes: a container's filter of system \
             calls or a security module forbids it"
        );
    }
    // It says what perf takes.
    let setting = paranoid.filter(|_| lacking != [BPF.1]);
    let setting = setting.map_or_else(String::new, |paranoid| {
        format!(" (kernel.perf_event_paranoid is {paranoid})")
    });
    let lacking = lacking.join(" and ");
    format!("you may not {what}: run this as root, or with {lacking}{setting}")
}

/// Who has the greatest capability needs no other.
fn lacking(refused: Refused, paranoid: i32, held: u64) -> Vec<&'static str> {
    let has = |(number, _): Capability| held & 1 << number != 0;
    let perf = if paranoid >= PARANOID {
        SYS_ADMIN
    } else {
        PERFMON
    };
    let needed = match refused {
        Refused::Bpf => &[BPF, perf][..],
        Refused::Perf | Refused::Tracefs => &[perf],
    };
    let lacking = needed.iter().filter(|it| !has(**it) && !has(SYS_ADMIN));
    lacking.map(|(_, name)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lacking() {
        let bit = |(number, _): Capability| 1 << number;
        for (refused, paranoid, held, wanted) in [
            (Refused::Perf, 2, 0, &["CAP_PERFMON"][..]),
            (Refused::Perf, 2, bit(PERFMON), &[]),
            (Refused::Perf, 3, bit(PERFMON), &["CAP_SYS_ADMIN"]),
            (Refused::Perf, 4, bit(SYS_ADMIN), &[]),
            (Refused::Bpf, 2, 0, &["CAP_BPF", "CAP_PERFMON"]),
            (Refused::Bpf, 2, bit(BPF), &["CAP_PERFMON"]),
            (Refused::Bpf, 3, bit(BPF) | bit(PERFMON), &["CAP_SYS_ADMIN"]),
            (Refused::Bpf, 2, bit(SYS_ADMIN), &[]),
        ] {
            assert_eq!(
                lacking(refused, paranoid, held),
                wanted,
                "{refused:?} {held:x}"
            );
        }
    }

    #[test]
    fn a_line_says_what_to_do() {
        assert_eq!(
            held("Name:\tx\nCapEff:\t000001ffffffffff\n"),
            0x1ff_ffff_ffff
        );
        assert_eq!(held(""), 0);
        for (refused, paranoid, held, wanted) in [
            (
                Refused::Perf,
                Some(3),
                0,
                "or with CAP_SYS_ADMIN (kernel.perf_event_paranoid is 3)",
            ),
            (Refused::Bpf, None, 0, "or with CAP_BPF and CAP_PERFMON"),
            (Refused::Bpf, Some(2), 1 << PERFMON.0, "or with CAP_BPF"),
            (Refused::Tracefs, Some(2), 0, "tracefs mounted for a group"),
            (Refused::Perf, Some(2), u64::MAX, "a container's filter"),
        ] {
            let text = sentence(refused, paranoid, held);
            assert!(text.contains(wanted) && !text.contains('\n'), "{text}");
            assert_eq!(
                text.contains("paranoid"),
                wanted.contains("paranoid"),
                "{text}"
            );
        }
    }
}
