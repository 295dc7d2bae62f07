// SPDX-License-Identifier: GPL-2.0
//! The program as it is started, on a kernel made of files.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

// The generator of statistics files finds the types that it needs at this crate's root.
use kvm_mmio::recording::{Recorder, Start};
use kvm_mmio::{counts, reading, site};
#[allow(dead_code)]
#[path = "../src/device/sample.rs"]
mod sample;
#[allow(dead_code)]
#[path = "../../../src/pure/stats_format.rs"]
mod stats_format;
#[allow(dead_code)]
mod support;

use reading::Reading;
use support::{Done, Kernel, doubled};

const NOBODY: u32 = 65534;

#[test]
fn status_of_a_kernel_that_has_it_all() {
    let kernel = Kernel::with(&sample::two_vms());
    let done = kernel.run(&["status"]).expect(0, "AMD with NPT", "");
    for part in [
        "7.3.4",
        "mask            value 0x9, mask 0x9",
        "readable: 2 VMs, 5 page records",
    ] {
        assert!(done.out.contains(part), "{}", done.out);
    }
    let lines = kernel.run(&["--json", "status"]).expect(0, "", "").json();
    assert_eq!(lines[0]["schema"], 2);
    assert!(
        lines[1..].iter().all(|line| line["state"] == "ok"),
        "{lines:?}"
    );
}

#[test]
fn status_says_who_keeps_the_module() {
    let kernel = Kernel::with(&sample::two_vms());
    assert!(!kernel.run(&["status"]).out.contains("readers"));
    kernel.write("proc/815/comm", "kvm-mmio\n");
    fs::create_dir(kernel.path("proc/815/fd")).unwrap();
    symlink(
        kernel.path("dev/kvm_mmio_ext"),
        kernel.path("proc/815/fd/3"),
    )
    .unwrap();
    symlink("/dev/null", kernel.path("proc/815/fd/4")).unwrap();
    kernel
        .run(&["status"])
        .expect(0, "have it open: 815 kvm-mmio", "")
        .expect(0, "rmmod says that the module is in use", "");
}

#[test]
fn status_says_what_is_missing() {
    Kernel::bare()
        .run(&["status"])
        .expect(3, "insmod kvm_mmio_ext.ko", "");
    let unpatched = Kernel::bare();
    unpatched.write("sys/module/kvm/parameters/mmio_caching", "N\n");
    unpatched.write("proc/kallsyms", "0000 T kvm_init\t[kvm]\n");
    unpatched
        .run(&["status"])
        .expect(3, "patches/7.3", "")
        .expect(3, "mmio_caching=0", "");
}

#[test]
fn what_is_switched_off_is_seen_all_the_same() {
    let kernel = Kernel::with(&sample::two_vms());
    kernel.write("sys/module/kvm/parameters/mmio_caching", "N\n");
    kernel.write("sys/module/kvm_mmio_ext/parameters/enabled", "N\n");
    let advice = "echo Y > /sys/module/kvm_mmio_ext/parameters/enabled";
    kernel
        .run(&["status"])
        .expect(0, advice, "")
        .expect(0, "mmio_caching=0", "");
    let mut off = sample::two_vms();
    off.clock.flags &= !reading::ENABLED;
    kernel.write("dev/kvm_mmio_ext", sample::file(&off));
    kernel
        .run(&["stat", "--", "true"])
        .expect(0, "", "every access goes to KVM's emulator")
        .expect(0, "", advice);
}

#[test]
fn no_module_is_explained() {
    for command in ["top", "record"] {
        let advice = "the module kvm_mmio_ext is not loaded: load it";
        Kernel::bare()
            .run(&[command, "--source", "module"])
            .expect(3, "", advice);
        let advice = "is not loaded, and there are no tracepoints of KVM: load it";
        Kernel::bare().run(&[command]).expect(3, "", advice);
    }
    Kernel::bare()
        .run(&["stat", "--source", "tracepoints", "--", "true"])
        .expect(125, "", "modprobe kvm");
    let old = Kernel::with(&sample::idle());
    fs::remove_file(old.path("dev/kvm_mmio_ext")).unwrap();
    old.run(&["top"])
        .expect(3, "", "the module is older than this program");
}

/// The program below a folder that everybody may enter.
fn as_nobody(kernel: &Kernel, arguments: &[&str]) -> Done {
    let program = kernel.path("kvm-mmio");
    fs::copy(env!("CARGO_BIN_EXE_kvm-mmio"), &program).unwrap();
    let mut command = Command::new(&program);
    command.arg("--root").arg(kernel.folder()).args(arguments);
    let root = fs::metadata("/proc/self").unwrap();
    if root.uid() == 0 {
        command.uid(NOBODY).gid(NOBODY);
    }
    Done::from(command.output().unwrap())
}

#[test]
fn who_may_not_read_is_told_so() {
    let kernel = Kernel::with(&sample::two_vms());
    let device = kernel.path("dev/kvm_mmio_ext");
    fs::set_permissions(device, fs::Permissions::from_mode(0o000)).unwrap();
    as_nobody(&kernel, &["top"]).expect(4, "", "run this as root");
    as_nobody(&kernel, &["status"]).expect(4, "you may not open", "");
    as_nobody(&kernel, &["export"]).expect(4, "kvm_mmio_up 0", "run this as root");
    as_nobody(&kernel, &["stat", "--", "true"]).expect(125, "", "run this as root");
}

