// SPDX-License-Identifier: GPL-2.0
//! The statistics file as a file: who may read it, in which pieces, and what happens to VMs that
//! end meanwhile.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::heat::Heat;
use super::watch::{access, errno, machine_with, need_faults, watched};
use crate::expect_eq;
use crate::guest::{Machine, Mode};
use crate::stats::device::{Device, PATH, Snapshot};

const LIFE: &str = "the statistics file: VMs that end while it is open stay in it, and no longer";

crate::test_table! {
    observe_file_pieces: "the statistics file: one snapshot, in pieces of any size" => pieces(),
    observe_file_errors: "the statistics file: wrong uses fail as documented" => errors(),
    observe_file_mode: "the statistics file: only root may open it" => mode(),
    observe_file_ended: LIFE => ended(),
    observe_file_ended_limit: LIFE => ended_limit(),
    observe_file_vm_churn:
        "the statistics file: any snapshot fits together, whatever comes and goes"
        => vm_churn(),
    observe_file_killed_reader: "the statistics file: a reader that is killed leaves nothing behind"
        => killed_reader(),
    observe_file_counting:
        "who has the statistics file open for writing has heat on, whatever others do"
        => counting(),
    observe_file_killed_counting:
        "heat ends with the process that had the statistics file open for writing"
        => killed_counting(),
}

fn pieces() -> Result<()> {
    let (_heat, device, machine, mut vcpu) = watched(Heat::on()?)?;
    access(&machine, &mut vcpu, 1, 4, (3, 0))?;
    let whole = device.bytes(1 << 20)?;

    // A snapshot stays what it is until offset 0 is read again.
    access(&machine, &mut vcpu, 1, 4, (3, 0))?;
    for (offset, len) in [
        (1, 7),
        (95, 2),
        (whole.len() - 3, 100),
        (whole.len() / 2, 64),
    ] {
        let mut piece = vec![0; len];
        let n = device.0.read_at(&mut piece, offset as u64)?;
        expect_eq!(n, len.min(whole.len() - offset), "at {offset}");
        expect_eq!(piece[..n], whole[offset..offset + n], "at {offset}");
    }
    for beyond in [whole.len(), whole.len() + 1, 1 << 40] {
        expect_eq!(device.0.read_at(&mut [0; 8], beyond as u64)?, 0);
    }
    for size in [1, 7, 64, 4096] {
        let bytes = device.bytes(size)?;
        expect_eq!(bytes.len(), whole.len(), "pieces of {size}");
        let snapshot = Snapshot::parse(&bytes)?;
        let page = snapshot.vms.last().context("no VM")?.vcpus[0].page(machine.gpa(1));
        expect_eq!(page["count"], 6, "pieces of {size}");
    }

    // Another open file has snapshots of its own, and takes one for any first read.
    let other = Device::open()?;
    let mut magic = [0; 4];
    expect_eq!(other.0.read_at(&mut magic, 4)?, 4);
    expect_eq!(&magic, b"MIOX");
    Ok(())
}

fn errors() -> Result<()> {
    let _heat = Heat::off()?;
    let device = Device::open()?;
    let fd = device.0.as_raw_fd();
    // SAFETY: the kernel refuses the address; nothing is written.
    let refused = unsafe { libc::pread(fd, std::ptr::dangling_mut(), 8, 0) };
    expect_eq!((refused, errno()), (-1, Some(libc::EFAULT)));
    // SAFETY: a plain system call.
    let refused = unsafe { libc::lseek(fd, 0, libc::SEEK_SET) };
    expect_eq!((refused, errno()), (-1, Some(libc::ESPIPE)));
    // SAFETY: the buffer has 8 bytes.
    let refused = unsafe { libc::pread(fd, [0u8; 8].as_mut_ptr().cast(), 8, -1) };
    expect_eq!((refused, errno()), (-1, Some(libc::EINVAL)));
    // SAFETY: asks for memory of the kernel's choice, and gets none.
    let mapped = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ,
            libc::MAP_SHARED,
            fd,
            0,
        )
    };
    expect_eq!(mapped, libc::MAP_FAILED);
    expect_eq!(errno(), Some(libc::ENODEV));

    let writable = File::options().write(true).open(PATH)?;
    let error = writable
        .write_at(&[0], 0)
        .err()
        .context("a write was done")?;
    expect_eq!(error.raw_os_error(), Some(libc::EINVAL));
    Ok(())
}

