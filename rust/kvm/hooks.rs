// SPDX-License-Identifier: GPL-2.0

//! The callbacks that KVM calls, and their registration.
//!
//! C header: `arch/x86/include/asm/kvm_mmio_ext.h`, which the kernel patch adds.

use super::{
    host::VendorInit,
    irqs_off::IrqsOff,
    vcpu::{AssistBytes, Exit, Mode, PageFault, Vcpu}, //
};
use crate::{
    addr::{Gfn, Gpa, Gva},
    arch_init::{check_mmio_spte_mask, kvm_mmu_set_mmio_spte_mask, PageTables},
    exit::{handle_ept_misconfig, npf_interception, shadow_page_fault},
    fast::finish_load,
    fault::{self, remember_mmio_info, FaultAddress},
    generation::{MemslotGeneration, MmioGeneration},
    heat::Kind,
    info_cache::{Clear, MmioInfo},
    observe,
    ring,
    spte::Spte,
    stats::count_zap,
    sync, //
};
use core::ffi::c_void;
use kernel::{
    error::to_result,
    ffi::{c_int, c_uint, c_ulong},
    prelude::*, //
};
use kvm_bindings as bindings;

type RawVcpu = *mut bindings::kvm_vcpu;

/// The registration with kvm.ko. Dropping it takes it back.
pub(crate) struct Registration {
    ops: KBox<bindings::kvm_mmio_ext_ops>,
}

// SAFETY: The table is not changed after it was registered, and unregistering can be done from any
// thread.
unsafe impl Send for Registration {}
// SAFETY: There is nothing that can be done with a shared reference.
unsafe impl Sync for Registration {}

impl Registration {
    /// Registers the extension, switched on or off as the parameter `enabled` says.
    ///
    /// # Errors
    ///
    /// `EBUSY` if another extension is registered, `EINVAL` if the installed masks do not fit.
    pub(crate) fn new(module: &'static ThisModule) -> Result<Self> {
        let ops = KBox::new(callbacks(module.as_ptr().cast()), GFP_KERNEL)?;
        // SAFETY: The table is complete and stays where it is until it is unregistered; the
        // functions keep the contract of `struct kvm_mmio_ext_ops`.
        to_result(unsafe { bindings::mmio_ext_register(&*ops) })?;
        Ok(Self { ops })
    }

    /// What the parameter `enabled` is.
    pub(crate) fn enabled() -> bool {
        // SAFETY: A bool that the C side only ever writes 0 or 1 to; a read that races with a
        // write sees one or the other.
        unsafe { core::ptr::read_volatile(&raw const bindings::mmio_ext_enabled) }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: The table was registered. No VM exists, as each holds a reference to the module.
        unsafe { bindings::kvm_mmio_ext_unregister(&*self.ops) };
    }
}

/// All callbacks, those of the module `owner`.
pub(super) fn callbacks(owner: *mut bindings::module) -> bindings::kvm_mmio_ext_ops {
    bindings::kvm_mmio_ext_ops {
        owner,
        set_spte_mask: Some(set_spte_mask),
        check_spte_mask: Some(check_spte_mask),
        ept_misconfig: Some(ept_misconfig),
        npf: Some(npf),
        shadow_fault: Some(shadow_fault),
        ring: Some(ring),
        page_fault: Some(page_fault),
        cache_info: Some(cache_info),
        clear_info: Some(clear_info),
        make_spte: Some(make_spte),
        sync_spte: Some(sync_spte),
        zap_spte: Some(zap_spte),
        generation_wrapped: Some(generation_wrapped),
        vcpu_free: Some(vcpu_free),
    }
}

fn page_tables(kind: bindings::kvm_mmio_spte_kind, enc_bit: u8) -> Option<PageTables> {
    match kind {
        bindings::kvm_mmio_spte_kind_KVM_MMIO_SPTE_PAGING => Some(PageTables::Paging),
        bindings::kvm_mmio_spte_kind_KVM_MMIO_SPTE_EPT => Some(PageTables::Ept),
        bindings::kvm_mmio_spte_kind_KVM_MMIO_SPTE_SME => Some(PageTables::Sme(enc_bit.into())),
        _ => None,
    }
}

/// # Safety
///
/// `vendor_module_lock` must be held.
unsafe extern "C" fn set_spte_mask(kind: bindings::kvm_mmio_spte_kind, enc_bit: u8) -> bool {
    // SAFETY: By the contract of this function.
    let init = unsafe { VendorInit::assume() };

    match page_tables(kind, enc_bit) {
        Some(tables) => {
            kvm_mmu_set_mmio_spte_mask(&init, tables);
            true
        }
        None => false,
    }
}