#[test]
fn a_file_that_is_something_else() {
    let kernel = Kernel::with(&sample::idle());
    kernel.write("dev/kvm_mmio_ext", "hello");
    kernel
        .run(&["export"])
        .expect(1, "kvm_mmio_up 0", "not the statistics file");
    kernel.write("dev/kvm_mmio_ext", &sample::file(&sample::two_vms())[..700]);
    kernel
        .run(&["top", "-n1"])
        .expect(1, "", "at byte 700, it ends too early");
}

/// Makes the device say something else, as a command that is run: how the program has it open,
/// `rw`. All at once, as the program may be reading.
fn change(kernel: &Kernel, reading: &Reading) -> String {
    kernel.write("after", sample::file(reading));
    "ls -l /proc/$PPID/fd | sed -n 's/^l\\(..\\).*kvm_mmio_ext$/\\1/p'; \
     cat after 1<> dev/kvm_mmio_ext"
        .to_owned()
}

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

/// A recording of what has grown in `doubled()`, with three samples.
fn recorded(kernel: &Kernel) -> PathBuf {
    let script = format!("{}; sleep 0.3", change(kernel, &doubled()));
    let arguments = [
        "record", "-o", "rec", "-i", "0.1", "--", "sh", "-c", &script,
    ];
    kernel.run(&arguments).expect(0, "rw", "10662 accesses");
    kernel.path("rec")
}

#[test]
fn a_recording_is_reported() {
    let kernel = Kernel::with(&sample::two_vms());
    recorded(&kernel);
    kernel
        .run(&["report", "rec"])
        .expect(0, "10662 accesses in 1.500 s", "");
    kernel
        .run(&["report", "rec", "-f", "APIC"])
        .expect(0, "600 accesses", "");
    let lines = kernel
        .run(&["report", "--json", "rec"])
        .expect(0, "", "")
        .json();
    assert_eq!(lines[1]["accesses"], 10662);
    kernel.write(
        "names.toml",
        "[[region]]\nname = \"doorbell\"\nstart = 0xfe003000\n",
    );
    kernel
        .run(&["report", "rec", "--regions", "4711=names.toml"])
        .expect(0, "doorbell", "");
    kernel
        .run(&["report", "rec", "--regions", "names.toml"])
        .expect(0, "names not used", "");
    kernel
        .run(&["report", "rec", "--regions", "none"])
        .expect(1, "", "cannot read none");
    kernel
        .run(&["report", "none"])
        .expect(1, "", "`kvm-mmio record` makes a recording");
    kernel
        .run(&["report", "names.toml"])
        .expect(5, "", "no recording of kvm-mmio");
}

#[test]
fn names_stay_in_a_recording() {
    let kernel = Kernel::with(&sample::two_vms());
    kernel.write("proc/4711/comm", "qemu-system-x86\n");
    kernel.write(
        "proc/4711/cmdline",
        "/usr/bin/qemu-system-x86_64\0-name\0guest=web,debug-threads=on\0",
    );
    kernel.write(
        "names.toml",
        "[[region]]\nname = \"doorbell\"\nstart = 0xfe003000\n",
    );
    let script = change(&kernel, &doubled());
    kernel
        .run(&[
            "record",
            "--regions",
            "4711=names.toml",
            "--",
            "sh",
            "-c",
            &script,
        ])
        .expect(0, "", "");
    let done = kernel.run(&["report"]).expect(0, "doorbell", "");
    assert!(done.out.contains("4711  web "), "{}", done.out);
    assert!(done.out.contains("4712  - (ended) "), "{}", done.out);
    let lines = kernel.run(&["report", "--json"]).expect(0, "", "").json();
    assert_eq!(lines[2]["process"], "web");
    assert_eq!(lines[4]["process"], "web");
    let plot = kernel
        .run(&["plot", "-o", "-"])
        .expect(0, "VM 1: web [4711]; VM 2: PID 4712", "");
    assert!(plot.out.contains("recorded on 20") && plot.out.contains("kernel 7.3.4"));
}

/// A file names the VM that it is of, and no other.
#[test]
fn one_file_does_not_name_two_vms() {
    let kernel = Kernel::with(&sample::two_vms());
    let region = |gpa: u64| format!("[[region]]\nname = \"mine\"\nstart = {gpa:#x}\n");
    kernel.write("names.toml", region(0xfe00_3000) + &region(0xfed0_0000));
    let named = |arguments: &[&str]| {
        let all = [&["export"], arguments].concat();
        let done = kernel.run(&all).expect(0, "kvm_mmio_up 1", "");
        let of = |vm| {
            let part = format!("page_operations_total{{vm=\"{vm}\"");
            let mut lines = done.out.lines().filter(|line| line.contains(&part));
            lines.any(|line| line.contains("device=\"mine\""))
        };
        (of(1), of(2), done.err.contains("--mtree PID=FILE"))
    };
    assert_eq!(
        named(&["--regions", "4711=names.toml"]),
        (true, false, false)
    );
    assert_eq!(
        named(&["--regions", "4712=names.toml"]),
        (false, true, false)
    );
    assert_eq!(named(&["--regions", "all=names.toml"]), (true, true, false));
    assert_eq!(named(&["--regions", "names.toml"]), (false, false, true));
    // Where one process is looked at, the file is its.
    let script = change(&kernel, &doubled());
    let stat = [
        "stat",
        "--regions",
        "names.toml",
        "--pid",
        "4711",
        "--",
        "sh",
        "-c",
        &script,
    ];
    let done = kernel.run(&stat).expect(0, "", "mine");
    assert!(!done.err.contains("names not used"), "{}", done.err);
}

