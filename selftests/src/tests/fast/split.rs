// SPDX-License-Identifier: GPL-2.0
//! Accesses over the end of a page, where both pages are MMIO: each piece is an exit, and KVM
//! keeps what is left. Each KVM_RUN is on a thread of its own, so that the stack on which the
//! access began is gone (CVE-2026-31588).

use std::thread;

use anyhow::Result;
use iced_x86::IcedError;
use iced_x86::code_asm::{self as asm, CodeAssembler};
use kvm_bindings::kvm_regs;

use super::ways::each_way;
use crate::expect_eq;
use crate::guest::layout::SCRATCH;
use crate::guest::paging::SUPERVISOR;
use crate::guest::{Event, Machine, Mode, PAGE, Vcpu, pattern};

const PIECES: &str = "page crossings: every piece of an access has its address and its data, \
    whichever threads run the vCPU meanwhile";

crate::test_table! {
    fast_split_store_threads: PIECES => stores(),
    fast_split_load_threads: PIECES => loads(),
}

/// A store of the first bytes of [`DATA`] to the address in RDI; PUSH gets it as RSP, less 8.
struct Store {
    name: &'static str,
    size: usize,
    program: fn(&mut CodeAssembler) -> Result<(), IcedError>,
}

const STORES: &[Store] = &[
    Store {
        name: "mov",
        size: 8,
        program: |a| a.mov(asm::qword_ptr(asm::rdi), asm::rax),
    },
    // The emulator has the value on its stack.
    Store {
        name: "push",
        size: 8,
        program: |a| a.push(asm::rax),
    },
    Store {
        name: "movups",
        size: 16,
        program: |a| {
            a.movups(asm::xmm0, asm::xmmword_ptr(asm::rsi))?;
            a.movups(asm::xmmword_ptr(asm::rdi), asm::xmm0)
        },
    },
];

const DATA: [u8; 16] = *b"\x11\x22\x33\x44\x55\x66\x77\x88abcdefgh";

/// An access of `size` bytes, `split` of them in front of the boundary of two pages.
#[derive(Clone, Copy, Debug)]
struct Crossing {
    size: usize,
    split: usize,
}

/// All crossings of that size, twice: the second time there are MMIO SPTEs.
fn crossings(size: usize) -> impl Iterator<Item = Crossing> {
    let once = move || (1..size).map(move |split| Crossing { size, split });
    once().chain(once())
}

impl Crossing {
    fn gva(&self, machine: &Machine) -> u64 {
        machine.gva(2) - self.split as u64
    }

    /// Its pieces of up to 8 bytes: where each is for the host, and which bytes.
    fn pieces(&self, machine: &Machine) -> Vec<(u64, std::ops::Range<usize>)> {
        let first = machine.gpa(1) + PAGE - self.split as u64;
        [
            (first, 0..self.split),
            (machine.gpa(9), self.split..self.size),
        ]
        .into_iter()
        .flat_map(|(gpa, bytes)| {
            let end = bytes.end;
            bytes.clone().step_by(8).map(move |at| {
                let gpa = gpa + (at - bytes.start) as u64;
                (gpa, at..end.min(at + 8))
            })
        })
        .collect()
    }
}

/// Neighbours for the guest, apart for the host.
fn machine() -> Result<(Machine, Vcpu)> {
    let (machine, vcpu) = Machine::with_vcpu(Mode::Long)?;
    machine
        .tables()
        .map(machine.gva(2), machine.gpa(9), SUPERVISOR);
    Ok((machine, vcpu))
}

/// Runs to the end of the program, from each event to the next on a new thread.
fn run_on_threads(mut vcpu: Vcpu) -> Result<(Vcpu, Vec<Event>)> {
    let mut events = Vec::new();
    loop {
        let (back, event) = thread::spawn(move || vcpu.step().map(|event| (vcpu, event)))
            .join()
            .expect("the thread does not panic")?;
        vcpu = back;
        match event {
            Some(event) => events.push(event),
            None => return Ok((vcpu, events)),
        }
    }
}

fn stores() -> Result<()> {
    each_way(|_| {
        let (machine, mut vcpu) = machine()?;
        machine.ram().write(SCRATCH, &DATA);
        for store in STORES {
            let program = vcpu.load(store.program)?;
            for crossing in crossings(store.size) {
                let gva = crossing.gva(&machine);
                let regs = kvm_regs {
                    rdi: gva,
                    rsi: SCRATCH,
                    rsp: gva + 8,
                    rax: machine.ram().read_u64(SCRATCH),
                    ..Default::default()
                };
                vcpu.start(regs, program)?;
                let (back, events) = run_on_threads(vcpu)?;
                vcpu = back;
                let want: Vec<Event> = crossing
                    .pieces(&machine)
                    .into_iter()
                    .map(|(gpa, bytes)| Event::Write {
                        gpa,
                        data: DATA[bytes].to_vec(),
                    })
                    .collect();
                expect_eq!(events, want, "{}, {crossing:?}", store.name);
            }
        }
        Ok(())
    })
}

fn loads() -> Result<()> {
    each_way(|_| {
        let (machine, mut vcpu) = machine()?;
        let program = vcpu.load(|a| {
            a.movups(asm::xmm0, asm::xmmword_ptr(asm::rdi))?;
            a.movups(asm::xmmword_ptr(asm::rsi), asm::xmm0)
        })?;
        for crossing in crossings(DATA.len()) {
            let regs = kvm_regs {
                rdi: crossing.gva(&machine),
                rsi: SCRATCH,
                ..Default::default()
            };
            vcpu.start(regs, program)?;
            let (back, events) = run_on_threads(vcpu)?;
            vcpu = back;
            let pieces = crossing.pieces(&machine);
            let exits: Vec<Event> = pieces
                .iter()
                .map(|(gpa, bytes)| Event::read(*gpa, bytes.len()))
                .collect();
            expect_eq!(events, exits, "{crossing:?}");
            let value: Vec<u8> = pieces
                .iter()
                .flat_map(|(gpa, bytes)| (*gpa..).take(bytes.len()).map(pattern))
                .collect();
            expect_eq!(
                machine.ram().read(SCRATCH, DATA.len()),
                value,
                "{crossing:?}"
            );
        }
        Ok(())
    })
}
