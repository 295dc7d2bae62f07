// SPDX-License-Identifier: GPL-2.0
//! The machine that the programs run on.

use anyhow::{Context, Result};
use kvm_bindings::{kvm_fpu, kvm_regs, kvm_sregs};
use kvm_ioctls::VcpuExit;

use super::nested::{self, Hypervisor};
use super::program::Program;
use super::slots::{HostOp, Slots, pattern};
use super::smm;
use super::space::{RAM, RAM_LEN, Root, roots, segment_bases};
use super::trace::Trace;
use crate::guest::layout::{self, port};
use crate::guest::{Bus, Doorbell, Event, Machine, Match, Mode, Svm, Vcpu};
use crate::host::Modes;

/// Exits until a program counts as endless.
const MAX_EXITS: usize = 10_000;

pub struct Bench {
    machine: Machine,
    pub vcpu: Vcpu,
    roots: Vec<Root>,
    hypervisor: Option<Hypervisor>,
    bells: Vec<Doorbell>,
    slots: Slots,
    /// System registers when a program starts.
    sregs: kvm_sregs,
}

impl Bench {
    pub fn new(mode: Mode, svm: Option<Svm>) -> Result<Self> {
        let (machine, vcpu) = Machine::with_vcpu(mode)?;
        let mut sregs = vcpu.sregs()?;
        [sregs.fs.base, sregs.gs.base] = segment_bases(mode);
        let roots = roots(&machine);
        let hypervisor = svm
            .map(|svm| nested::prepare(&machine, &vcpu, &mut sregs, &roots, svm))
            .transpose()?;
        vcpu.set_sregs(&sregs)?;
        smm::prepare(&machine)?;
        Ok(Self {
            roots,
            hypervisor,
            bells: bells(&machine)?,
            slots: Slots::new()?,
            sregs: vcpu.sregs()?,
            machine,
            vcpu,
        })
    }

    pub fn mode(&self) -> Mode {
        self.machine.mode()
    }

    pub fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// What the guest has for guests of its own, if it can have some.
    pub fn hypervisor(&self) -> Option<&Hypervisor> {
        self.hypervisor.as_ref()
    }

    /// Makes everything what it is when a program starts; the one before has restored the rest,
    /// but may have left shadow page tables out of sync: they must be gone before a memslot comes.
    fn reset(&mut self, next: &Program) -> Result<()> {
        let changes_slots = next.host.iter().any(|op| matches!(op, HostOp::Slot(..)));
        self.slots.reset(&self.machine, changes_slots)?;
        self.machine.ram().write(RAM, &pattern(RAM_LEN, 0));
        self.machine.ram().write_u64(smm::COUNT, 0);
        self.machine.ram().write_u64(nested::COUNT, 0);
        let now = self.vcpu.sregs()?;
        if (now.cr0, now.cr3) != (self.sregs.cr0, self.sregs.cr3) {
            self.vcpu.set_sregs(&self.sregs)?;
        }
        let fpu = kvm_fpu {
            fcw: 0x37f,
            mxcsr: 0x1f80,
            ..Default::default()
        };
        self.vcpu.fd().set_fpu(&fpu).context("KVM_SET_FPU")
    }

    /// Runs a program from a state that is always the same.
    pub fn run(&mut self, program: &Program, address: u64, rflags: u64) -> Result<Trace> {
        self.reset(program)?;
        self.machine.ram().write(address, &program.code);
        let mut regs = kvm_regs {
            rax: 0x0102_0304_0506_0708,
            rbx: 0xf1f2_f3f4_f5f6_f7f8,
            r8: 0x8899_aabb_ccdd_eeff,
            r15: !0,
            rip: address,
            rsp: layout::stack(0),
            rflags: rflags | 2,
            ..Default::default()
        };
        if !self.mode().is_long() {
            for register in [&mut regs.rax, &mut regs.rbx] {
                *register &= 0xffff_ffff;
            }
        }
        let mut host = program.host.iter();
        self.vcpu.fd().set_regs(&regs).context("KVM_SET_REGS")?;

        let mut exits = Vec::new();
        let end = loop {
            match self.vcpu.fd_mut().run() {
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
                Ok(VcpuExit::IoOut(at, _)) if at == u16::from(port::HOST) => {
                    let op = host.next().context("more exits than operations")?;
                    match op {
                        HostOp::Slot(slot, place) => {
                            self.slots.change(&self.machine, *slot, *place)?;
                        }
                        HostOp::Smi(handler) => smm::interrupt(&self.machine, &self.vcpu, handler)?,
                    }
                }
                Ok(VcpuExit::IoOut(at, _)) if at == u16::from(port::DONE) => {
                    break "done".to_owned();
                }
                Ok(VcpuExit::IoOut(at, data)) if at == u16::from(port::FAULT) => {
                    break format!("exception {}", data[0]);
                }
                Ok(VcpuExit::IoOut(at, data)) if at == u16::from(port::REPORT) => {
                    let code = u32::from_le_bytes(data.try_into()?);
                    break format!("exit code {code:#x} of L2");
                }
                Ok(other) => break format!("{other:?}"),
                Err(e) if matches!(e.errno(), libc::EINTR | libc::EAGAIN) => {}
                Err(e) => return Err(e).context("KVM_RUN"),
            }
            if exits.len() > MAX_EXITS {
                break "endless".to_owned();
            }
        };
        let fd = self.vcpu.fd();
        let regs = fd.get_regs().context("KVM_GET_REGS")?;
        let xmm = fd.get_fpu().context("KVM_GET_FPU")?.xmm;
        let sregs = self.vcpu.sregs()?;
        let rings = self
            .bells
            .iter()
            .map(Doorbell::rings)
            .collect::<Result<_>>()?;
        Ok(Trace {
            exits,
            end,
            regs,
            control: [sregs.cr0, sregs.cr3],
            xmm,
            slots: self.slots.contents(&self.machine)?,
            ram: self.machine.ram().read(RAM, RAM_LEN as usize),
            rings,
            smis: self.machine.ram().read_u64(smm::COUNT),
            l2s: self.machine.ram().read_u64(nested::COUNT),
        })
    }
}

/// Where KVM has a shortcut for wildcards there are others in their place: it takes reads for
/// writes, which the extension does not, see `doorbell_wildcard_read`.
fn bells(machine: &Machine) -> Result<Vec<Doorbell>> {
    let wildcard = if Modes::detect()?.fast_wildcard() {
        Match::Len(4)
    } else {
        Match::Any
    };
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
        bell(page, 16, wildcard)?;
    }
    bell(12, 0, wildcard)?;
    Ok(bells)
}

/// What the `count`-th exit, a read, is answered with.
fn answer(gpa: u64, count: u64) -> u64 {
    (gpa ^ count << 40 ^ count)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(29)
}
