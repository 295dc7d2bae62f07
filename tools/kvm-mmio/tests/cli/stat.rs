// SPDX-License-Identifier: GPL-2.0
//! Counting while a command runs.

use super::*;

#[test]
fn stat_shows_exactly_what_has_grown() {
    let kernel = Kernel::with(&sample::two_vms());
    let script = change(&kernel, &doubled());
    let done = kernel.run(&["stat", "--", "sh", "-c", &script]).expect(
        0,
        "rw",
        "10662 accesses in 1.500 s",
    );
    let words: Vec<Vec<&str>> = done
        .err
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        words[1][..7],
        [
            "1",
            "4711",
            "-",
            "0xfe003000",
            "0xfe003000",
            "10000",
            "93.8"
        ]
    );
    assert_eq!(
        words[3][..7],
        ["2", "4712", "-", "(ended)", "0xfed00000", "HPET", "42"]
    );
    assert!(!kernel.counts());
}

#[test]
fn the_parameter_stays_as_it_is() {
    let kernel = Kernel::with(&sample::two_vms());
    let parameter = kernel.path("sys/module/kvm_mmio_ext/parameters/heat");
    fs::set_permissions(&parameter, fs::Permissions::from_mode(0o000)).unwrap();
    for command in ["stat", "record"] {
        kernel.run(&[command, "--", "true"]).expect(0, "", "");
    }
    assert_eq!(kernel.run(&["top", "-n1", "-i10ms"]).status, 0);
    fs::set_permissions(&parameter, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(fs::read_to_string(&parameter).unwrap(), "N\n");
}

#[test]
fn a_module_that_does_not_count_is_too_old() {
    let mut reading = sample::two_vms();
    reading.clock.flags &= !reading::HEAT;
    let kernel = Kernel::with(&reading);
    for command in ["top", "record"] {
        kernel
            .run(&[command])
            .expect(3, "", "it is older than this program");
    }
}

#[test]
fn stat_notices_that_somebody_has_switched_heat_off() {
    let kernel = Kernel::with(&sample::two_vms());
    let mut after = doubled();
    after.clock.flags &= !reading::HEAT;
    let script = change(&kernel, &after);
    kernel
        .run(&["stat", "--", "sh", "-c", &script])
        .expect(0, "", "counting by page was off");
}

#[test]
fn stat_writes_json_to_a_file() {
    let kernel = Kernel::with(&sample::two_vms());
    let script = change(&kernel, &doubled());
    let arguments = [
        "--json",
        "stat",
        "-o",
        "out",
        "--per-vcpu",
        "--vm=1",
        "--",
        "sh",
        "-c",
        &script,
    ];
    kernel.run(&arguments).expect(0, "", "");
    let text = fs::read_to_string(kernel.path("out")).unwrap();
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let pages: Vec<_> = lines.iter().filter(|line| line["kind"] == "page").collect();
    assert_eq!(pages[0]["vcpu"], 0);
    assert_eq!(pages[0]["count"], 9000);
    assert_eq!(pages[1]["count"], 1000);
    assert_eq!(pages.len(), 4);
}

#[test]
fn stat_has_the_status_of_its_command() {
    let kernel = Kernel::with(&sample::two_vms());
    kernel.write("text", "no program");
    for (command, status) in [
        (&["true"][..], 0),
        (&["false"], 1),
        (&["sh", "-c", "exit 7"], 7),
        (&["sh", "-c", "kill -9 $$"], 137),
        (&["./text"], 126),
        (&["no such command"], 127),
    ] {
        kernel
            .run(&[&["stat", "--"], command].concat())
            .expect(status, "", "");
        kernel
            .run(&[&["record", "--force", "--"], command].concat())
            .expect(status, "", "");
        assert!(!kernel.counts());
    }
    kernel.run(&["stat"]).expect(2, "", "required");
}
