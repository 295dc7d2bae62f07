// SPDX-License-Identifier: GPL-2.0
//! Recordings, what is made of them, and other output.

use super::*;

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
    assert!(
        plot.out.contains("recorded on 20") && plot.out.contains(", host a-host, kernel 7.3.4")
    );
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
        (of(1), of(2), done.err.contains("--regions PID=FILE"))
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
        "1,4711,,0,0xfe003000,1,10000,",
        "3 more devices with 662 accesses",
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
    assert_eq!(words[..4], ["1", "4711", "-", "0xfe003000"]);
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
    assert_eq!(
        (&gone[2]["pid_before"], &gone[2]["pid_after"]),
        (&4711.into(), &serde_json::Value::Null)
    );
    kernel.run(&["diff", "one"]).expect(2, "", "required");
}

/// A recording in which counting by page was off for a while, and VMs have ended.
#[test]
fn all_say_what_is_missing() {
    let kernel = Kernel::with(&sample::two_vms());
    let mut lossy = doubled();
    lossy.clock.flags &= !reading::HEAT;
    lossy.clock.lost = 2;
    let off = change(&kernel, &lossy);
    lossy.clock.flags |= reading::HEAT;
    kernel.write("on", sample::file(&lossy));
    let script = format!("{off}; sleep 0.3; cat on 1<> dev/kvm_mmio_ext; sleep 0.3");
    let command = ["--", "sh", "-c", &script];
    let record = [&["record", "-o", "rec", "-i", "0.1"], &command[..]].concat();
    let lines = [
        "3 accesses of no page: the kernel counts 512 pages for each vCPU",
        "counting by page was off, at least for a part of the time",
        "2 VMs are not in this: they ended, and the kernel keeps 64",
    ];
    let plot = ["plot", "rec", "-o", "-"];
    let recorded = kernel.run(&record).expect(0, "", "10662 accesses");
    let reported = kernel.run(&["report", "rec"]).expect(0, "", "");
    let compared = kernel.run(&["diff", "rec", "rec"]).expect(0, "", "");
    let plotted = kernel.run(&plot).expect(0, "", "");
    for line in lines {
        let of_file = format!("rec: {line}\n");
        assert!(recorded.err.contains(&of_file), "{}", recorded.err);
        assert!(reported.out.contains(line), "{}", reported.out);
        assert!(plotted.out.contains(line), "no {line} in the picture");
        for side in ["before", "after"] {
            let of_side = format!("\n{side}: {line}\n");
            assert!(compared.out.contains(&of_side), "{}", compared.out);
        }
    }
    let none = kernel.run(&["diff", "rec", "rec", "--vm", "2"]);
    assert!(!none.out.contains("of no page"), "{}", none.out);
    for arguments in [
        &["report", "rec"][..],
        &["diff", "rec", "rec"],
        &["plot", "rec"],
    ] {
        let lines = kernel.run(&[&["--json"], arguments].concat()).json();
        let mut told = lines.iter().filter(|line| line["vms_lost"] == 2);
        let missing = |line: &serde_json::Value| line["heat_dropped"] == 3 && line["heat"] == false;
        assert!(told.any(missing), "{lines:?}");
    }
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
    for shown in [
        &["diff", "rec", "rec", "-f", "nonsense"][..],
        &["plot", "rec", "-f", "nonsense", "-o", "-"],
    ] {
        kernel
            .run(shown)
            .expect(0, "no page or device is called", "");
    }
    // By the device, which is not what the page is called.
    kernel.write(
        "names.toml",
        "[[region]]\nname = \"bar\"\nstart = 0xfe000000\nsize = 0x4000\n",
    );
    kernel
        .run(&["report", "rec", "-f", "bar$", "--regions", "all=names.toml"])
        .expect(0, "bar +0x3000", "");
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
    // What a link leads to is replaced, not the link.
    symlink("out.prom", kernel.path("link.prom")).unwrap();
    kernel.write("out.prom", "old");
    kernel.run(&["export", "-o", "link.prom"]).expect(0, "", "");
    assert!(kernel.path("link.prom").is_symlink());
    assert_eq!(fs::read_to_string(kernel.path("out.prom")).unwrap(), text);
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
