// SPDX-License-Identifier: GPL-2.0
//! What tracepoints tell, and parts of recordings.

use super::*;

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
    let bins = serde_json::json!([
        {"from": 1024, "below": 2048, "count": 3}, {"from": 2048, "below": 4096, "count": 3},
    ]);
    assert_eq!(groups[0]["latency_ns"]["histogram"], bins);
    assert_eq!(lines[1]["latency_ns"]["histogram"], bins);
    // Of what no time is known.
    assert!(groups[1].get("latency_ns").is_none());
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
    let done = kernel.run(&["report"]).expect(0, "1024", "").expect(
        0,
        "    2048      4096         3   50.0  ####",
        "",
    );
    assert!(
        titles.iter().all(|title| done.out.contains(title)),
        "{}",
        done.out
    );
}

#[test]
fn the_module_tells_instructions_if_asked_to() {
    let kernel = Kernel::with(&sample::two_vms());
    recorded(&kernel);
    let report = ["report", "rec", "--by", "rip"];
    kernel.run(&report).expect(0, "no instructions known", "");
    kernel.run(&report).expect(0, "with --instructions", "");
    // What is written stands at the start of this device, which is no device.
    kernel.run(&["stat", "--by", "rip", "--", "true"]).expect(
        125,
        "",
        "it is not the statistics file",
    );
    let written = fs::read(kernel.path("dev/kvm_mmio_ext")).unwrap();
    assert!(written.starts_with(b"instructions"));
}

#[test]
fn the_module_does_not_tell_times() {
    let kernel = Kernel::with(&sample::two_vms());
    let stat = ["stat", "--source", "module", "--latency", "--", "true"];
    kernel
        .run(&stat)
        .expect(125, "", "leave out --source module");
    // Those are not there.
    kernel.run(&["stat", "--latency", "--", "true"]).expect(
        125,
        "",
        "there are no tracepoints of KVM",
    );
}

#[test]
fn symbols_of_nobody_are_told_of() {
    let kernel = Kernel::with(&sample::two_vms());
    recorded(&kernel);
    kernel.write("kallsyms", "ffffffff81000000 T vp_notify\n");
    let report = ["report", "rec", "--by", "rip", "--symbols", "kallsyms"];
    let done = kernel.run(&report).expect(0, "--symbols PID=FILE, or", "");
    assert!(!done.out.contains("--mtree"), "{}", done.out);
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
    kernel
        .run(&stat)
        .expect(0, "", "advice: net-msix, 5000 accesses: the guest masks");
}