#[test]
fn a_recording_is_not_overwritten_silently() {
    let kernel = Kernel::with(&sample::two_vms());
    kernel.write("rec", "precious");
    kernel
        .run(&["record", "-o", "rec", "-d", "100ms"])
        .expect(1, "", "rec exists: --force");
    kernel
        .run(&["record", "-o", "rec", "--", "true"])
        .expect(125, "", "rec exists");
    assert_eq!(fs::read_to_string(kernel.path("rec")).unwrap(), "precious");
    assert!(!kernel.counts());
    kernel
        .run(&["record", "--force", "-o", "rec", "-d", "100ms"])
        .expect(0, "", "2 samples");
    kernel
        .run(&["record", "-o", "/dev/null", "-d", "100ms"])
        .expect(0, "", "2 samples");
}

#[test]
fn a_recording_may_go_through_a_pipe() {
    let kernel = Kernel::with(&sample::two_vms());
    let script = format!("({}) > /dev/null", change(&kernel, &doubled()));
    let mut record = kernel.command(&["record", "-o", "-", "--", "sh", "-c", &script]);
    let mut record = record
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut report = kernel.command(&["report", "-"]);
    report.stdin(record.stdout.take().unwrap());
    let text = "10662 accesses in 1.500 s";
    let done = Done::from(report.output().unwrap());
    assert!(record.wait().unwrap().success());
    done.expect(0, text, "");
    kernel
        .run(&["--json", "record", "-o", "-"])
        .expect(2, "", "standard output");
}

#[test]
fn tables_of_vms_and_devices() {
    let kernel = Kernel::with(&sample::two_vms());
    recorded(&kernel);
    kernel
        .run(&["report", "rec", "--by", "vm"])
        .expect(0, "10620  99.6", "");
    let csv = kernel.run(&["report", "rec", "--by", "device", "--csv", "--top", "1"]);
    let csv = csv.expect(
        0,
        "1,4711,,0,PCI hole,2,10020,",
        "2 more devices with 642 accesses",
    );
    assert_eq!(csv.out.lines().count(), 2);
    let json = kernel
        .run(&["--json", "report", "rec", "--by", "vm"])
        .expect(0, "", "")
        .json();
    assert_eq!(
        (&json[4]["kind"], &json[4]["count"]),
        (&"group".into(), &10620.into())
    );
    kernel
        .run(&["report", "rec", "--by", "vm", "--per-vcpu"])
        .expect(2, "", "--per-vcpu");
}

#[test]
fn recordings_are_compared() {
    let kernel = Kernel::with(&sample::two_vms());
    recorded(&kernel);
    fs::rename(kernel.path("rec"), kernel.path("one")).unwrap();
    kernel.write("dev/kvm_mmio_ext", sample::file(&sample::two_vms()));
    recorded(&kernel);
    let same = kernel
        .run(&["diff", "one", "rec"])
        .expect(0, "before: 1.500 s, after: 1.500 s", "");
    let words: Vec<_> = same
        .out
        .lines()
        .nth(1)
        .unwrap()
        .split_whitespace()
        .collect();
    assert_eq!(words[..2], ["VM", "1"]);
    assert_eq!(words[words.len() - 2..], ["+0.0", "+0.0"]);
    kernel
        .run(&["record", "-o", "none", "-d", "100ms"])
        .expect(0, "", "");
    let gone = kernel
        .run(&["--json", "diff", "one", "none", "--top", "1"])
        .expect(0, "", "");
    let gone = gone.json();
    assert_eq!(gone[1]["pages_hidden"], 3);
    assert_eq!(
        (&gone[2]["gpa"], &gone[2]["after"]),
        (&"0xfe003000".into(), &0.0.into())
    );
    kernel.run(&["diff", "one"]).expect(2, "", "required");
}

#[test]
fn a_filter_that_matches_nothing_says_so() {
    let kernel = Kernel::with(&sample::two_vms());
    recorded(&kernel);
    kernel.run(&["report", "rec", "-f", "nonsense"]).expect(
        0,
        "no page or device is called \"nonsense\" in 1.500 s",
        "",
    );
    // By the device, which is not what the page is called.
    kernel
        .run(&["report", "rec", "-f", "PCI hole"])
        .expect(0, "10020 accesses", "");
}

#[test]
fn damage_loses_nothing_before_it() {
    let kernel = Kernel::with(&sample::two_vms());
    let bytes = fs::read(recorded(&kernel)).unwrap();
    // The end frame has 9 bytes.
    kernel.write("cut", &bytes[..bytes.len() - 9]);
    let end = format!(
        "cut: damaged at byte {}: the file ends without an end",
        bytes.len() - 9
    );
    kernel
        .run(&["report", "cut"])
        .expect(5, "10662 accesses", &end);
    kernel
        .run(&["plot", "cut", "-o", "cut.svg"])
        .expect(5, "cut.svg", &end);
    assert!(kernel.path("cut.svg").exists());
    let mut bad = bytes.clone();
    let last = bytes.len() - 10;
    bad[last] ^= 1;
    kernel.write("bad", &bad);
    kernel
        .run(&["report", "bad"])
        .expect(5, "10662 accesses", "checksum");
}

