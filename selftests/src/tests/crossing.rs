// SPDX-License-Identifier: GPL-2.0
//! Stores over the end of a page that meet an ioeventfd in one of the pages: KVM looks for one with
//! each piece of the store, from wherever the piece is in the value (f1edbed787ba: a BUG_ON).

use anyhow::Result;
use iced_x86::code_asm as asm;
use kvm_bindings::kvm_regs;

use crate::expect_eq;
use crate::guest::layout::SCRATCH;
use crate::guest::{Bus, Event, Machine, Match, Mode, PAGE, Vcpu};

const PROVES: &str = "f1edbed787ba: each piece of a store that crosses a page signals just the \
    ioeventfd that it matches, and userspace gets the rest";

crate::test_table! {
    crossing_doorbell_first: PROVES => doorbells(Half::First),
    crossing_doorbell_second: PROVES => doorbells(Half::Second),
}

/// Where the doorbell is: where the store begins, or at the start of the next page.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Half {
    First,
    Second,
}

const DATA: [u8; 16] = *b"\x11\x22\x33\x44\x55\x66\x77\x88abcdefgh";

/// Of the sizes of a store: MOV of up to 8 bytes, and MOVUPS.
const SIZES: [usize; 4] = [2, 4, 8, 16];

fn value_of(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// A store of the first `size` bytes of [`DATA`], `split` of them in front of the boundary.
#[derive(Clone, Copy, Debug)]
struct Store {
    size: usize,
    split: usize,
}

impl Store {
    fn all() -> impl Iterator<Item = Self> {
        SIZES
            .into_iter()
            .flat_map(|size| (1..size).map(move |split| Self { size, split }))
    }

    fn run(self, machine: &Machine, vcpu: &mut Vcpu) -> Result<Vec<Event>> {
        let gva = machine.gva(2) - self.split as u64;
        if self.size <= 8 {
            return vcpu.write(gva, self.size as u8, value_of(&DATA[..self.size]));
        }
        machine.ram().write(SCRATCH, &DATA);
        let regs = kvm_regs {
            rdi: gva,
            rsi: SCRATCH,
            ..Default::default()
        };
        let run = vcpu.exec(regs, |a| {
            a.movups(asm::xmm0, asm::xmmword_ptr(asm::rsi))?;
            a.movups(asm::xmmword_ptr(asm::rdi), asm::xmm0)
        })?;
        run.done()
    }

    /// Where its halves go, and what they write.
    fn halves(self, machine: &Machine) -> [(u64, &'static [u8]); 2] {
        let data = &DATA[..self.size];
        let first = machine.gpa(1) + PAGE - self.split as u64;
        [
            (first, &data[..self.split]),
            (machine.gpa(2), &data[self.split..]),
        ]
    }

    /// What KVM looks for on the bus at the start of one half, if a doorbell can have that length.
    fn piece(self, machine: &Machine, half: Half) -> Option<(u64, &'static [u8])> {
        let (gpa, data) = self.halves(machine)[half as usize];
        let piece = &data[..data.len().min(8)];
        piece.len().is_power_of_two().then_some((gpa, piece))
    }

    /// The exits, if the doorbell has taken the piece at the start of `rung`.
    fn exits(self, machine: &Machine, rung: Option<Half>) -> Vec<Event> {
        let halves = [Half::First, Half::Second].into_iter();
        halves
            .zip(self.halves(machine))
            .flat_map(|(half, (gpa, data))| {
                let taken = if rung == Some(half) {
                    data.len().min(8)
                } else {
                    0
                };
                let rest = data[taken..].chunks(8);
                (gpa + taken as u64..)
                    .step_by(8)
                    .zip(rest)
                    .map(|(gpa, data)| Event::write(gpa, data.len(), value_of(data)))
            })
            .collect()
    }
}

/// Every store that has a piece which a doorbell can take, with each kind of doorbell.
fn doorbells(half: Half) -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    for page in [1, 2] {
        vcpu.touch(machine.gva(page), machine.gpa(page), 4)?;
    }
    let mut taken = 0;
    for store in Store::all() {
        let Some((gpa, piece)) = store.piece(&machine, half) else {
            continue;
        };
        let (len, value) = (piece.len() as u32, value_of(piece));
        let kinds = [
            (Match::Data { len, value }, true),
            (
                Match::Data {
                    len,
                    value: value ^ 1 << (8 * len - 1),
                },
                false,
            ),
            (Match::Len(len), true),
        ];
        for (kind, rings) in kinds {
            let mut bell = machine.doorbell(Bus::Mmio(gpa), kind)?;
            for _ in 0..2 {
                let exits = store.exits(&machine, rings.then_some(half));
                expect_eq!(store.run(&machine, &mut vcpu)?, exits, "{store:?} {kind:?}");
                expect_eq!(bell.rings()?, u64::from(rings), "{store:?} {kind:?}");
            }
            bell.remove(machine.vm())?;
            taken += 1;
        }
    }
    // 1, 2 or 4 bytes in the half, as far as the store goes; with 16 there can also be 8 to 15.
    expect_eq!(taken, 3 * (1 + 2 + 3 + 3 + 8));
    Ok(())
}