fn mode() -> Result<()> {
    const NOBODY: u32 = 65534;
    let _heat = Heat::off()?;
    let node = fs::metadata(PATH).context(PATH)?;
    expect_eq!(node.file_type().is_char_device(), true);
    expect_eq!((node.mode() & 0o777, node.uid(), node.gid()), (0o600, 0, 0));

    // In a thread of its own: the credentials of the system call are those of one thread.
    let error = thread::spawn(|| {
        // SAFETY: plain system calls.
        let dropped = unsafe {
            libc::syscall(libc::SYS_setresgid, NOBODY, NOBODY, NOBODY) == 0
                && libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) == 0
        };
        dropped.then(|| File::open(PATH).err().and_then(|e| e.raw_os_error()))
    })
    .join();
    expect_eq!(error.ok().flatten(), Some(Some(libc::EACCES)));
    Ok(())
}

fn ended() -> Result<()> {
    let _heat = Heat::on()?;
    let device = Device::open()?;
    let mut gpa = 0;
    for count in [3, 5] {
        let (machine, mut vcpus) = machine_with(2)?;
        gpa = machine.gpa(2);
        for vcpu in &mut vcpus {
            access(&machine, vcpu, 2, 8, (count, 0))?;
        }
    }

    for _ in 0..2 {
        let vms = device.my_vms()?;
        expect_eq!(vms.len(), 2);
        for (vm, count) in vms.iter().zip([3, 5]) {
            expect_eq!(vm.has_ended(), true);
            expect_eq!(vm.vcpus.len(), 2);
            for vcpu in &vm.vcpus {
                vcpu.expect_balance()?;
                expect_eq!(vcpu.page(gpa)["count"], count);
            }
        }
    }
    // As long as any file is open.
    let other = Device::open()?;
    drop(device);
    expect_eq!(other.my_vms()?.len(), 2);
    drop(other);
    expect_eq!(Device::open()?.my_vms()?.len(), 0);
    Ok(())
}

fn ended_limit() -> Result<()> {
    const MORE: usize = 3;
    need_faults()?;
    let _heat = Heat::off()?;
    let device = Device::open()?;
    let header = |at: usize, size: usize| -> Result<u64> {
        let mut bytes = vec![0; 96];
        device.0.read_exact_at(&mut bytes, 0)?;
        let number = bytes[at..at + size].iter().rev();
        Ok(number.fold(0, |value, byte| value << 8 | u64::from(*byte)))
    };
    let (kept, lost) = (header(68, 4)? as usize, header(72, 8)?);
    expect_eq!(kept, 64);
    for count in 1..=kept + MORE {
        let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
        access(&machine, &mut vcpu, 1, 1, (count as u64 + 1, 0))?;
    }

    let vms = device.my_vms()?;
    expect_eq!(vms.len(), kept);
    expect_eq!(header(72, 8)? - lost, MORE as u64);
    for (vm, count) in vms.iter().zip(1 + MORE as u64..) {
        let fields = &vm.vcpus[0].fields;
        expect_eq!(fields["write_1"] + fields["emulated_unseen"], count);
    }
    Ok(())
}

/// Reads all the time, and returns how many snapshots there were.
fn read_until(stop: &AtomicBool, size: usize) -> Result<u64> {
    let device = Device::open()?;
    let mut snapshots = 0;
    while !stop.load(Relaxed) {
        Snapshot::parse(&device.bytes(size)?)?;
        snapshots += 1;
    }
    Ok(snapshots)
}