#[test]
fn a_recording_ends_by_time_and_by_signal() {
    let kernel = Kernel::with(&sample::two_vms());
    let done = kernel
        .run(&["--json", "record", "-i", "0.1", "-d", "0.35"])
        .expect(0, "", "");
    let line = &done.json()[1];
    assert_eq!(line["kind"], "recording");
    // Fewer only on a machine that has much else to do.
    let samples = line["samples"].as_u64().unwrap();
    assert!((2..=5).contains(&samples), "{line}");
    kernel.run(&["report"]).expect(0, "no accesses", "");
    let mut child = kernel.command(&["record", "-o", "rec"]).spawn().unwrap();
    while !kernel.path("rec").exists() || !kernel.counts() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let pid = child.id().to_string();
    assert!(Command::new("kill").arg(&pid).status().unwrap().success());
    assert!(child.wait().unwrap().success());
    assert!(!kernel.counts());
    kernel.run(&["report", "rec"]).expect(0, "no accesses", "");
}

#[test]
fn plots_are_made() {
    let kernel = Kernel::with(&sample::two_vms());
    recorded(&kernel);
    kernel.run(&["plot", "rec"]).expect(0, "rec.svg\n", "");
    let svg = fs::read_to_string(kernel.path("rec.svg")).unwrap();
    roxmltree::Document::parse(&svg).unwrap();
    assert!(svg.contains("rec: 10662 accesses to 4 pages of 2 VMs"));
    kernel
        .run(&["plot", "rec", "-o", "a.png"])
        .expect(0, "a.png\n", "");
    assert!(
        fs::read(kernel.path("a.png"))
            .unwrap()
            .starts_with(b"\x89PNG\r\n\x1a\n")
    );
    kernel
        .run(&["plot", "rec", "-o", "-", "--top", "2"])
        .expect(
            0,
            "10662 accesses to 4 pages of 2 VMs; 2 with 62 accesses not drawn",
            "",
        );
    kernel
        .run(&["plot", "rec", "-o", "/nonexistent/a.svg"])
        .expect(1, "", "cannot write");
    kernel
        .run(&["plot", "rec", "-o", "a.pdf"])
        .expect(2, "", "none in pdf");
    assert!(!kernel.path("a.pdf").exists());
    kernel
        .run(&["plot", "rec", "-o", "a.pdf", "--format", "svg"])
        .expect(0, "a.pdf\n", "");
    kernel
        .run(&["plot", "rec", "-f", "nonsense", "-o", "-"])
        .expect(0, "no accesses", "");
}

#[test]
fn top_without_a_terminal_is_text() {
    let kernel = Kernel::with(&sample::two_vms());
    kernel
        .run(&["top", "-i", "0.05", "-n", "2"])
        .expect(0, "no accesses", "");
    let lines = kernel
        .run(&["--json", "top", "-i", "0.05", "-n", "2"])
        .expect(0, "", "")
        .json();
    assert_eq!(
        lines
            .iter()
            .filter(|line| line["kind"] == "interval")
            .count(),
        2
    );
    assert!(!kernel.counts());
}

#[test]
fn a_reader_that_goes_is_no_failure() {
    let kernel = Kernel::with(&sample::two_vms());
    let mut child = kernel.command(&["top", "-i", "0.05"]);
    let mut child = child.stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
    assert!(!kernel.counts());
}

#[test]
fn nobody_reads_what_is_wrong() {
    let kernel = Kernel::with(&sample::two_vms());
    for (arguments, status) in [
        (&["report", "none"][..], 1),
        (&["stat", "--", "false"], 125),
        (&["record", "-d", "0.1"], 0),
        (&["generate", "completions", "bash"], 1),
    ] {
        let full = || fs::File::options().write(true).open("/dev/full").unwrap();
        let mut command = kernel.command(arguments);
        let ended = command.stdout(full()).stderr(full()).status().unwrap();
        assert_eq!(ended.code(), Some(status), "{arguments:?}");
        assert!(!kernel.counts());
    }
}

#[test]
fn export_replaces_a_file() {
    let kernel = Kernel::with(&sample::two_vms());
    kernel.write("out.prom", "old");
    kernel.run(&["export", "-o", "out.prom"]).expect(0, "", "");
    let text = fs::read_to_string(kernel.path("out.prom")).unwrap();
    assert!(text.starts_with("# TYPE kvm_mmio_up gauge\n") && !text.contains("# EOF\n"));
    let names = fs::read_dir(kernel.folder()).unwrap();
    assert_eq!(
        names
            .filter(|name| format!("{name:?}").contains("out.prom"))
            .count(),
        1
    );
    // A pipe is written into.
    kernel
        .run(&["export", "-o", "/dev/stdout"])
        .expect(0, &text, "");
    let lines = kernel.run(&["--json", "export"]).expect(0, "", "").json();
    assert_eq!(
        lines.iter().filter(|line| line["kind"] == "page").count(),
        4
    );
}

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

