// SPDX-License-Identifier: GPL-2.0
//! What shells and readers of manuals get.

use super::*;

#[test]
fn help_man_page_and_completions() {
    let kernel = Kernel::bare();
    kernel
        .run(&["--help"])
        .expect(0, "5    a recording is damaged", "");
    kernel
        .run(&["nonsense"])
        .expect(2, "", "unrecognized subcommand");
    kernel
        .run(&["top", "-i", "0"])
        .expect(2, "", "not between 1ms");
    let man = kernel
        .run(&["generate", "man"])
        .expect(0, ".TH kvm-mmio 8", "");
    for part in [
        "KVM-MMIO STAT",
        "KVM-MMIO EXPORT",
        "COLUMNS",
        "KEYS OF TOP",
        "reset the totals",
        "FILES",
        "/dev/kvm_mmio_ext",
        "EXAMPLES",
        "\\-\\-mtree 4711=web.mtree",
        "a recording is damaged",
        "info mtree",
    ] {
        assert!(man.out.contains(part), "{part}");
    }
    assert!(
        !man.out.contains("GENERATE") && !man.out.contains("-root"),
        "{}",
        man.out
    );
    let printed = kernel_report_titles();
    let columns = man
        .out
        .split(".SH \"COLUMNS\"")
        .nth(1)
        .unwrap()
        .split(".SH")
        .next()
        .unwrap();
    for title in printed
        .split_whitespace()
        .filter(|title| !["ns", "each"].contains(title))
    {
        assert!(columns.contains(title), "no column {title} in the man page");
    }
    for shell in ["bash", "zsh", "fish"] {
        kernel
            .run(&["generate", "completions", shell])
            .expect(0, "kvm-mmio", "");
    }
}
