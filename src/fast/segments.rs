// SPDX-License-Identifier: GPL-2.0

//! Whether 32-bit code is for the fast path: its segments must be flat.

use crate::{
    fast::fetch::event,
    kvm::Mode,
    pure::{
        code_address::CodeAddress,
        decode::CodeKind, //
    },
    report::stats::Event,
    state::Vcpu, //
};

/// To look at segments takes some 200 instructions. Where they are not flat, one look in so many
/// accesses is less than a hundredth of what those cost in the emulator.
const FIRM: u8 = 16;

/// The mode of the 32-bit code that the vCPU runs, if it is for the fast path.
///
/// # Errors
///
/// Why not, or why the instruction was refused a short time ago: then nothing is found out.
#[inline(always)]
pub(crate) fn flat_mode(vcpu: &Vcpu<'_>, mode: Mode) -> Result<Mode, Event> {
    // Of flat code KVM's shortcut for zero-length ioeventfds must not do anything, so where there
    // are some each access is looked at.
    if !vcpu.fetch_cache().segments.gives_way() && !vcpu.has_wildcards() {
        return Err(Event::RefusedContext);
    }
    look(vcpu, mode)
}

#[cold]
#[inline(never)]
fn look(vcpu: &Vcpu<'_>, mode: Mode) -> Result<Mode, Event> {
    if !vcpu.runs_plain_32_bit_code(mode) {
        return Err(Event::RefusedContext);
    }
    let cache = vcpu.fetch_cache();
    let place = CodeAddress::new(vcpu.rip(), CodeKind::Flat);
    if let Some(reason) = cache.refused.find(place.key()) {
        return Err(event(reason));
    }
    vcpu.with_flat_segments(mode).ok_or_else(|| {
        cache.segments.renew(FIRM);
        Event::RefusedContext
    })
}
