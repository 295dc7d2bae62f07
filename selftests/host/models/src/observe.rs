// SPDX-License-Identifier: GPL-2.0
//! In the place of `src/observe/`: nobody looks at an access.

use crate::{
    access::{FaultAddress, MmioFault},
    addr::Gpa,
    kvm::Exit,
    report::stats::Event,
    state::Vcpu,
};

pub(crate) fn emulate(vcpu: &mut Vcpu<'_>, fault: &MmioFault<'_>) -> Exit {
    vcpu.emulate_instruction(fault)
}

pub(crate) fn emulate_refused(vcpu: &mut Vcpu<'_>, fault: &MmioFault<'_>, reason: Event) -> Exit {
    vcpu.stats().count_refused(reason, false);
    emulate(vcpu, fault)
}

pub(crate) fn wildcard(_: &mut Vcpu<'_>, _: Gpa) {}

pub(crate) fn miss(_: &Vcpu<'_>, _: FaultAddress, _: bool) {}

pub(crate) fn to_emulator(_: &Vcpu<'_>) {}

pub(crate) fn hit_left_to_kvm(vcpu: &Vcpu<'_>) {
    vcpu.stats().count(Event::CacheHit);
}
