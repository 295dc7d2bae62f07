// SPDX-License-Identifier: GPL-2.0
//! Running a few instructions on a vCPU.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use iced_x86::IcedError;
use iced_x86::code_asm::{self as asm, AsmMemoryOperand, AsmRegister32, CodeAssembler};
use kvm_bindings::{kvm_regs, kvm_sregs};
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::layout::{self, port};
use super::{Event, Fault, Mode, PAGE, Region, cpu, pattern, pattern_value};
use crate::host;

/// RFLAGS with only its always-one bit.
const RFLAGS: u64 = 1 << 1;

/// Code is placed at multiples of this.
const CODE_ALIGN: u64 = 16;

/// What happened until the program ended.
#[derive(Clone, Debug)]
pub struct Run {
    pub events: Vec<Event>,
    /// The general registers at the end.
    pub regs: kvm_regs,
}

impl Run {
    /// The events, after making sure that no exception ended the program.
    pub fn done(self) -> Result<Vec<Event>> {
        if let Some(Event::Fault(fault)) = self.events.last() {
            bail!("unexpected exception {fault:?} after {:?}", self.events);
        }
        Ok(self.events)
    }
}

/// A memory operand of no size at the first data register (RDI or EDI) plus `offset`.
pub fn operand(mode: Mode, offset: i32) -> AsmMemoryOperand {
    if mode.is_long() {
        asm::rdi + offset
    } else {
        asm::edi + offset
    }
}

pub struct Vcpu {
    fd: VcpuFd,
    id: u64,
    mode: Mode,
    ram: Arc<Region>,
    /// Where the next program goes.
    next_code: u64,
    /// Programs that are in the guest already; they never change.
    programs: HashMap<Vec<u8>, u64>,
    /// Whether the ring of coalesced writes is mapped.
    coalesces: bool,
}

impl Vcpu {
    pub(super) fn new(
        fd: VcpuFd,
        id: u64,
        mode: Mode,
        ram: Arc<Region>,
        root: u64,
    ) -> Result<Self> {
        let vcpu = Self {
            fd,
            id,
            mode,
            ram,
            next_code: layout::code(id),
            programs: HashMap::new(),
            coalesces: false,
        };
        vcpu.change_sregs(|sregs| cpu::set_sregs(sregs, mode, id, root))?;
        Ok(vcpu)
    }

    pub fn fd(&self) -> &VcpuFd {
        &self.fd
    }