/// Names in metrics, of what QEMU has behind a root port and of what it has switched off.
#[test]
fn names_come_from_qemu() {
    let mut reading = sample::two_vms();
    let vcpu = reading.vms.get_mut(&1).unwrap().vcpus.get_mut(&1).unwrap();
    let page = vcpu.pages[&0xfe00_3000];
    for gpa in [0xfea0_3000, 0xfe44_0000, 0xfd00_0000, 0x3_0000] {
        vcpu.pages.insert(gpa, page);
    }
    reading.vms.remove(&2);
    let kernel = Kernel::with(&reading);
    for data in ["mtree-bridges.txt", "mtree-owner-disabled.txt"] {
        let file = tool("data").join(data);
        let export = ["export", "--mtree", file.to_str().unwrap()];
        let done = kernel.run(&export).expect(0, "kvm_mmio_up 1", "");
        for (page, device) in [
            ("0xfea03000", "virtio-pci-notify-virtio-net"),
            ("0xfe440000", "virtio-net-pci-msix"),
            ("0xfd000000", "PCI hole"),
            ("0x30000", "unknown"),
        ] {
            let labels = format!("page=\"{page}\",device=\"{device}\",completed=");
            assert!(done.out.contains(&labels), "{labels}: {}", done.out);
        }
    }
}

/// Answers as QEMU's monitor would, each client with the next of these maps, the last one for ever.
fn monitor(socket: &Path, maps: &[&'static str]) {
    let maps = maps.to_vec();
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        for (client, stream) in listener.incoming().enumerate() {
            let map = maps[client.min(maps.len() - 1)];
            // A client may go at any time.
            let _ = converse(stream.unwrap(), map);
        }
    });
}

