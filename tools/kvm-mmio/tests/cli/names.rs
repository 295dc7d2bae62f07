// SPDX-License-Identifier: GPL-2.0
//! Names that QEMU's monitor tells.

use super::*;

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
            ("0xfd000000", "0xfd000000"),
            ("0x30000", "0x30000"),
        ] {
            let labels = format!("page=\"{page}\",device=\"{device}\",completed=");
            assert!(done.out.contains(&labels), "{labels}: {}", done.out);
        }
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

const BELL: &str = "address-space: memory\n  \
    00000000fe003000-00000000fe003fff (prio 1, i/o): bell\n";

#[test]
fn a_recording_has_the_names_that_a_monitor_has_told() {
    let kernel = Kernel::with(&sample::two_vms());
    monitor(&kernel.path("qmp"), &[BELL]);
    let qmp = format!("4711={}", kernel.path("qmp").display());
    let script = change(&kernel, &doubled());
    let record = ["record", "--qmp", &qmp, "--", "sh", "-c", &script];
    kernel.run(&record).expect(0, "", "");
    kernel.run(&["report"]).expect(0, "0xfe003000  bell", "");
}

#[test]
fn the_monitor_for_people_tells_names_too() {
    let kernel = Kernel::with(&sample::two_vms());
    monitor_for_people(&kernel.path("hmp"), BELL);
    let hmp = format!("4711={}", kernel.path("hmp").display());
    // It answers once, so this is what it has said; that it is gone then is said.
    let complaint = "names may be out of date: QEMU's monitor at";
    let export = ["export", "--qmp", &hmp];
    let export = kernel.run(&export).expect(0, "device=\"bell\"", complaint);
    assert_eq!(export.err.lines().count(), 1, "{}", export.err);
}

#[test]
fn a_monitor_that_falls_silent_is_told_of_once() {
    let kernel = Kernel::with(&sample::two_vms());
    monitor_for_people(&kernel.path("hmp"), BELL);
    let hmp = format!("4711={}", kernel.path("hmp").display());
    let record = ["record", "-i", "0.05", "-d", "0.3", "--qmp", &hmp];
    let done = kernel.run(&record).expect(0, "", "");
    assert_eq!(done.err.matches("out of date").count(), 1, "{}", done.err);
}

#[test]
fn a_monitor_that_does_not_answer_is_explained() {
    let kernel = Kernel::with(&sample::two_vms());
    let qmp = format!("4711={}", kernel.path("qmp").display());
    let stat = ["stat", "--qmp", &qmp, "--", "true"];
    kernel.run(&stat).expect(125, "", "QEMU's monitor at");
    monitor(&kernel.path("qmp"), &[""]);
    kernel.run(&stat).expect(125, "", "it refuses: not today");
    let other = UnixListener::bind(kernel.path("other")).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = other.accept().unwrap();
        writeln!(stream, "220 ready").unwrap();
    });
    let other = format!("4711={}", kernel.path("other").display());
    let stat = ["stat", "--qmp", &other, "--", "true"];
    kernel.run(&stat).expect(125, "", "-qmp unix:SOCKET");
    let wrong = ["stat", "--qmp", "web=socket", "--", "true"];
    kernel.run(&wrong).expect(2, "", "not the PID of a QEMU");
}
