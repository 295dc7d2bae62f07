// SPDX-License-Identifier: GPL-2.0

//! Reading the instruction at RIP, without a walk of page tables if its page was walked to before.
//!
//! What a page of code depends on is remembered ([`code_page`](crate::pure::code_page)), and so is what
//! an instruction does ([`insns`](crate::insns)). Each time the entries of the guest's page tables
//! and the bytes at RIP are read again; only if nothing at all has changed the instruction that was
//! decoded is the one at RIP. (A guest that changes an entry without INVLPG may see either
//! instruction, as on a processor that has the old one in its TLB, and with KVM's emulator.) Where
//! the processor reports the bytes that it has fetched, they need only be compared.

use crate::{
    generation::MemslotGeneration,
    insns::{bytes_left, in_a_row, CodePage, KnownInsn},
    kvm::{has_pse, levels, AssistBytes, Code, Mode, Pte, Purpose, MAX_LEVELS},
    pure::{
        code_address::CodeAddress,
        code_page::{self, Context},
        decode::{decode, CodeKind, MAX_LENGTH},
        guest_walk::{first_read, walk, Tables},
        plan::Plan,
        refused::Reason, //
    },
    report::stats::Event,
    state::Vcpu, //
};
use kernel::prelude::*;

const _: () = assert!(MAX_LENGTH == AssistBytes::MAX);

/// Where the instruction at RIP is.
#[inline(always)]
fn place(vcpu: &Vcpu<'_>, mode: Mode) -> CodeAddress {
    let kind = if mode.is_flat() {
        CodeKind::Flat
    } else {
        CodeKind::Long
    };
    CodeAddress::new(vcpu.rip(), kind)
}

/// What the translation of `place` depends on now.
#[inline(always)]
fn context(
    vcpu: &Vcpu<'_>,
    mode: Mode,
    place: CodeAddress,
    generation: MemslotGeneration,
) -> Context {
    Context {
        root: if mode.is_flat() {
            vcpu.flat_root(place.gva())
        } else {
            vcpu.cr3()
        },
        cpu_role: vcpu.cpu_role(),
        generation,
        user: mode.is_user(),
    }
}

/// What the instruction at RIP does, if it is still the one that was read there. The vCPU runs code
/// that the fast path takes, `mode` says which; `generation` is that of the memslots now.
///
/// # Errors
///
/// Why it was refused a short time ago, `None` if none was read or if it has changed.
#[inline(always)]
pub(crate) fn known_plan<'a>(
    vcpu: &'a Vcpu<'_>,
    mode: Mode,
    assist: AssistBytes<'_>,
    generation: MemslotGeneration,
) -> Result<&'a Plan, Option<Event>> {
    let place = place(vcpu, mode);
    let cache = vcpu.fetch_cache();
    let Some(insn) = cache.find(place) else {
        return Err(cache.refused.find(place.key()).map(event));
    };

    let holds = match assist.words(insn.length()) {
        Some(words) => insn.is_executed(words),
        None => cache
            .page(place, &context(vcpu, mode, place, generation))
            .is_some_and(|page| page.has(insn)),
    };
    if holds {
        Ok(&insn.plan)
    } else {
        Err(None)
    }
}

/// Why the instruction at RIP was refused a short time ago, if it was. `mode` says which code it is.
pub(super) fn was_refused(vcpu: &Vcpu<'_>, mode: Mode) -> Option<Event> {
    let place = place(vcpu, mode);
    vcpu.fetch_cache().refused.find(place.key()).map(event)
}

fn event(reason: Reason) -> Event {
    match reason {
        Reason::Insn => Event::RefusedInsn,
        Reason::Fetch => Event::RefusedFetch,
    }
}

/// Reads and decodes the instruction at RIP, or tells why that is not to be. Under the same
/// conditions as [`known_plan`].
pub(crate) fn fetch(vcpu: &mut Vcpu<'_>, mode: Mode, assist: AssistBytes<'_>) -> Result<(), Event> {
    let generation = vcpu.memslots_generation();
    // Nobody can tell which memslots an instruction is read from while they change.
    if generation.update_in_progress() {
        return Err(Event::RefusedContext);
    }

    let place = place(vcpu, mode);
    // Those that are cut off where the next page cannot be read may not be all of it.
    if let Some(words) = assist.words(1) {
        if remember(vcpu, place, in_a_row(words), assist.len()) {
            return Ok(());
        }
        if assist.len() == MAX_LENGTH {
            return refuse(vcpu, place, Reason::Insn);
        }
    }

    let left = bytes_left(place);
    match read(vcpu, place, context(vcpu, mode, place, generation)) {
        Read::Bytes(bytes) if remember(vcpu, place, bytes, left) => Ok(()),
        // There may be more of it in another page.
        Read::Bytes(_) if left < MAX_LENGTH => refuse(vcpu, place, Reason::Fetch),
        Read::Bytes(_) => refuse(vcpu, place, Reason::Insn),
        Read::Nothing => refuse(vcpu, place, Reason::Fetch),
        Read::NotNow => Err(Event::RefusedFetch),
    }
}