fn converse(stream: UnixStream, map: &str) -> std::io::Result<()> {
    let mut output = stream.try_clone()?;
    let mut input = BufReader::new(stream).lines();
    let mut command = || -> serde_json::Value {
        let line = input.next().and_then(Result::ok);
        line.map_or(serde_json::Value::Null, |line| {
            serde_json::from_str(&line).unwrap()
        })
    };
    writeln!(
        output,
        r#"{{"QMP": {{"version": {{}}, "capabilities": []}}}}"#
    )?;
    assert_eq!(command()["execute"], "qmp_capabilities");
    writeln!(output, r#"{{"return": {{}}}}"#)?;
    let asked = command();
    assert_eq!(asked["execute"], "human-monitor-command");
    assert_eq!(asked["arguments"]["command-line"], "info mtree");
    writeln!(output, r#"{{"timestamp": {{}}, "event": "RTC_CHANGE"}}"#)?;
    match map {
        "" => writeln!(
            output,
            r#"{{"error": {{"class": "x", "desc": "not today"}}}}"#
        ),
        map => writeln!(output, "{}", serde_json::json!({"return": map})),
    }
}

/// With nothing that the guest accesses.
const FAR_MAP: &str = "address-space: memory\n  \
    0000000000000000-ffffffffffffffff (prio 0, i/o): system\n    \
    00000000c0000000-00000000c0000fff (prio 1, i/o): far\n";

#[test]
fn names_are_asked_for_again() {
    let kernel = Kernel::with(&sample::two_vms());
    let moved = "address-space: memory\n  \
        0000000000000000-ffffffffffffffff (prio 0, i/o): system\n    \
        00000000fe003000-00000000fe003fff (prio 1, i/o): bell\n";
    monitor(&kernel.path("qmp"), &[FAR_MAP, FAR_MAP, moved]);
    let qmp = format!("4711={}", kernel.path("qmp").display());
    let script = change(&kernel, &doubled());
    // Nothing is new at the end: it is as it was.
    let stat = ["stat", "--qmp", &qmp, "--", "sh", "-c", &script];
    let done = kernel.run(&stat).expect(0, "", "0xfe003000  0xfe003000");
    assert!(!done.err.contains("bell"), "{}", done.err);

    let mut before = doubled();
    let vcpus = before.vms.get_mut(&1).unwrap().vcpus.values_mut();
    vcpus.for_each(|vcpu| vcpu.pages.clear());
    kernel.write("dev/kvm_mmio_ext", sample::file(&before));
    fs::remove_file(kernel.path("qmp")).unwrap();
    monitor(&kernel.path("qmp"), &[FAR_MAP, moved]);
    kernel.run(&stat).expect(0, "", "0xfe003000  bell");
    // Names of one VM are none of another's.
    kernel.write("dev/kvm_mmio_ext", sample::file(&sample::two_vms()));
    let export = ["export", "--qmp", &qmp];
    let export = kernel.run(&export).expect(0, "device=\"bell\"", "");
    assert!(export.out.contains("device=\"HPET\""));
}

#[test]
fn a_recording_has_the_names_that_a_monitor_has_told() {
    let kernel = Kernel::with(&sample::two_vms());
    let map = "address-space: memory\n  \
        00000000fe003000-00000000fe003fff (prio 1, i/o): bell\n";
    monitor(&kernel.path("qmp"), &[map]);
    let qmp = format!("4711={}", kernel.path("qmp").display());
    let script = change(&kernel, &doubled());
    let record = ["record", "--qmp", &qmp, "--", "sh", "-c", &script];
    kernel.run(&record).expect(0, "", "");
    kernel.run(&["report"]).expect(0, "0xfe003000  bell", "");
}

#[test]
fn a_monitor_that_does_not_answer_is_explained() {
    let kernel = Kernel::with(&sample::two_vms());
    let qmp = format!("4711={}", kernel.path("qmp").display());
    let stat = ["stat", "--qmp", &qmp, "--", "true"];
    kernel.run(&stat).expect(125, "", "QEMU's monitor at");
    monitor(&kernel.path("qmp"), &[""]);
    kernel.run(&stat).expect(125, "", "it refuses: not today");
    let wrong = ["stat", "--qmp", "web=socket", "--", "true"];
    kernel.run(&wrong).expect(2, "", "not the PID of a QEMU");
}

/// What tracepoints have told, recorded.
fn traced(kernel: &Kernel) {
    let mut readings = vec![sample::idle()];
    for second in 1..=3 {
        let mut next = readings.last().unwrap().clone();
        next.add(&sample::traced());
        next.clock.flags |= reading::TRACED;
        next.clock.boottime = sample::idle().clock.boottime + second * 1_000_000_000;
        readings.push(next);
    }
    let start = Start {
        program: "test".to_owned(),
        kernel: "7.3.4".to_owned(),
        wall_clock: 1_800_000_000,
        interval_ms: 1000,
        counters: sample::idle().counters,
        regions: Vec::new(),
    };
    let file = fs::File::create(kernel.path("kvm-mmio.rec")).unwrap();
    let mut recorder = Recorder::new(file, start).unwrap();
    readings
        .iter()
        .for_each(|reading| recorder.add(reading).unwrap());
    recorder.finish().unwrap();
}

#[test]
fn instructions_are_told_apart_and_named() {
    let kernel = Kernel::bare();
    traced(&kernel);
    kernel.write(
        "kallsyms",
        "ffffffff81000000 T vp_notify\nffffffff82000000 T other\n",
    );
    let report = ["report", "--by", "rip", "--symbols", "4711=kallsyms"];
    let done = kernel
        .run(&report)
        .expect(0, "0xffffffff81000010  vp_notify+0x10", "");
    assert!(done.out.contains("others"), "{}", done.out);
    let report = [
        "--json",
        "report",
        "--by",
        "rip",
        "--symbols",
        "4711=kallsyms",
    ];
    let lines = kernel.run(&report).expect(0, "", "").json();
    let groups: Vec<_> = lines
        .iter()
        .filter(|line| line["kind"] == "group")
        .collect();
    assert_eq!(groups[0]["rip"], "0xffffffff81000010");
    assert_eq!(groups[0]["gpa"], "0xfe003000");
    assert_eq!(groups[0]["symbol"], "vp_notify+0x10");
    assert_eq!(groups[0]["count"], 3 * 9990);
    assert_eq!(groups[0]["latency_ns"]["max"], 2048);
    assert_eq!(groups[1]["rip"], serde_json::Value::Null);
    // Those of another VM's guest are not.
    let report = ["report", "--by", "rip", "--symbols", "4712=kallsyms"];
    let done = kernel.run(&report).expect(0, "0xffffffff81000010  -", "");
    assert!(!done.out.contains("vp_notify"), "{}", done.out);
    let report = ["report", "--symbols", "kallsyms"];
    kernel
        .run(&report)
        .expect(2, "", "--symbols is for --by rip");
    kernel
        .run(&["report", "--by", "vcpu"])
        .expect(0, "vCPU", "");
    let titles = ["min ns", "p50 ns", "p99 ns", "max ns"];
    let done = kernel.run(&["report"]).expect(0, "1024", "");
    assert!(
        titles.iter().all(|title| done.out.contains(title)),
        "{}",
        done.out
    );
}

#[test]
fn the_module_does_not_tell_instructions() {
    let kernel = Kernel::with(&sample::two_vms());
    recorded(&kernel);
    let report = ["report", "rec", "--by", "rip"];
    kernel.run(&report).expect(0, "no instructions known", "");
    kernel.run(&report).expect(0, "--source tracepoints", "");
    for wanted in [&["--by", "rip"][..], &["--latency"]] {
        let stat = [&["stat", "--source", "module"], wanted, &["--", "true"]].concat();
        kernel
            .run(&stat)
            .expect(125, "", "leave out --source module");
        // Those are not there.
        let stat = [&["stat"], wanted, &["--", "true"]].concat();
        kernel
            .run(&stat)
            .expect(125, "", "there are no tracepoints of KVM");
    }
}

#[test]
fn a_part_of_a_recording() {
    let kernel = Kernel::bare();
    traced(&kernel);
    for (span, accesses) in [
        (&["--since", "1s"][..], 2 * 10662),
        (&["--until", "1s"], 10662),
        (&["--since", "1", "--until", "2"], 10662),
        // Of a step that is not wholly in it, nothing.
        (&["--since", "1500ms", "--until", "2500ms"], 0),
    ] {
        let lines = kernel.run(&[&["--json", "report"], span].concat());
        let lines = lines.expect(0, "", "").json();
        assert_eq!(lines[1]["accesses"], accesses, "{span:?}");
    }
    kernel
        .run(&["plot", "--since", "10s"])
        .expect(0, "kvm-mmio.svg", "");
}

#[test]
fn a_ring_of_recordings() {
    let kernel = Kernel::with(&sample::two_vms());
    let record = "record --interval 0.1 --rotate 0.2 --keep 2 --duration 1.5";
    let record: Vec<&str> = record.split(' ').collect();
    kernel.run(&record).expect(0, "", "samples");
    let names = ["kvm-mmio.rec", "kvm-mmio.rec.1", "kvm-mmio.rec.2"];
    for name in names {
        kernel.run(&["report", name]).expect(0, "no accesses", "");
    }
    assert!(!kernel.path("kvm-mmio.rec.3").exists());
    fs::remove_file(kernel.path("kvm-mmio.rec")).unwrap();
    kernel
        .run(&record)
        .expect(1, "", "kvm-mmio.rec.1 exists: --force");
    let to_stdout = ["record", "-o", "-", "--rotate", "1s"];
    kernel
        .run(&to_stdout)
        .expect(2, "", "--rotate needs a file");
}

#[test]
fn a_ring_loses_no_access() {
    let kernel = Kernel::with(&sample::two_vms());
    let script = format!("{}; sleep 1", change(&kernel, &doubled()));
    let record = [
        "record",
        "--interval",
        "0.1",
        "--rotate",
        "0.2",
        "--",
        "sh",
        "-c",
        &script,
    ];
    kernel.run(&record).expect(0, "", "10662 accesses");
    let files = fs::read_dir(kernel.folder()).unwrap();
    let files = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let files: Vec<_> = files
        .filter(|name| name.starts_with("kvm-mmio.rec"))
        .collect();
    assert!(files.len() > 2, "{files:?}");
    let accesses = |file: &String| {
        let lines = kernel.run(&["--json", "report", file]).json();
        lines[1]["accesses"].as_u64().unwrap()
    };
    assert_eq!(files.iter().map(accesses).sum::<u64>(), 10662);
}

#[test]
fn what_is_well_known_is_said() {
    let kernel = Kernel::with(&sample::two_vms());
    let mut storm = doubled();
    let vcpu = storm.vms.get_mut(&1).unwrap().vcpus.get_mut(&0).unwrap();
    let counts = &mut vcpu.pages.get_mut(&0xfe00_3000).unwrap().counts;
    counts.userspace += 5000;
    counts.kernel -= 5000;
    kernel.write(
        "names.toml",
        "[[region]]\nname = \"net-msix\"\nstart = 0xfe003000\n",
    );
    let script = change(&kernel, &storm);
    let stat = [
        "stat",
        "--regions",
        "4711=names.toml",
        "--",
        "sh",
        "-c",
        &script,
    ];
    kernel.run(&stat).expect(
        0,
        "",
        "advice (msi-x): net-msix, 5000 accesses: the guest masks",
    );
}

/// The first line of a table.
fn kernel_report_titles() -> String {
    let kernel = Kernel::with(&sample::two_vms());
    let script = change(&kernel, &doubled());
    let stat = ["stat", "--per-vcpu", "--", "sh", "-c", &script];
    let done = kernel.run(&stat).expect(0, "", "ns each");
    done.err.lines().next().unwrap().to_owned()
}

/// What bash offers for the last of these words.
fn completed(kernel: &Kernel, words: &[&str]) -> String {
    const SCRIPT: &str = "source ./script; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); \
        function=$(complete -p kvm-mmio | sed 's/.*-F //; s/ .*//'); \
        $function \"$1\" \"${COMP_WORDS[COMP_CWORD]}\" \"${COMP_WORDS[COMP_CWORD - 1]}\"; \
        echo \"${COMPREPLY[@]}\"";
    let mut bash = Command::new("bash");
    bash.args(["-c", SCRIPT, "bash"])
        .args(words)
        .current_dir(kernel.folder());
    Done::from(bash.output().unwrap())
        .expect(0, "", "")
        .out
        .trim()
        .to_owned()
}

#[test]
fn bash_completes_every_word() {
    let kernel = Kernel::bare();
    let script = kernel
        .run(&["generate", "completions", "bash"])
        .expect(0, "", "");
    kernel.write("script", script.out);
    for (words, offered) in [
        (&["kvm-mmio", "repo"][..], "report"),
        (&["kvm-mmio", "top", "--int"], "--interval"),
        (&["kvm-mmio", "report", "--sort", "user"], "userspace"),
        (
            &["/usr/sbin/kvm-mmio", "export", "--format", ""],
            "prometheus openmetrics",
        ),
        (&["kvm-mmio", "--json", "record", "--fo"], "--force"),
    ] {
        assert_eq!(completed(&kernel, words), offered, "{words:?}");
    }
}

/// An answer of `export --listen`.
fn get(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn export_answers_scrapes() {
    let kernel = Kernel::with(&sample::two_vms());
    kernel
        .run(&["--json", "export", "--listen", "0"])
        .expect(2, "", "--listen");
    kernel
        .run(&["export", "--listen", "nonsense"])
        .expect(2, "", "neither a port nor");
    kernel.run(&["export", "--heat"]).expect(2, "", "--listen");
    let mut server = kernel.command(&["export", "--listen", "0", "--heat"]);
    let mut server = server.stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    let mut errors = BufReader::new(server.stderr.take().unwrap());
    errors.read_line(&mut said).unwrap();
    let address = said
        .trim()
        .strip_prefix("kvm-mmio: http://127.0.0.1:")
        .unwrap();
    let address = format!("127.0.0.1:{}", address.strip_suffix("/metrics").unwrap());
    assert!(kernel.counts());

    // Somebody who says nothing is in nobody's way.
    let _silent = TcpStream::connect(&address).unwrap();
    let text = get(&address, "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(text.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4;"));
    assert!(text.contains("\nkvm_mmio_up 1\n") && text.contains("# TYPE kvm_mmio_vm_info gauge"));
    let accept = "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5";
    let text = get(
        &address,
        &format!("GET /metrics HTTP/1.0\r\n{accept}\r\n\r\n"),
    );
    assert!(text.contains("Content-Type: application/openmetrics-text; version=1.0.0"));
    assert!(text.ends_with("# EOF\n") && text.contains("# TYPE kvm_mmio_vm info"));
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(
        head.contains(&format!("Content-Length: {}\r\n", body.len())),
        "{head}"
    );
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", "200 OK"),
        ("GET /x HTTP/1.1\r\n\r\n", "404 Not Found"),
        ("POST /metrics HTTP/1.1\r\n\r\n", "405 Method Not Allowed"),
        ("nonsense\r\n\r\n", "400 Bad Request"),
    ] {
        let answer = get(&address, request);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}\r\n")),
            "{request}: {answer}"
        );
    }
    let head = get(&address, "HEAD /metrics HTTP/1.1\r\n\r\n");
    assert!(head.ends_with("\r\n\r\n"), "{head}");

    // What is read is what there is now, also nothing.
    kernel.write("dev/kvm_mmio_ext", sample::file(&doubled()));
    let text = get(&address, "GET /metrics HTTP/1.1\r\n\r\n");
    assert!(
        text.contains("device=\"HPET\",completed=\"userspace\"} 84\n"),
        "{text}"
    );
    fs::remove_file(kernel.path("dev/kvm_mmio_ext")).unwrap();
    let text = get(&address, "GET /metrics HTTP/1.1\r\n\r\n");
    assert!(
        text.starts_with("HTTP/1.1 200") && text.ends_with("\nkvm_mmio_up 0\n"),
        "{text}"
    );

    let pid = server.id().to_string();
    assert!(Command::new("kill").arg(&pid).status().unwrap().success());
    assert!(server.wait().unwrap().success());
    assert!(!kernel.counts());
}