    /// For callers that run the vCPU by themselves.
    pub fn fd_mut(&mut self) -> &mut VcpuFd {
        &mut self.fd
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    pub fn sregs(&self) -> Result<kvm_sregs> {
        self.fd.get_sregs().context("KVM_GET_SREGS")
    }

    pub fn set_sregs(&self, sregs: &kvm_sregs) -> Result<()> {
        let mut sregs = *sregs;
        // VMX enters a guest only with a busy task-state segment. SVM does not care, but QEMU as an
        // AMD takes exceptions from 32-bit user mode only through one that is not busy: 10.0 ends.
        const BUSY: u8 = 1 << 1;
        if host::parameter("kvm_amd", "npt").is_some() {
            sregs.tr.type_ &= !BUSY;
        }
        self.fd.set_sregs(&sregs).context("KVM_SET_SREGS")
    }

    pub fn change_sregs(&self, change: impl FnOnce(&mut kvm_sregs)) -> Result<()> {
        let mut sregs = self.sregs()?;
        change(&mut sregs);
        self.set_sregs(&sregs)
    }

    /// Takes the last page of the address space out of the data segment, as a guest may that
    /// protects itself by segments.
    pub fn limit_data_segment(&self) -> Result<()> {
        self.change_sregs(|sregs| sregs.ds.limit = u32::MAX - PAGE as u32)
    }

    /// Puts a program into the guest, followed by the report that it is done, and returns its
    /// address.
    pub fn load(
        &mut self,
        program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    ) -> Result<u64> {
        let mut a = CodeAssembler::new(self.mode.bits())?;
        program(&mut a)?;
        a.out(i32::from(port::DONE), asm::al)?;
        let code = a.assemble(self.next_code)?;
        if let Some(address) = self.programs.get(&code) {
            return Ok(*address);
        }
        let address = self.next_code;
        let end = address + code.len() as u64;
        ensure!(
            end <= layout::code_end(self.id),
            "no room for code up to {end:#x}"
        );
        self.ram.write(address, &code);
        self.next_code = end.next_multiple_of(CODE_ALIGN);
        self.programs.insert(code, address);
        Ok(address)
    }

    /// Runs a program with the registers given until it is done; RIP, RSP (when 0) and RFLAGS
    /// are set here. No system register is touched, so nothing that KVM caches is dropped.
    pub fn exec(
        &mut self,
        regs: kvm_regs,
        program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    ) -> Result<Run> {
        let address = self.load(program)?;
        self.start(regs, address)?;
        let mut events = Vec::new();
        while let Some(event) = self.step()? {
            let end = matches!(event, Event::Fault(_));
            events.push(event);
            if end {
                break;
            }
        }
        let regs = self.fd.get_regs().context("KVM_GET_REGS")?;
        Ok(Run { events, regs })
    }

    /// Makes the vCPU start at `address`, a program from [`Self::load`].
    pub fn start(&mut self, regs: kvm_regs, address: u64) -> Result<()> {
        let rsp = if regs.rsp == 0 {
            layout::stack(self.id)
        } else {
            regs.rsp
        };
        self.fd
            .set_regs(&kvm_regs {
                rip: address,
                rsp,
                rflags: RFLAGS,
                ..regs
            })
            .context("KVM_SET_REGS")
    }

    /// Runs until the next event; None: the program is done.
    pub fn step(&mut self) -> Result<Option<Event>> {
        loop {
            let exit = match self.fd.run() {
                Ok(exit) => exit,
                Err(e) if matches!(e.errno(), libc::EINTR | libc::EAGAIN) => continue,
                Err(e) => return Err(e).context("KVM_RUN"),
            };
            match exit {
                VcpuExit::MmioWrite(gpa, data) => {
                    return Ok(Some(Event::Write {
                        gpa,
                        data: data.to_vec(),
                    }));
                }
                VcpuExit::MmioRead(gpa, data) => {
                    for (gpa, byte) in (gpa..).zip(data.iter_mut()) {
                        *byte = pattern(gpa);
                    }
                    return Ok(Some(Event::Read {
                        gpa,
                        len: data.len(),
                    }));
                }
                VcpuExit::IoOut(at, data) if at == u16::from(port::REPORT) => {
                    let mut value = [0; 4];
                    value[..data.len()].copy_from_slice(data);
                    return Ok(Some(Event::Report(u32::from_le_bytes(value))));
                }
                VcpuExit::IoOut(at, _) if at == u16::from(port::DONE) => return Ok(None),
                VcpuExit::IoOut(at, data) if at == u16::from(port::FAULT) => {
                    let vector = data[0];
                    return Ok(Some(Event::Fault(self.fault(vector)?)));
                }
                other => {
                    let exit = format!("{other:?}");
                    let regs = self.fd.get_regs();
                    bail!("unexpected exit {exit}, registers {regs:x?}");
                }
            }
        }
    }

    /// Maps the ring of coalesced writes, for [`Self::coalesced_write`]; [`Self::run_to_end`]
    /// then empties it.
    pub fn map_coalesced_ring(&mut self) -> Result<()> {
        self.fd
            .map_coalesced_mmio_ring()
            .context("mapping the ring of coalesced writes")?;
        self.coalesces = true;
        Ok(())
    }

    /// Runs until the program is done, answering every access with as little work as possible:
    /// for measuring. MMIO and port reads get 0. A ring of coalesced writes is emptied when a
    /// write comes that did not fit.
    pub fn run_to_end(&mut self) -> Result<()> {
        const DONE: u16 = port::DONE as u16;
        const FAULT: u16 = port::FAULT as u16;
        loop {
            match self.fd.run() {
                Ok(VcpuExit::MmioWrite(..)) => self.empty_coalesced_ring()?,
                Ok(VcpuExit::MmioRead(_, data) | VcpuExit::IoIn(_, data)) => data.fill(0),
                Ok(VcpuExit::Hlt) => {}
                Ok(VcpuExit::IoOut(DONE, _)) => return Ok(()),
                Ok(VcpuExit::IoOut(FAULT, data)) => {
                    let vector = data[0];
                    bail!("unexpected exception {:?}", self.fault(vector)?);
                }
                Ok(VcpuExit::IoOut(..)) => self.empty_coalesced_ring()?,
                Ok(other) => bail!("unexpected exit {other:?}"),
                Err(e) if matches!(e.errno(), libc::EINTR | libc::EAGAIN) => {}
                Err(e) => return Err(e).context("KVM_RUN"),
            }
        }
    }

    fn empty_coalesced_ring(&mut self) -> Result<()> {
        if self.coalesces {
            while self.coalesced_write()?.is_some() {}
        }
        Ok(())
    }

    /// Takes the oldest write out of the ring of coalesced writes.
    pub fn coalesced_write(&mut self) -> Result<Option<Event>> {
        let write = self.fd.coalesced_mmio_read().context("coalesced writes")?;
        Ok(write.map(|write| Event::Write {
            gpa: write.phys_addr,
            data: write.data[..write.len as usize].to_vec(),
        }))
    }

    fn fault(&self, vector: u8) -> Result<Fault> {
        let regs = self.fd.get_regs().context("KVM_GET_REGS")?;
        let size = if self.mode.is_long() { 8 } else { 4 };
        let error_code = if cpu::has_error_code(vector) {
            let bytes = self.ram.read(regs.rsp, size);
            bytes
                .iter()
                .rev()
                .fold(0, |value, byte| value << 8 | u64::from(*byte))
        } else {
            0
        };
        Ok(Fault {
            vector,
            error_code,
            cr2: self.sregs()?.cr2,
        })
    }

    /// Back to kernel mode after a program that ended in user mode. Sets system registers.
    pub fn leave_user_mode(&self) -> Result<()> {
        self.change_sregs(|sregs| cpu::set_kernel_segments(sregs, self.mode))
    }

    /// Writes the low `size` bytes of `value` by one MOV.
    pub fn write(&mut self, gva: u64, size: u8, value: u64) -> Result<Vec<Event>> {
        let regs = kvm_regs {
            rdi: gva,
            rax: value,
            ..Default::default()
        };
        self.exec(regs, mov_to_memory(self.mode, size))
            .and_then(Run::done)
    }

    /// Stores to so many bytes one after another, by one instruction.
    pub fn fill(&mut self, gva: u64, bytes: u64) -> Result<()> {
        let regs = kvm_regs {
            rdi: gva,
            rcx: bytes,
            ..Default::default()
        };
        self.exec(regs, |a| a.rep().stosb())
            .and_then(Run::done)
            .map(drop)
    }

    /// Runs a MOV that reads `size` bytes up to its exit: KVM completes it when it runs again.
    pub fn begin_read(&mut self, gva: u64, size: u8) -> Result<Option<Event>> {
        let regs = kvm_regs {
            rdi: gva,
            ..Default::default()
        };
        let program = self.load(mov_from_memory(self.mode, size))?;
        self.start(regs, program)?;
        self.step()
    }

    /// Reads `size` bytes by one MOV into a register that was 0.
    pub fn read(&mut self, gva: u64, size: u8) -> Result<(u64, Vec<Event>)> {
        let regs = kvm_regs {
            rdi: gva,
            ..Default::default()
        };
        let run = self.exec(regs, mov_from_memory(self.mode, size))?;
        let value = run.regs.rax;
        Ok((value, run.done()?))
    }

    /// Reads `size` bytes of MMIO at `gva` and checks the exit and the value: the usual way to
    /// touch a page `gpa`.
    pub fn touch(&mut self, gva: u64, gpa: u64, size: u8) -> Result<()> {
        let (value, events) = self.read(gva, size)?;
        let (want, exit) = (
            pattern_value(gpa, size.into()),
            Event::read(gpa, size.into()),
        );
        ensure!(
            value == want && events == [exit.clone()],
            "read of {size} bytes at gva {gva:#x}: value {value:#x}, events {events:?}; \
             wanted {want:#x}, [{exit:?}]"
        );
        Ok(())
    }
}

/// `mov [di], a` of `size` bytes.
pub fn mov_to_memory(
    mode: Mode,
    size: u8,
) -> impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError> {
    move |a| {
        let at = operand(mode, 0);
        match size {
            1 => a.mov(asm::byte_ptr(at), asm::al),
            2 => a.mov(asm::word_ptr(at), asm::ax),
            4 => a.mov(asm::dword_ptr(at), asm::eax),
            _ => a.mov(asm::qword_ptr(at), asm::rax),
        }
    }
}

/// `mov a, [di]` of `size` bytes.
pub fn mov_from_memory(
    mode: Mode,
    size: u8,
) -> impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError> {
    move |a| {
        let at = operand(mode, 0);
        match size {
            1 => a.mov(asm::al, asm::byte_ptr(at)),
            2 => a.mov(asm::ax, asm::word_ptr(at)),
            4 => a.mov(asm::eax, asm::dword_ptr(at)),
            _ => a.mov(asm::rax, asm::qword_ptr(at)),
        }
    }
}

/// `mov cr3, si`: the root in the second data register (RSI or ESI).
pub fn load_cr3(a: &mut CodeAssembler, mode: Mode) -> Result<(), IcedError> {
    if mode.is_long() {
        a.mov(asm::cr3, asm::rsi)
    } else {
        a.mov(asm::cr3, asm::esi)
    }
}

/// Writes the low half of the page table entry at RDX (EDX). All pages of guests are below 4 GiB.
pub fn store_entry(
    a: &mut CodeAssembler,
    mode: Mode,
    entry: AsmRegister32,
) -> Result<(), IcedError> {
    if mode.is_long() {
        a.mov(asm::dword_ptr(asm::rdx), entry)
    } else {
        a.mov(asm::dword_ptr(asm::edx), entry)
    }
}

/// Changes bits of CR0 through EAX or RAX.
pub fn change_cr0(
    a: &mut CodeAssembler,
    mode: Mode,
    clear: u64,
    set: u64,
) -> Result<(), IcedError> {
    if mode.is_long() {
        a.mov(asm::rax, asm::cr0)?;
    } else {
        a.mov(asm::eax, asm::cr0)?;
    }
    // Writes to EAX clear the upper half of RAX, which CR0 has no use for.
    a.and(asm::eax, !clear as u32)?;
    a.or(asm::eax, set as u32)?;
    if mode.is_long() {
        a.mov(asm::cr0, asm::rax)
    } else {
        a.mov(asm::cr0, asm::eax)
    }
}

/// Reports EAX.
pub fn report(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.out(i32::from(port::REPORT), asm::eax)
}
