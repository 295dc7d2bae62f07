// SPDX-License-Identifier: GPL-2.0
//! The machine that the programs run on, and all that can be seen of a run.

use anyhow::{Context, Result, ensure};
use kvm_bindings::kvm_regs;
use kvm_ioctls::VcpuExit;

use crate::guest::layout::{self, MMIO_GVA, SCRATCH, port};
use crate::guest::paging::{SUPERVISOR, USER};
use crate::guest::{Bus, Doorbell, Event, Machine, Match, Mode, PAGE, Vcpu};

/// RAM for the programs: two pages.
pub const RAM: u64 = SCRATCH;
const RAM_LEN: u64 = 2 * PAGE;

/// Pages of MMIO, with one page of RAM among them.
pub const WINDOW: u64 = MMIO_GVA;
pub const WINDOW_PAGES: u64 = layout::MMIO_PAGES;
const RAM_PAGE: u64 = 5;

/// Below everything that is accessed, so that offsets of 32 bits reach it all.
pub const FS_BASE: u64 = 0x12_3000;

/// Exits until a program counts as endless.
const MAX_EXITS: usize = 10_000;

/// All that a run shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    pub exits: Vec<Event>,
    /// How it ended.
    end: String,
    regs: kvm_regs,
    ram: Vec<u8>,
    rings: Vec<u64>,
}

impl Trace {
    /// Accesses to MMIO that are seen from outside.
    pub fn accesses(&self) -> u64 {
        self.exits.len() as u64 + self.rings.iter().sum::<u64>()
    }

    /// The first thing in which the other is different.
    pub fn difference(&self, other: &Self) -> String {
        let first = (0..self.exits.len().max(other.exits.len()))
            .find(|n| self.exits.get(*n) != other.exits.get(*n));
        if let Some(n) = first {
            let (a, b) = (self.exits.get(n), other.exits.get(n));
            return format!("exit {n}: {a:?} became {b:?}");
        }
        if self.end != other.end {
            return format!("end: {} became {}", self.end, other.end);
        }
        if self.regs != other.regs {
            return format!("registers: {:x?}\nbecame {:x?}", self.regs, other.regs);
        }
        if self.rings != other.rings {
            return format!("rings: {:?} became {:?}", self.rings, other.rings);
        }
        let at = self.ram.iter().zip(&other.ram).position(|(a, b)| a != b);
        format!("RAM at offset {at:x?}")
    }
}

pub struct Bench {
    machine: Machine,
    pub vcpu: Vcpu,
    bells: Vec<Doorbell>,
}

impl Bench {
    pub fn new() -> Result<Self> {
        let (machine, vcpu) = Machine::with_vcpu(Mode::Long)?;
        let tables = machine.tables();
        tables.map(machine.gva(RAM_PAGE), RAM + PAGE, SUPERVISOR | USER);
        // Neighbours for the guest, apart for the host.
        tables.map(machine.gva(3), machine.gpa(20), SUPERVISOR);
        let mut sregs = vcpu.sregs()?;
        sregs.fs.base = FS_BASE;
        vcpu.set_sregs(&sregs)?;

        let mut bells = Vec::new();
        let mut bell = |page, offset, kind| -> Result<()> {
            bells.push(machine.doorbell(Bus::Mmio(machine.gpa(page) + offset), kind)?);
            Ok(())
        };
        for (page, len) in [(8, 4), (9, 1), (10, 2), (11, 8)] {
            for value in 0..3 {
                bell(page, 0, Match::Data { len, value })?;
            }
            bell(page, 8, Match::Len(len))?;
            bell(page, 16, Match::Any)?;
        }
        bell(12, 0, Match::Any)?;
        Ok(Self {
            machine,
            vcpu,
            bells,
        })
    }

    /// Places a program.
    pub fn place(&self, address: u64, code: &[u8]) {
        self.machine.ram().write(address, code);
    }

    /// Runs the program at `address` from a state that is always the same.
    pub fn run(&mut self, address: u64, rflags: u64) -> Result<Trace> {
        let pattern: Vec<u8> = (0..RAM_LEN).map(|n| (n * 7 + (n >> 8)) as u8).collect();
        self.machine.ram().write(RAM, &pattern);
        let regs = kvm_regs {
            rax: 0x0102_0304_0506_0708,
            rbx: 0xf1f2_f3f4_f5f6_f7f8,
            r8: 0x8899_aabb_ccdd_eeff,
            r15: !0,
            rip: address,
            rsp: layout::stack(0),
            rflags: rflags | 2,
            ..Default::default()
        };
        let fd = self.vcpu.fd_mut();
        fd.set_regs(&regs).context("KVM_SET_REGS")?;

        let mut exits = Vec::new();
        let end = loop {
            match fd.run() {
                Ok(VcpuExit::MmioWrite(gpa, data)) => exits.push(Event::Write {
                    gpa,
                    data: data.to_vec(),
                }),
                Ok(VcpuExit::MmioRead(gpa, data)) => {
                    let answer = answer(gpa, exits.len() as u64).to_le_bytes();
                    data.copy_from_slice(&answer[..data.len()]);
                    let len = data.len();
                    exits.push(Event::Read { gpa, len });
                }
                Ok(VcpuExit::IoOut(at, _)) if at == u16::from(port::DONE) => {
                    break "done".to_owned();
                }
                Ok(VcpuExit::IoOut(at, data)) if at == u16::from(port::FAULT) => {
                    break format!("exception {}", data[0]);
                }
                Ok(other) => break format!("{other:?}"),
                Err(e) if matches!(e.errno(), libc::EINTR | libc::EAGAIN) => {}
                Err(e) => return Err(e).context("KVM_RUN"),
            }
            if exits.len() > MAX_EXITS {
                break "endless".to_owned();
            }
        };
        let regs = fd.get_regs().context("KVM_GET_REGS")?;
        let rings = self
            .bells
            .iter()
            .map(Doorbell::rings)
            .collect::<Result<_>>()?;
        Ok(Trace {
            exits,
            end,
            regs,
            ram: self.machine.ram().read(RAM, RAM_LEN as usize),
            rings,
        })
    }
}

impl Trace {
    /// Fails unless the program came to its end. What is in it cannot fail.
    pub fn expect_done(&self) -> Result<()> {
        ensure!(
            self.end == "done",
            "a program ends with {}, {:x?}",
            self.end,
            self.regs
        );
        Ok(())
    }
}

/// What the `count`-th exit, a read, is answered with.
fn answer(gpa: u64, count: u64) -> u64 {
    (gpa ^ count << 40 ^ count)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(29)
}
