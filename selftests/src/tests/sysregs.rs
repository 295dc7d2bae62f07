// SPDX-License-Identifier: GPL-2.0
//! The host changes registers between two accesses.

use anyhow::{Context, Result};

use crate::expect_eq;
use crate::guest::layout::SCRATCH;
use crate::guest::paging::SUPERVISOR;
use crate::guest::{Event, Machine, Mode};

const SREGS: &str = "the info cache: KVM_SET_SREGS with another root drops what was cached";
const FINISH: &str = "the exit's completion: a read that userspace answers after it rewrote \
    registers still lands in the right one";

crate::test_table! {
    sregs_new_root_long: SREGS => new_root(Mode::Long),
    sregs_new_root_legacy: SREGS => new_root(Mode::Legacy),
    sregs_same: SREGS => same(),
    read_finished_after_set_sregs: FINISH => read_finished(),
}

fn new_root(mode: Mode) -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(mode)?;
    let (gva, gpa) = (machine.gva(1), machine.gpa(1));
    let second = machine.new_tables();
    second.map(gva, SCRATCH, SUPERVISOR);
    machine.ram().write_u64(SCRATCH, 0x7777);
    let roots = [machine.tables().root(), second.root()];

    for round in 0..3 {
        vcpu.touch(gva, gpa, 4)?;
        let mut sregs = vcpu.sregs()?;
        sregs.cr3 = roots[1];
        vcpu.set_sregs(&sregs)?;
        expect_eq!(vcpu.read(gva, 4)?, (0x7777, vec![]), "round {round}");
        expect_eq!(vcpu.write(gva + 8, 4, round)?, [], "round {round}");
        expect_eq!(machine.ram().read_u64(SCRATCH + 8), round);
        sregs.cr3 = roots[0];
        vcpu.set_sregs(&sregs)?;
    }
    Ok(())
}

fn same() -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    for page in [1, 2, 1] {
        vcpu.touch(machine.gva(page), machine.gpa(page), 8)?;
        let sregs = vcpu.sregs()?;
        vcpu.set_sregs(&sregs)?;
        vcpu.touch(machine.gva(page), machine.gpa(page), 8)?;
    }
    Ok(())
}

/// KVM emulates a read in two halves, before and after the exit.
fn read_finished() -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(Mode::Long)?;
    let (gva, gpa) = (machine.gva(1), machine.gpa(1));
    vcpu.touch(gva, gpa, 4)?;
    expect_eq!(vcpu.begin_read(gva, 4)?, Some(Event::read(gpa, 4)));
    // The same values: the instruction must still be completed once.
    let sregs = vcpu.sregs()?;
    vcpu.set_sregs(&sregs)?;
    expect_eq!(vcpu.step()?, None);
    let regs = vcpu.fd().get_regs().context("KVM_GET_REGS")?;
    expect_eq!(regs.rax, crate::guest::pattern_value(gpa, 4));
    vcpu.touch(gva, gpa, 4)
}
