// SPDX-License-Identifier: GPL-2.0
//! What may be asked for, and what each wrong field gives.

use std::os::fd::AsRawFd;

use anyhow::{Context, Result};

use super::bench::{Bench, errno};
use crate::expect_eq;
use crate::guest::{
    Bus, Event, Machine, Match, Mode, PAGE, Place, Region, Request, new_event, on_read, on_write,
    signal,
};
use crate::host::locked_pages;

pub(super) fn invalid() -> Result<()> {
    let bench = Bench::new()?;
    let machine = Machine::new(Mode::Long)?;
    let event = new_event()?;
    let good = Request {
        signal: signal::VALUE,
        event_fd: event.as_raw_fd(),
        ..bench.request(&machine, 0x10, 4)
    };
    let quiet = bench.request(&machine, 0x10, 4);
    let (gpa, user_addr) = (good.gpa, good.user_addr);
    let mut bad = vec![
        Request {
            gpa: gpa + 1,
            ..good
        },
        Request {
            gpa: gpa + 2,
            ..good
        },
        Request {
            gpa: u64::MAX - 3,
            ..good
        },
        Request {
            user_addr: user_addr + 1,
            ..good
        },
        Request {
            user_addr: user_addr + 2,
            ..good
        },
        Request { len: 0, ..good },
        Request { len: 3, ..good },
        Request { len: 16, ..good },
        Request {
            len: 1 << 8 | 4,
            ..good
        },
        Request {
            datamatch: 1 << 32,
            ..good
        },
        Request {
            on_write: 4,
            ..good
        },
        Request { on_read: 3, ..good },
        Request { signal: 4, ..good },
        Request {
            event_fd: -1,
            ..good
        },
        Request {
            on_write: on_write::EXIT,
            ..good
        },
        Request {
            datamatch: 1,
            ..quiet
        },
        Request {
            event_fd: event.as_raw_fd(),
            ..quiet
        },
        Request {
            on_write: on_write::EXIT,
            on_read: on_read::EXIT,
            ..quiet
        },
    ];
    for i in 0..good.reserved.len() {
        let mut request = good;
        request.reserved[i] = 1;
        bad.push(request);
    }
    for request in bad {
        let got = errno(bench.file.add(&request));
        expect_eq!(got, libc::EINVAL, "{request:x?}");
    }
    let at = Place {
        reserved: 1,
        ..good.place()
    };
    expect_eq!(errno(bench.file.remove(&at)), libc::EINVAL);
    expect_eq!(errno(bench.file.none()), libc::ENOTTY);
    expect_eq!(errno(bench.file.add_at(0)), libc::EFAULT);
    // All but one field was right.
    bench.add(&good)
}

pub(super) fn files() -> Result<()> {
    const CLOSED: i32 = 1000;
    let bench = Bench::new()?;
    let (machine, vcpu) = Machine::with_vcpu(Mode::Long)?;
    let event = new_event()?;
    let good = Request {
        signal: signal::ALWAYS,
        event_fd: event.as_raw_fd(),
        ..bench.request(&machine, 0, 4)
    };
    for (vm_fd, wanted) in [
        (-1, libc::EBADF),
        (CLOSED, libc::EBADF),
        (event.as_raw_fd(), libc::EINVAL),
        (vcpu.fd().as_raw_fd(), libc::EINVAL),
    ] {
        let got = errno(bench.file.add(&Request { vm_fd, ..good }));
        expect_eq!(got, wanted, "VM {vm_fd}");
        let place = Place {
            vm_fd,
            ..good.place()
        };
        expect_eq!(errno(bench.file.remove(&place)), wanted, "VM {vm_fd}");
    }
    for (event_fd, wanted) in [(CLOSED, libc::EBADF), (good.vm_fd, libc::EINVAL)] {
        let got = errno(bench.file.add(&Request { event_fd, ..good }));
        expect_eq!(got, wanted, "eventfd {event_fd}");
    }
    expect_eq!(locked_pages()?, 0);
    bench.add(&good)
}

pub(super) fn addresses() -> Result<()> {
    let bench = Bench::new()?;
    let machine = Machine::new(Mode::Long)?;
    let good = bench.request(&machine, 0, 4);
    let read_only = Region::new(PAGE)?;
    // SAFETY: the whole of a mapping that nobody writes to.
    let protected = unsafe {
        libc::mprotect(
            read_only.hva() as *mut libc::c_void,
            PAGE as usize,
            libc::PROT_READ,
        )
    };
    expect_eq!(protected, 0);
    let unmapped = Region::new(PAGE)?.hva();
    for user_addr in [0, unmapped, read_only.hva(), 1 << 63, u64::MAX - 3] {
        let got = errno(bench.file.add(&Request { user_addr, ..good }));
        expect_eq!(got, libc::EFAULT, "{user_addr:#x}");
    }
    expect_eq!(locked_pages()?, 0);
    bench.add(&good)
}

/// As for KVM's own ioctls, a VM is only for the process that has made it.
pub(super) fn other_process() -> Result<()> {
    let bench = Bench::new()?;
    let machine = Machine::new(Mode::Long)?;
    let request = bench.request(&machine, 0, 4);
    let place = request.place();
    bench.add(&request)?;
    // SAFETY: there is no other thread, and the child makes two system calls and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let add = errno(bench.file.add(&Request {
            gpa: request.gpa + 8,
            ..request
        }));
        let remove = errno(bench.file.remove(&place));
        let status = if (add, remove) == (libc::EIO, libc::EIO) {
            0
        } else {
            1
        };
        // SAFETY: ends the process, without any of the parent's destructors.
        unsafe { libc::_exit(status) };
    }
    let mut status = 0;
    // SAFETY: `status` is what the call fills in.
    let waited = unsafe { libc::waitpid(child, &mut status, 0) };
    expect_eq!(waited, child);
    expect_eq!(status, 0);
    bench.file.remove(&place).context("removing")
}