/// # Safety
///
/// `vendor_module_lock` must be held.
unsafe extern "C" fn check_spte_mask(kind: bindings::kvm_mmio_spte_kind, enc_bit: u8) -> c_int {
    // SAFETY: By the contract of this function.
    let init = unsafe { VendorInit::assume() };
    let checked = page_tables(kind, enc_bit)
        .ok_or(EINVAL)
        .and_then(|tables| check_mmio_spte_mask(&init, tables));

    match checked {
        Ok(()) => 0,
        Err(error) => error.to_errno(),
    }
}

/// Runs an exit handler, unless the vCPU's state cannot be had.
///
/// # Safety
///
/// As for [`Vcpu::enter`]; the caller must be able to sleep.
#[inline(always)]
unsafe fn handle_exit(vcpu: RawVcpu, handler: impl FnOnce(&mut Vcpu<'_>) -> Exit) -> c_int {
    // SAFETY: By the contract of this function.
    let exit = match unsafe { Vcpu::enter(vcpu) } {
        Some(mut vcpu) => handler(&mut vcpu),
        None => Exit::PASS,
    };
    exit.raw()
}

/// # Safety
///
/// As for [`handle_exit`].
unsafe extern "C" fn ept_misconfig(vcpu: RawVcpu, gpa: bindings::gpa_t, flags: u32) -> c_int {
    // SAFETY: By the contract of this function.
    unsafe {
        handle_exit(vcpu, |vcpu| {
            handle_ept_misconfig(vcpu, Gpa(gpa), Mode::new(flags))
        })
    }
}

/// # Safety
///
/// As for [`handle_exit`] and [`AssistBytes::new`].
unsafe extern "C" fn npf(
    vcpu: RawVcpu,
    gpa: bindings::gpa_t,
    error_code: u64,
    insn: *mut c_void,
    insn_len: c_int,
    flags: u32,
) -> c_int {
    // SAFETY: By the contract of this function.
    let insn = unsafe { AssistBytes::new(insn, insn_len) };
    // SAFETY: By the contract of this function.
    unsafe {
        handle_exit(vcpu, |vcpu| {
            npf_interception(vcpu, Gpa(gpa), error_code, insn, Mode::new(flags))
        })
    }
}

/// # Safety
///
/// As for [`handle_exit`] and [`AssistBytes::new`].
unsafe extern "C" fn shadow_fault(
    vcpu: RawVcpu,
    gva: bindings::gva_t,
    error_code: u64,
    insn: *mut c_void,
    insn_len: c_int,
    flags: u32,
) -> c_int {
    // SAFETY: By the contract of this function.
    let insn = unsafe { AssistBytes::new(insn, insn_len) };
    // SAFETY: By the contract of this function.
    unsafe {
        handle_exit(vcpu, |vcpu| {
            shadow_page_fault(vcpu, Gva(gva as u64), error_code, insn, Mode::new(flags))
        })
    }
}

/// Answers a doorbell before interrupts are on again. Returns where the guest goes on, 0 if nothing
/// has happened.
///
/// # Safety
///
/// `vcpu` must point to a live vCPU in its own thread, with its mutex held, right after an exit of
/// L1; and as for [`AssistBytes::new`].
unsafe extern "C" fn ring(
    vcpu: RawVcpu,
    gpa: bindings::gpa_t,
    error_code: u64,
    insn: *mut c_void,
    insn_len: c_int,
) -> c_ulong {
    let gpa = Gpa(gpa);
    // SAFETY: The vCPU is alive and in its own thread.
    if !unsafe { Vcpu::may_ring(vcpu, gpa) } {
        return 0;
    }
    // SAFETY: By the contract of this function, and there is state: `may_ring()` has looked into
    // it.
    unsafe { ring_with_state(vcpu, gpa, error_code, insn, insn_len) }
}

/// Not a part of the function above, which most exits pass through in vain and where nothing has
/// to be saved for them.
///
/// # Safety
///
/// As for [`ring`], and [`Vcpu::has_state`] must hold.
#[inline(never)]
unsafe fn ring_with_state(
    vcpu: RawVcpu,
    gpa: Gpa,
    error_code: u64,
    insn: *mut c_void,
    insn_len: c_int,
) -> c_ulong {
    // SAFETY: The vCPU is alive, and this is its own thread after an exit.
    let (_irqs_off, mode) = unsafe { IrqsOff::enter(vcpu) };
    // SAFETY: `kvm->srcu` is held as long as `_irqs_off` lives, and there is state. The bytes are
    // the caller's.
    let next_rip = unsafe {
        let insn = AssistBytes::new(insn, insn_len);
        ring::ring(
            &mut Vcpu::enter_with_state(vcpu),
            gpa,
            error_code,
            insn,
            mode,
        )
    };
    next_rip.map_or(0, |rip| rip.get() as c_ulong)
}

/// What KVM calls as `handle_mmio_page_fault()`, for faults that did not come through one of the
/// exit handlers above (those of L2 with TDP), or that one of them hands on.
///
/// # Safety
///
/// As for [`Vcpu::enter`]; the caller must be able to sleep.
unsafe extern "C" fn page_fault(vcpu: RawVcpu, addr: u64, direct: bool) -> c_int {
    // SAFETY: By the contract of this function.
    unsafe { handle_mmio_page_fault_common(vcpu, addr, direct) }
}

/// Finds out what a page fault with a reserved bit means. Returns `RET_PF_EMULATE`,
/// `RET_PF_INVALID`, `RET_PF_RETRY` or a negative errno as KVM's `handle_mmio_page_fault()`, or
/// `RET_PF_CONTINUE` if the vCPU's state cannot be had.
///
/// # Safety
///
/// As for [`Vcpu::enter`]; the caller must be able to sleep.
#[no_mangle]
unsafe extern "C" fn handle_mmio_page_fault_common(
    vcpu: RawVcpu,
    addr: u64,
    direct: bool,
) -> c_int {
    // SAFETY: By the contract of this function.
    let Some(mut vcpu) = (unsafe { Vcpu::enter(vcpu) }) else {
        return bindings::RET_PF_CONTINUE as c_int;
    };
    let addr = FaultAddress::new(addr, direct);

    match fault::handle_mmio_page_fault(&mut vcpu, addr) {
        Ok(PageFault::Retry) => bindings::RET_PF_RETRY as c_int,
        Ok(PageFault::Emulate) => bindings::RET_PF_EMULATE as c_int,
        Ok(PageFault::Invalid) => bindings::RET_PF_INVALID as c_int,
        Err(error) => error.to_errno(),
    }
}

/// Completes a load for which userspace has provided the value. It runs whether the extension is
/// switched on or not: the access began when it was.
///
/// # Safety
///
/// As for [`Vcpu::enter`], the vCPU having state.
pub(super) unsafe extern "C" fn complete_load(vcpu: RawVcpu) -> c_int {
    // SAFETY: By the contract of this function.
    let exit = unsafe { Vcpu::enter(vcpu) }.and_then(|mut vcpu| {
        let (load, value) = vcpu.take_pending_load()?;
        Some(finish_load(&mut vcpu, load, value))
    });

    match exit {
        Some(exit) => exit.to_handler(),
        None => EIO.to_errno(),
    }
}

/// # Safety
///
/// As for [`Vcpu::enter`]; the caller must be able to sleep.
unsafe extern "C" fn cache_info(
    vcpu: RawVcpu,
    gva: bindings::gva_t,
    gfn: bindings::gfn_t,
    access: c_uint,
) {
    // SAFETY: By the contract of this function.
    let Some(mut vcpu) = (unsafe { Vcpu::enter(vcpu) }) else {
        return;
    };
    let info = MmioInfo {
        gva: Gva(gva as u64),
        gfn: Gfn(gfn),
        access,
        generation: vcpu.memslots_generation(),
    };
    remember_mmio_info(&mut vcpu, info);
}

/// # Safety
///
/// As for [`Vcpu::clear_info`].
unsafe extern "C" fn clear_info(vcpu: RawVcpu, gva: bindings::gva_t) {
    let what = if gva as u64 == bindings::MMIO_EXT_GVA_ANY as u64 {
        Clear::All
    } else {
        Clear::Page(Gva(gva as u64))
    };
    // SAFETY: By the contract of this function.
    unsafe { Vcpu::clear_info(vcpu, what) };
}

/// Sees an access of up to 8 bytes that a device in the kernel has done for KVM's emulator, or that
/// leaves for userspace.
///
/// # Safety
///
/// As for [`Vcpu::enter`]; the caller must be able to sleep. `flags` must be of
/// `enum kvm_mmio_ext_access`.
#[no_mangle]
unsafe extern "C" fn mmio_ext_see_access(
    vcpu: RawVcpu,
    flags: c_ulong,
    gpa: bindings::gpa_t,
    len: c_uint,
) {
    // SAFETY: By the contract of this function.
    if let Some(mut vcpu) = unsafe { Vcpu::enter(vcpu) } {
        observe::emulated(&mut vcpu, Gpa(gpa), emulated_kind(flags), len);
    }
}

/// The same for when only heat is on: there is little to do as a rule.
///
/// # Safety
///
/// As for [`mmio_ext_see_access`].
#[no_mangle]
unsafe extern "C" fn mmio_ext_record_access(
    vcpu: RawVcpu,
    flags: c_ulong,
    gpa: bindings::gpa_t,
    len: c_uint,
) {
    let gfn = Gpa(gpa).gfn();
    let flags = flags & (WRITE | USERSPACE);
    // SAFETY: By the contract of this function.
    unsafe {
        if !record_access_quickly(vcpu, flags, gfn, len) {
            record_access_slowly(vcpu, flags, gfn, len);
        }
    }
}

/// Returns whether it is done.
///
/// # Safety
///
/// As for [`Vcpu::enter`].
#[inline(always)]
unsafe fn record_access_quickly(vcpu: RawVcpu, flags: c_ulong, gfn: Gfn, len: c_uint) -> bool {
    // SAFETY: By the contract of this function.
    unsafe {
        let kind = emulated_kind(flags);
        Vcpu::has_state(vcpu)
            && Vcpu::enter_with_state(vcpu).record_emulated_quickly(gfn, kind, len)
    }
}

/// Whatever it takes. Nothing of the caller's has to be kept for that.
///
/// # Safety
///
/// As for [`mmio_ext_see_access`].
#[cold]
#[inline(never)]
unsafe fn record_access_slowly(vcpu: RawVcpu, flags: c_ulong, gfn: Gfn, len: c_uint) {
    // SAFETY: By the contract of this function.
    if let Some(mut vcpu) = unsafe { Vcpu::enter(vcpu) } {
        vcpu.record_emulated(gfn, emulated_kind(flags), len);
    }
}

// What C takes them for.
const _: [bindings::kvm_mmio_ext_observer_t; 2] =
    [Some(mmio_ext_see_access), Some(mmio_ext_record_access)];

const WRITE: c_ulong = bindings::kvm_mmio_ext_access_KVM_MMIO_EXT_WRITE as c_ulong;
const USERSPACE: c_ulong = bindings::kvm_mmio_ext_access_KVM_MMIO_EXT_USERSPACE as c_ulong;

#[inline(always)]
const fn emulated_kind(flags: c_ulong) -> Kind {
    Kind::emulated(flags & WRITE != 0, flags & USERSPACE != 0)
}

/// Enters the context of a vCPU that holds `mmu_lock`, where state cannot be made.
///
/// # Safety
///
/// As for [`Vcpu::enter`].
unsafe fn enter_atomic<'a>(vcpu: RawVcpu) -> Option<Vcpu<'a>> {
    // SAFETY: By the contract of this function.
    unsafe { Vcpu::has_state(vcpu).then(|| Vcpu::enter_with_state(vcpu)) }
}

/// # Safety
///
/// As for [`Vcpu::enter`].
unsafe extern "C" fn make_spte(vcpu: RawVcpu, gfn: bindings::gfn_t, access: c_uint) -> u64 {
    // SAFETY: By the contract of this function.
    match unsafe { enter_atomic(vcpu) } {
        Some(vcpu) => sync::set_mmio_spte(&vcpu, Gfn(gfn), access).0,
        None => 0,
    }
}

/// # Safety
///
/// As for [`Vcpu::enter`].
unsafe extern "C" fn sync_spte(
    vcpu: RawVcpu,
    spte: u64,
    gfn: bindings::gfn_t,
    access: c_uint,
) -> u64 {
    // SAFETY: By the contract of this function.
    match unsafe { enter_atomic(vcpu) } {
        Some(vcpu) => sync::sync_mmio_spte(&vcpu, Spte(spte), Gfn(gfn), access).0,
        None => 0,
    }
}

/// # Safety
///
/// None; the function is safe to call, but its type is given.
unsafe extern "C" fn zap_spte(_kvm: *mut bindings::kvm, _spte: u64) {
    count_zap();
}

/// # Safety
///
/// `kvm` must point to a live VM.
unsafe extern "C" fn generation_wrapped(kvm: *mut bindings::kvm, generation: u64) -> c_int {
    // SAFETY: By the contract of this function.
    let spaces = unsafe { bindings::mmio_ext_nr_address_spaces(kvm) };
    let generation: MmioGeneration = MemslotGeneration(generation).mmio();

    if generation.wrapped(spaces) {
        1
    } else {
        -1
    }
}

/// # Safety
///
/// As for [`Vcpu::free_state`].
unsafe extern "C" fn vcpu_free(vcpu: RawVcpu) {
    // SAFETY: By the contract of this function.
    unsafe { Vcpu::free_state(vcpu) };
}

/// The C type of `gva_t` is that of a pointer.
const _: () = assert!(size_of::<bindings::gva_t>() == size_of::<c_ulong>());