/// Every metric that the dashboard asks for is one that there is.
#[test]
fn the_dashboard_shows_what_is_exported() {
    let text = include_str!("../grafana-dashboard.json");
    let dashboard: serde_json::Value = serde_json::from_str(text).unwrap();
    let kernel = Kernel::with(&sample::two_vms());
    let metrics = kernel.run(&["export"]).expect(0, "", "").out;
    let mut asked = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().unwrap();
            let words = expression.split(|c: char| !c.is_alphanumeric() && c != '_');
            for name in words.filter(|word| word.starts_with("kvm_mmio_")) {
                let is_one = |line: &str| line.split(['{', ' ']).next() == Some(name);
                assert!(metrics.lines().any(is_one), "no {name}: {expression}");
                asked += 1;
            }
        }
    }
    assert!(asked > 5);
}

fn tool(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(name)
}

/// The parser of Prometheus' own Python client, which is strict.
#[test]
#[ignore = "needs Python's prometheus_client, which `make check` installs"]
fn export_is_openmetrics() {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    for (reading, arguments) in [
        (
            sample::two_vms(),
            &["export", "--format", "openmetrics"][..],
        ),
        (
            sample::two_vms(),
            &[
                "export",
                "--format",
                "openmetrics",
                "--top",
                "1",
                "--vms",
                "1",
            ],
        ),
        (sample::idle(), &["export", "--format", "openmetrics"]),
    ] {
        let kernel = Kernel::with(&reading);
        kernel.write(
            "odd.toml",
            "[[region]]\nname = 'a \"b\" \\ c'\nstart = 0xfe003000\n",
        );
        let arguments = [arguments, &["--regions", "4711=odd.toml", "-o", "metrics"]].concat();
        kernel.run(&arguments).expect(0, "", "");
        let mut parser = Command::new(&python);
        parser
            .arg(tool("openmetrics.py"))
            .arg(kernel.path("metrics"));
        let parsed = Done::from(parser.output().unwrap())
            .expect(0, "kvm_mmio_up", "")
            .json();
        let value = |name: &str, labels: serde_json::Value| {
            let found = parsed
                .iter()
                .find(|s| s["name"] == name && s["labels"] == labels);
            found.map(|sample| sample["value"].as_f64().unwrap())
        };
        assert_eq!(value("kvm_mmio_up", serde_json::json!({})), Some(1.0));
        if reading != sample::idle() {
            let labels = serde_json::json!({
                "vm": "1", "pid": "4711", "process": "", "page": "0xfe003000", "device": "a \"b\" \\ c", "completed": "kernel",
            });
            assert_eq!(value("kvm_mmio_page_accesses_total", labels), Some(10000.0));
        }
    }
    let kernel = Kernel::bare();
    kernel
        .run(&["export", "--format", "openmetrics", "-o", "metrics"])
        .expect(3, "", "insmod");
    let mut parser = Command::new(&python);
    parser
        .arg(tool("openmetrics.py"))
        .arg(kernel.path("metrics"));
    let parsed = Done::from(parser.output().unwrap())
        .expect(0, "", "")
        .json();
    assert_eq!(parsed[0]["value"], 0.0);
}