pub(super) fn collisions() -> Result<()> {
    let bench = Bench::new()?;
    let machine = Machine::new(Mode::Long)?;
    let gpa = machine.gpa(1);
    bench.add(&bench.request(&machine, 0x10, 4))?;
    let mut bell = machine.doorbell(Bus::Mmio(gpa + 0x20), Match::Data { len: 2, value: 1 })?;
    let _any = machine.doorbell(Bus::Mmio(gpa + 0x34), Match::Any)?;
    machine.coalesce(Bus::Mmio(gpa + 0x40), 0x10)?;
    let add = |offset, len| errno(bench.file.add(&bench.request(&machine, offset, len)));
    let taken = [
        (0x10, 4),
        (0x10, 1),
        (0x12, 2),
        (0x10, 8),
        (0x20, 2),
        (0x20, 4),
        (0x21, 1),
        (0x30, 8),
        (0x34, 1),
        (0x40, 1),
        (0x48, 8),
    ];
    for (offset, len) in taken {
        expect_eq!(add(offset, len), libc::EEXIST, "{offset:#x}+{len}");
    }
    // Another file's are no different.
    let other = Bench::new()?;
    let got = errno(other.file.add(&other.request(&machine, 0x10, 4)));
    expect_eq!(got, libc::EEXIST);
    for (offset, len) in [(0x0c, 4), (0x14, 4), (0x22, 2), (0x35, 1), (0x50, 8)] {
        expect_eq!(add(offset, len), 0, "{offset:#x}+{len}");
    }
    bell.remove(machine.vm())?;
    machine.no_coalesce(Bus::Mmio(gpa + 0x40), 0x10)?;
    for (offset, len) in [(0x20, 2), (0x48, 8)] {
        expect_eq!(add(offset, len), 0, "{offset:#x}+{len}");
    }
    // Neither another VM nor ports are the same place.
    let another = Machine::new(Mode::Long)?;
    bench.add(&bench.request(&another, 0x10, 4))
}

/// KVM does not look at devices of other kinds when it adds an ioeventfd: at the same address and
/// of the same length it comes later, and gets what the register declines.
pub(super) fn later_ioeventfd(bench: &Bench) -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    bench.add(&Request {
        on_write: on_write::EXIT,
        ..bench.request(&machine, 0, 4)
    })?;
    bench.add(&bench.request(&machine, 8, 4))?;
    let declined = machine.doorbell(Bus::Mmio(machine.gpa(1)), Match::Data { len: 4, value: 7 })?;
    let shadowed = machine.doorbell(Bus::Mmio(machine.gpa(1) + 8), Match::Len(4))?;
    for _ in 0..3 {
        bench.set_word(5);
        expect_eq!(vcpu.write(machine.gva(1), 4, 7)?, []);
        expect_eq!((declined.rings()?, bench.word()), (1, 5));
        expect_eq!(
            vcpu.write(machine.gva(1), 4, 8)?,
            [Event::write(machine.gpa(1), 4, 8)]
        );
        expect_eq!(vcpu.read(machine.gva(1), 4)?, (5, vec![]));
        expect_eq!(vcpu.write(machine.gva(1) + 8, 4, 9)?, []);
        expect_eq!((shadowed.rings()?, bench.word()), (0, 9));
    }
    Ok(())
}

pub(super) fn limit_of_a_vm() -> Result<()> {
    /// `NR_IOBUS_DEVS`
    const DEVICES: u64 = 1000;
    let bench = Bench::new()?;
    let machine = Machine::new(Mode::Long)?;
    // An I/O APIC is one of them.
    let limit = DEVICES - u64::from(machine.has_irqchip());
    let request = |n: u64| bench.request(&machine, 8 * n, 8);
    let added = (0..=limit)
        .find_map(|n| bench.file.add(&request(n)).err().map(|e| (n, e)))
        .context("no limit")?;
    expect_eq!(
        (added.0, added.1.raw_os_error()),
        (limit, Some(libc::ENOSPC))
    );
    expect_eq!(locked_pages()?, limit);
    bench.file.remove(&request(500).place())?;
    bench.add(&request(limit))?;
    // Another VM has its own.
    bench.add(&bench.request(&Machine::new(Mode::Long)?, 0, 8))
}

pub(super) fn locked_memory() -> Result<()> {
    const NOBODY: u32 = 65534;
    let bench = Bench::new()?;
    let machine = Machine::new(Mode::Long)?;
    expect_eq!(locked_pages()?, 0);
    let limit = libc::rlimit {
        rlim_cur: 2 * PAGE,
        rlim_max: 2 * PAGE,
    };
    // SAFETY: the structure is only read.
    let limited = unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit) };
    expect_eq!(limited, 0);
    // SAFETY: changes the rights of this process, which is one test.
    let set = unsafe { libc::setresuid(NOBODY, NOBODY, NOBODY) };
    expect_eq!(set, 0);
    let request = |n: u64| bench.request(&machine, 8 * n, 8);
    bench.add(&request(0))?;
    bench.add(&request(1))?;
    expect_eq!(errno(bench.file.add(&request(2))), libc::ENOMEM);
    // What fails for another reason takes nothing.
    expect_eq!(errno(bench.file.add(&request(0))), libc::ENOMEM);
    bench.file.remove(&request(1).place())?;
    expect_eq!(errno(bench.file.add(&request(0))), libc::EEXIST);
    bench.add(&request(2))?;
    Ok(())
}
