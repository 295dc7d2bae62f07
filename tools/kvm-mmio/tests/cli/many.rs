// SPDX-License-Identifier: GPL-2.0
//! A hundred VMs at once.

use super::*;

const VMS: u32 = 100;
/// Of VM number N there are 11 N.
const ACCESSES: u32 = 11 * VMS * (VMS + 1) / 2;

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// What `stat` says of them, with these arguments.
fn stat(arguments: &[&str]) -> Done {
    let reading = sample::many_vms(VMS);
    let kernel = Kernel::with(&reading);
    kernel.write("proc/5100/comm", "qemu-system-x86\n");
    kernel.write(
        "proc/5099/cmdline",
        "/usr/bin/qemu-system-x86_64\0-name\0guest=a-name-that-goes-on-and-on-and-on\0",
    );
    kernel.write("proc/5099/comm", "qemu-system-x86\n");
    let script = change(&kernel, &doubled_of(&reading));
    let command = ["--", "sh", "-c", &script];
    kernel
        .run(&[arguments, &command].concat())
        .expect(0, "", "")
}

#[test]
fn sums_precede_pages() {
    let text = stat(&["stat"]).err;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        words(lines[0])[..4],
        ["VM", "PID", "process", "pages"],
        "{text}"
    );
    let first = words(lines[1]);
    assert_eq!(first[..2], ["100", "5100"]);
    assert_eq!(first[3..7], ["(ended)", "2", "1100", "2.0"], "{text}");
    let second = ["99", "5099", "a-name-that-goes-on-and…", "2", "1089", "2.0"];
    assert_eq!(words(lines[2])[..6], second, "{text}");
    // The ten that have the most, then what the others have.
    let rest = ACCESSES - 11 * (91..=VMS).sum::<u32>();
    assert_eq!(
        lines[11],
        format!("90 more VMs with {rest} accesses not shown (--by vm)")
    );
    assert_eq!(lines[12], "");
    assert_eq!(words(lines[13])[3..5], ["page", "name"]);
    assert!(words(lines[14]).contains(&"0xfe003000"), "{text}");
    let (pages, end) = lines[14..].split_at(40);
    assert!(pages.iter().all(|line| line.contains("0xf")), "{text}");
    assert_eq!(end[0], format!("{ACCESSES} accesses in 1.500 s"));
    assert!(end[1].starts_with("160 more pages with "), "{text}");
    assert!(
        lines.iter().all(|line| line.chars().count() <= 150),
        "{text}"
    );
}

#[test]
fn each_has_a_row() {
    let text = stat(&["stat", "--by", "vm", "--top", "1000"]).err;
    let rows: Vec<Vec<&str>> = text.lines().skip(1).take(VMS as usize).map(words).collect();
    let numbers: Vec<u32> = rows.iter().map(|row| row[0].parse().unwrap()).collect();
    assert!(numbers.iter().copied().eq((1..=VMS).rev()), "{text}");
    for (row, number) in rows.iter().zip(numbers) {
        assert_eq!(row.contains(&"(ended)"), number % 10 == 0, "{row:?}");
        assert!(row.contains(&(11 * number).to_string().as_str()), "{row:?}");
    }
    assert!(text.contains(&format!("\n{ACCESSES} accesses in 1.500 s")));
}

#[test]
fn sums_are_of_what_is_shown() {
    // All pages are shown, so their sums need not be.
    let text = stat(&["stat", "--top", "1000"]).err;
    assert!(
        !text.contains("--by vm") && text.contains(" 0xfee00000 "),
        "{text}"
    );
    // Those of the VMs that are asked for.
    let text = stat(&["stat", "--top", "1", "--vm", "7,9"]).err;
    let vms: Vec<&str> = text.lines().take(3).map(|line| words(line)[0]).collect();
    assert_eq!(vms, ["VM", "9", "7"], "{text}");
    let text = stat(&["stat", "--top", "1", "--vm", "7"]).err;
    assert!(
        words(text.lines().next().unwrap()).contains(&"page"),
        "{text}"
    );
}