fn vm_churn() -> Result<()> {
    const VMS: u64 = 12;
    let heat = Heat::on()?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let readers = [64, 1 << 16].map(|size| {
            scope.spawn({
                let stop = &stop;
                move || read_until(stop, size)
            })
        });
        let guests = (0..VMS).try_for_each(|n| {
            heat.set(n % 3 != 2)?;
            let (machine, mut vcpus) = machine_with(2)?;
            for page in 0..8 {
                access(&machine, &mut vcpus[(page % 2) as usize], page, 4, (2, 1))?;
            }
            Ok::<_, anyhow::Error>(())
        });
        stop.store(true, Relaxed);
        for reader in readers {
            let snapshots = reader.join().ok().context("a reader panicked")??;
            ensure!(snapshots > 0, "no snapshot");
        }
        guests
    })
}

/// Runs `f` in a process of its own until it is killed, while `meanwhile` runs here.
fn with_killed(
    f: impl FnOnce() -> Result<()>,
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<()> {
    // SAFETY: this process has one thread.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let _ = f();
        // SAFETY: ends the child; it gets here only if `f` has failed.
        unsafe { libc::_exit(1) };
    }
    ensure!(child > 0, "fork: {:?}", errno());
    let result = meanwhile();
    let mut status = 0;
    // SAFETY: `child` is a child that has not been waited for, `status` is ours.
    unsafe {
        libc::kill(child, libc::SIGKILL);
        libc::waitpid(child, &mut status, 0);
    }
    expect_eq!(
        libc::WIFSIGNALED(status),
        true,
        "the child ended by itself: {status:#x}"
    );
    result
}

fn killed_reader() -> Result<()> {
    let _heat = Heat::on()?;
    with_killed(
        || read_until(&AtomicBool::new(false), 16).map(drop),
        || {
            for _ in 0..3 {
                let (machine, mut vcpus) = machine_with(2)?;
                access(&machine, &mut vcpus[1], 1, 4, (20, 0))?;
            }
            Ok(())
        },
    )?;
    // Nobody has kept the VMs.
    expect_eq!(Device::open()?.my_vms()?.len(), 0);
    Ok(())
}

/// Whether heat is on.
fn is_hot(device: &Device) -> Result<bool> {
    Ok(device.snapshot()?.flags & 1 != 0)
}

fn counting() -> Result<()> {
    let (heat, device, machine, mut vcpu) = watched(Heat::off()?)?;
    let mut hot = 0;
    // Accesses before each step; what is counted is those while heat is on.
    let mut expect = |step: &str, on: bool| -> Result<()> {
        expect_eq!(is_hot(&device)?, on, "{step}");
        access(&machine, &mut vcpu, 1, 4, (3, 0))?;
        hot += if on { 3 } else { 0 };
        let vms = device.my_vms()?;
        let count = vms.first().map_or(0, |vm| {
            vm.vcpus[0]
                .page(machine.gpa(1))
                .get("count")
                .copied()
                .unwrap_or(0)
        });
        expect_eq!(count, hot, "{step}");
        Ok(())
    };
    expect("only read", false)?;
    let first = Device::open_counting()?;
    expect("open for writing", true)?;
    let write_only = File::options().write(true).open(PATH)?;
    drop(first);
    expect("another one", true)?;
    heat.set(true)?;
    heat.set(false)?;
    expect("the parameter off", true)?;
    drop(write_only);
    expect("closed", false)?;
    heat.set(true)?;
    drop(Device::open_counting()?);
    expect("the parameter on", true)?;
    heat.set(false)?;
    expect("neither", false)
}

fn killed_counting() -> Result<()> {
    let _heat = Heat::off()?;
    let device = Device::open()?;
    with_killed(
        || {
            let _counting = Device::open_counting()?;
            loop {
                thread::park();
            }
        },
        || {
            let start = Instant::now();
            while !is_hot(&device)? {
                ensure!(start.elapsed() < Duration::from_secs(60), "heat stays off");
                thread::sleep(Duration::from_millis(10));
            }
            Ok(())
        },
    )?;
    expect_eq!(is_hot(&device)?, false);
    Ok(())
}
