// SPDX-License-Identifier: GPL-2.0
//! The statistics file as a file: who may read it, in which pieces, and what happens to VMs that
//! end meanwhile.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use anyhow::{Context, Result, ensure};

use super::{Heat, access, errno, machine_with, need_faults, watched};
use crate::expect_eq;
use crate::guest::{Machine, Mode};
use crate::stats::device::{Device, PATH, Snapshot};
use crate::tap::Test;

const LIFE: &str = "the statistics file: VMs that end while it is open stay in it, and no longer";

pub const TESTS: &[Test] = &[
    Test {
        name: "observe_file_pieces",
        proves: "the statistics file: one snapshot, in pieces of any size",
        run: pieces,
    },
    Test {
        name: "observe_file_errors",
        proves: "the statistics file: wrong uses fail as documented",
        run: errors,
    },
    Test {
        name: "observe_file_mode",
        proves: "the statistics file: only root may open it",
        run: mode,
    },
    Test {
        name: "observe_file_ended",
        proves: LIFE,
        run: ended,
    },
    Test {
        name: "observe_file_ended_limit",
        proves: LIFE,
        run: ended_limit,
    },
    Test {
        name: "observe_file_vm_churn",
        proves: "the statistics file: any snapshot fits together, whatever comes and goes",
        run: vm_churn,
    },
    Test {
        name: "observe_file_killed_reader",
        proves: "the statistics file: a reader that is killed leaves nothing behind",
        run: killed_reader,
    },
];

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

fn killed_reader() -> Result<()> {
    let _heat = Heat::on()?;
    // SAFETY: this process has one thread.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let _ = read_until(&AtomicBool::new(false), 16);
        // SAFETY: ends the child; it gets here only if reading has failed.
        unsafe { libc::_exit(1) };
    }
    ensure!(child > 0, "fork: {:?}", errno());
    for _ in 0..3 {
        let (machine, mut vcpus) = machine_with(2)?;
        access(&machine, &mut vcpus[1], 1, 4, (20, 0))?;
    }
    let mut status = 0;
    // SAFETY: `child` is a child that has not been waited for, `status` is ours.
    unsafe {
        libc::kill(child, libc::SIGKILL);
        libc::waitpid(child, &mut status, 0);
    }
    expect_eq!(
        libc::WIFSIGNALED(status),
        true,
        "the reader ended by itself: {status:#x}"
    );
    // Nobody has kept the VMs.
    expect_eq!(Device::open()?.my_vms()?.len(), 0);
    Ok(())
}