/// Refuses an instruction, and the next times without looking.
fn refuse(vcpu: &Vcpu<'_>, place: CodeAddress, reason: Reason) -> Result<(), Event> {
    vcpu.fetch_cache().refused.insert(place.key(), reason);
    Err(event(reason))
}

/// What there is to read at RIP.
enum Read {
    Bytes([u64; 2]),
    /// No code in the VM's memory, or none that may be executed.
    Nothing,
    /// It is not looked at, as others are looked at more often, or it is just being changed.
    NotNow,
}

/// Reads the code at `place` as far as it is in its page, with a walk of the page tables unless that
/// is known.
fn read(vcpu: &mut Vcpu<'_>, place: CodeAddress, context: Context) -> Read {
    if let Some(page) = vcpu.fetch_cache().page(place, &context) {
        if let Some(bytes) = page.read(place) {
            return Read::Bytes(bytes);
        }
    // Otherwise `find_page()` has asked.
    } else if vcpu.fetch_cache().find(place).is_none() {
        if let Some(bytes) = read_elsewhere(vcpu, place, context) {
            return Read::Bytes(bytes);
        }
    }

    let index = code_page::place(place.page(), context.root);
    let there = &vcpu.fetch_cache().pages[index];
    // What is of the past needs no place.
    let in_use =
        there.context.generation == context.generation && !there.is(place.page(), &context);
    if in_use && !there.hold.gives_way() {
        return Read::NotNow;
    }
    let Some(page) = walk_to(vcpu, place, context) else {
        return Read::Nothing;
    };
    let bytes = page.read(place);
    vcpu.fetch_cache_mut().insert(page);
    // What is just being changed may be there next time.
    bytes.map_or(Read::NotNow, Read::Bytes)
}

/// Finds the page of an instruction that is known, where that takes no walk. Returns whether it has, and
/// [`known_plan`] is to be asked again. Under the same conditions as that; interrupts may be off.
#[cold]
#[inline(never)]
pub(crate) fn find_page(
    vcpu: &mut Vcpu<'_>,
    mode: Mode,
    assist: AssistBytes<'_>,
    generation: MemslotGeneration,
) -> bool {
    let place = place(vcpu, mode);
    let Some(insn) = vcpu.fetch_cache().find(place) else {
        return false;
    };
    // What the processor tells needs no page.
    if assist.words(insn.length()).is_some() {
        return false;
    }
    let context = context(vcpu, mode, place, generation);
    // If it is known, it is the instruction that has changed.
    vcpu.fetch_cache().page(place, &context).is_none()
        && read_elsewhere(vcpu, place, context).is_some()
}

/// Reads the code at `place` if its page was walked to by way of another root, and the entry of this one
/// is the same: processes share the tables of their kernel.
fn read_elsewhere(vcpu: &mut Vcpu<'_>, place: CodeAddress, context: Context) -> Option<[u64; 2]> {
    let walked = vcpu.fetch_cache().walked(place, &context)?;
    if !walked.hold.gives_way() {
        return None;
    }
    let entry = first_read(context.root, tables(&context), place.gva())?;
    let root = Pte::read(vcpu.user_pointer(entry)?)?;
    let found = walked
        .by_root(context, root)
        .and_then(|page| page.read(place).map(|bytes| (page, bytes)));
    let Some((page, bytes)) = found else {
        walked.hold.renew(code_page::FOREIGN);
        return None;
    };
    vcpu.fetch_cache_mut().insert_found(page);
    Some(bytes)
}

/// What the guest's page tables look like.
fn tables(context: &Context) -> Tables {
    Tables::new(levels(context.cpu_role), has_pse(context.cpu_role))
}

/// Decodes the first `valid` bytes of what was read, and remembers the result. Returns whether it
/// is an instruction for the fast path.
fn remember(vcpu: &mut Vcpu<'_>, place: CodeAddress, bytes: [u64; 2], valid: usize) -> bool {
    let all = bytes.map(u64::to_le_bytes);
    let Some(access) = decode(&all.as_flattened()[..valid], place.kind()) else {
        return false;
    };
    let length = usize::from(access.length);

    let plan = Plan::new(&access, place);
    *vcpu.fetch_cache_mut().entry_mut(place) = KnownInsn::new(place, bytes, length, plan);
    true
}

/// Walks the page tables to the code at `place`. `None` if it is not in the VM's memory or may not
/// be executed.
fn walk_to(vcpu: &mut Vcpu<'_>, place: CodeAddress, context: Context) -> Option<CodePage> {
    let gva = place.gva();
    let mut ptes = [None; MAX_LEVELS];
    let mut read = ptes.iter_mut();
    let walked = walk(context.root, tables(&context), gva, |gpa| {
        let pte = Pte::read(vcpu.user_pointer(gpa)?)?;
        *read.next()? = Some(pte);
        Some(pte.value())
    })?;
    // KVM's walk knows the rules. It comes second: entries that change before it are found to have
    // changed when the code is read, those that change after it are other entries.
    if vcpu.translate(gva, Purpose::Fetch, context.user)? != walked {
        return None;
    }
    let code = vcpu.user_pointer(walked.page())?;

    let code = Code::new(code, ptes)?;
    Some(CodePage::new(place.page(), context, code))
}
