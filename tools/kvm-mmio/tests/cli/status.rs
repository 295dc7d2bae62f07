// SPDX-License-Identifier: GPL-2.0
//! What the kernel has, and who may read it.

use super::*;

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
        .expect(3, "modprobe kvm_mmio_ext", "");
    let unpatched = Kernel::bare();
    unpatched.write("sys/module/kvm/parameters/mmio_caching", "N\n");
    unpatched.write("proc/kallsyms", "0000 T kvm_init\t[kvm]\n");
    unpatched
        .run(&["status"])
        .expect(3, "make -s deb", "")
        .expect(3, "mmio_caching=0", "");
}

/// What is promised was tried: these tracepoints can be read, and nobody can open their events.
#[test]
fn status_of_a_stock_kernel() {
    let kernel = Kernel::stock();
    let done = kernel.run(&["status"]);
    // A container may not open any.
    assert!([3, 4].contains(&done.status), "{}", done.out);
    for part in [
        "kernel          7.3.4, KVM has no hooks for the extension",
        "patches/7.3",
        "module          kvm_mmio_ext is not loaded",
        "source          none: ",
    ] {
        assert!(done.out.contains(part), "no {part:?} in {}", done.out);
    }
    // Without the vendor's module there is no VM.
    fs::remove_dir_all(kernel.path("sys/module/kvm_amd")).unwrap();
    kernel.run(&["status"]).expect(3, "missing KVM", "");
}

/// As it is on many machines: everybody may read tracefs, and nobody but root may follow events.
#[test]
fn who_may_not_follow_is_told_what_is_missing() {
    let paranoid = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid");
    if !paranoid.is_ok_and(|text| text.trim().parse().is_ok_and(|level: i32| level >= 2)) {
        eprintln!("not tested: anybody may follow events of this kernel");
        return;
    }
    let kernel = Kernel::stock();
    let wanted = "you may not open events of KVM's tracepoints: run this as root, or with \
                  CAP_SYS_ADMIN (kernel.perf_event_paranoid is 3)";
    let denied = format!("denied  source          none: {wanted}\n");
    let done = as_nobody(&kernel, &["status"]).expect(4, &denied, "");
    assert!(!done.out.contains("missing"), "{}", done.out);
    as_nobody(&kernel, &["stat", "--", "true"]).expect(125, "", wanted);
    let format = kernel.path("sys/kernel/tracing/events/kvm/kvm_mmio/format");
    fs::set_permissions(format, fs::Permissions::from_mode(0o000)).unwrap();
    as_nobody(&kernel, &["status"]).expect(4, "none: you may not read tracefs", "");
}

#[test]
fn status_says_what_counting_for_nobody_costs() {
    let kernel = Kernel::with(&sample::two_vms());
    kernel.write("sys/module/kvm_mmio_ext/parameters/heat", "Y\n");
    kernel
        .run(&["status"])
        .expect(0, "note    heat            on, and nobody reads", "")
        .expect(0, "echo N > /sys/module/kvm_mmio_ext/parameters/heat", "");
    kernel.write("proc/815/comm", "kvm-mmio\n");
    fs::create_dir(kernel.path("proc/815/fd")).unwrap();
    let reader = kernel.path("proc/815/fd/3");
    symlink(kernel.path("dev/kvm_mmio_ext"), reader).unwrap();
    kernel
        .run(&["status"])
        .expect(0, "ok      heat            on\n", "");
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

#[test]
fn who_may_not_read_is_told_so() {
    let kernel = Kernel::with(&sample::two_vms());
    let device = kernel.path("dev/kvm_mmio_ext");
    fs::set_permissions(device, fs::Permissions::from_mode(0o000)).unwrap();
    as_nobody(&kernel, &["top"])
        .expect(4, "", "run this as root")
        .expect(4, "", "the group kvm-mmio");
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
