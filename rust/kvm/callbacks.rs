// SPDX-License-Identifier: GPL-2.0

//! The callbacks that KVM calls, of any extension.
//!
//! C header: [`arch/x86/include/asm/kvm_mmio_ext.h`](srctree/arch/x86/include/asm/kvm_mmio_ext.h),
//! which the kernel patch adds: it says in which context each is called, which is what the `SAFETY`
//! comments go by.

use super::{
    addr::{Gfn, Gpa, Gva},
    exit_info::{AssistBytes, Exit, Mode, PageFault},
    ext::{Emulated, MmioExt},
    generation::MemslotGeneration,
    host::{PageTables, VendorInit},
    mmio_info::MmioInfo,
    srcu::{IrqsOff, Srcu},
    vcpu::Vcpu, //
};
use core::ffi::c_void;
use kernel::{
    ffi::{c_int, c_uint, c_ulong},
    prelude::*, //
};
use kvm_bindings as bindings;

type RawVcpu = *mut bindings::kvm_vcpu;

/// All callbacks, those of the module `owner`.
pub(crate) fn callbacks<T: MmioExt>(owner: *mut bindings::module) -> bindings::kvm_mmio_ext_ops {
    bindings::kvm_mmio_ext_ops {
        owner,
        set_spte_mask: Some(set_spte_mask::<T>),
        check_spte_mask: Some(check_spte_mask::<T>),
        ept_misconfig: Some(ept_misconfig::<T>),
        npf: Some(npf::<T>),
        shadow_fault: Some(shadow_fault::<T>),
        write_fault: Some(write_fault::<T>),
        ring: Some(ring::<T>),
        page_fault: Some(page_fault::<T>),
        cache_info: Some(cache_info::<T>),
        clear_info: Some(clear_info::<T>),
        make_spte: Some(make_spte::<T>),
        sync_spte: Some(sync_spte::<T>),
        zap_spte: Some(zap_spte::<T>),
        generation_wrapped: Some(generation_wrapped::<T>),
        vcpu_free: Some(vcpu_free::<T>),
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
unsafe extern "C" fn set_spte_mask<T: MmioExt>(
    kind: bindings::kvm_mmio_spte_kind,
    enc_bit: u8,
) -> bool {
    // SAFETY: KVM holds `vendor_module_lock` until this returns.
    let init = unsafe { VendorInit::assume() };

    match page_tables(kind, enc_bit) {
        Some(tables) => {
            T::set_spte_mask(&init, tables);
            true
        }
        None => false,
    }
}

/// # Safety
///
/// `vendor_module_lock` must be held.
unsafe extern "C" fn check_spte_mask<T: MmioExt>(
    kind: bindings::kvm_mmio_spte_kind,
    enc_bit: u8,
) -> c_int {
    // SAFETY: KVM holds `vendor_module_lock` until this returns.
    let init = unsafe { VendorInit::assume() };
    let checked = page_tables(kind, enc_bit)
        .ok_or(EINVAL)
        .and_then(|tables| T::check_spte_mask(&init, tables));

    match checked {
        Ok(()) => 0,
        Err(error) => error.to_errno(),
    }
}

/// Enters the context of a vCPU that KVM hands to a callback.
///
/// # Safety
///
/// As for [`Vcpu::enter`], with `kvm->srcu` held for `'a`; the vCPU's state must be a
/// `T::VcpuState`.
#[inline(always)]
pub(crate) unsafe fn enter<'a, T: MmioExt>(vcpu: RawVcpu) -> Option<Vcpu<'a, T::VcpuState>> {
    // SAFETY: The caller is in the vCPU's thread, with its mutex and `kvm->srcu` held.
    unsafe { Vcpu::enter(vcpu, Srcu::assume_held()) }
}

/// Runs an exit handler, unless the vCPU's state cannot be had.
///
/// # Safety
///
/// As for [`enter`]; the caller must be able to sleep.
#[inline(always)]
unsafe fn handle_exit<T: MmioExt>(
    vcpu: RawVcpu,
    handler: impl FnOnce(&mut Vcpu<'_, T::VcpuState>) -> Exit,
) -> c_int {
    // SAFETY: The caller is in the vCPU's thread, with its mutex and `kvm->srcu` held.
    let exit = match unsafe { enter::<T>(vcpu) } {
        Some(mut vcpu) => handler(&mut vcpu),
        None => Exit::PASS,
    };
    exit.raw()
}

/// The same for a fault, with what the processor tells of the instruction.
///
/// # Safety
///
/// As for [`handle_exit`] and [`AssistBytes::new`].
#[inline(always)]
unsafe fn handle_fault<T: MmioExt>(
    vcpu: RawVcpu,
    insn: *mut c_void,
    insn_len: c_int,
    handler: impl FnOnce(&mut Vcpu<'_, T::VcpuState>, AssistBytes<'_>) -> Exit,
) -> c_int {
    // SAFETY: `insn` is null or points to 15 bytes, by the caller; they are used only until this
    // returns.
    let insn = unsafe { AssistBytes::new(insn, insn_len) };
    // SAFETY: The caller is in the vCPU's thread, with its mutex and `kvm->srcu` held, and may
    // sleep.
    unsafe { handle_exit::<T>(vcpu, |vcpu| handler(vcpu, insn)) }
}

/// # Safety
///
/// As for [`handle_exit`].
unsafe extern "C" fn ept_misconfig<T: MmioExt>(
    vcpu: RawVcpu,
    gpa: bindings::gpa_t,
    flags: u32,
) -> c_int {
    // SAFETY: KVM handles an exit, in the vCPU's thread with its mutex and `kvm->srcu` held.
    unsafe {
        handle_exit::<T>(vcpu, |vcpu| {
            T::ept_misconfig(vcpu, Gpa(gpa), Mode::new(flags))
        })
    }
}

/// # Safety
///
/// As for [`handle_fault`].
unsafe extern "C" fn npf<T: MmioExt>(
    vcpu: RawVcpu,
    gpa: bindings::gpa_t,
    error_code: u64,
    insn: *mut c_void,
    insn_len: c_int,
    flags: u32,
) -> c_int {
    // SAFETY: KVM handles an exit, in the vCPU's thread with its mutex and `kvm->srcu` held, and
    // passes none or 15 bytes that stay until this returns.
    unsafe {
        handle_fault::<T>(vcpu, insn, insn_len, |vcpu, insn| {
            T::npf(vcpu, Gpa(gpa), error_code, insn, Mode::new(flags))
        })
    }
}

/// # Safety
///
/// As for [`handle_fault`].
unsafe extern "C" fn shadow_fault<T: MmioExt>(
    vcpu: RawVcpu,
    gva: bindings::gva_t,
    error_code: u64,
    insn: *mut c_void,
    insn_len: c_int,
    flags: u32,
) -> c_int {
    // SAFETY: KVM handles an exit, in the vCPU's thread with its mutex and `kvm->srcu` held, and
    // passes none or 15 bytes that stay until this returns.
    unsafe {
        handle_fault::<T>(vcpu, insn, insn_len, |vcpu, insn| {
            T::shadow_fault(vcpu, Gva(gva as u64), error_code, insn, Mode::new(flags))
        })
    }
}

/// # Safety
///
/// As for [`handle_fault`].
unsafe extern "C" fn write_fault<T: MmioExt>(
    vcpu: RawVcpu,
    gpa: bindings::gpa_t,
    error_code: u64,
    insn: *mut c_void,
    insn_len: c_int,
    flags: u32,
) -> c_int {
    // SAFETY: KVM handles an exit, in the vCPU's thread with its mutex and `kvm->srcu` held, and
    // passes none or 15 bytes that stay until this returns.
    unsafe {
        handle_fault::<T>(vcpu, insn, insn_len, |vcpu, insn| {
            T::write_fault(vcpu, Gpa(gpa), error_code, insn, Mode::new(flags))
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
unsafe extern "C" fn ring<T: MmioExt>(
    vcpu: RawVcpu,
    gpa: bindings::gpa_t,
    error_code: u64,
    insn: *mut c_void,
    insn_len: c_int,
) -> c_ulong {
    let gpa = Gpa(gpa);
    // SAFETY: The vCPU is alive, and its thread holds its mutex.
    match unsafe { Vcpu::<T::VcpuState>::state_of(vcpu) } {
        Some(state) if T::may_ring(state, gpa) => (),
        _ => return 0,
    }
    // SAFETY: This is the vCPU's thread right after an exit; there is state, and the bytes are what
    // KVM passes.
    unsafe { ring_with_state::<T>(vcpu, gpa, error_code, insn, insn_len) }
}

/// Not a part of the function above, which most exits pass through in vain and where nothing has
/// to be saved for them.
///
/// # Safety
///
/// As for [`ring`], and [`Vcpu::has_state`] must hold.
#[inline(never)]
unsafe fn ring_with_state<T: MmioExt>(
    vcpu: RawVcpu,
    gpa: Gpa,
    error_code: u64,
    insn: *mut c_void,
    insn_len: c_int,
) -> c_ulong {
    // SAFETY: The vCPU is alive, and this is its own thread after an exit.
    let (irqs_off, flags) = unsafe { IrqsOff::enter(vcpu) };
    // SAFETY: The vCPU is alive, and this is its own thread; it has state. KVM passes none or 15
    // bytes that stay until this returns.
    let next_rip = unsafe {
        let insn = AssistBytes::new(insn, insn_len);
        T::ring(
            &mut Vcpu::enter_with_state(vcpu, irqs_off.srcu()),
            gpa,
            error_code,
            insn,
            Mode::new(flags),
        )
    };
    next_rip.map_or(0, |rip| rip.get() as c_ulong)
}

/// What KVM calls as `handle_mmio_page_fault()`. Returns `RET_PF_EMULATE`, `RET_PF_INVALID`,
/// `RET_PF_RETRY` or a negative errno as that does, or `RET_PF_CONTINUE` if the vCPU's state cannot
/// be had.
///
/// # Safety
///
/// As for [`enter`]; the caller must be able to sleep.
pub(crate) unsafe extern "C" fn page_fault<T: MmioExt>(
    vcpu: RawVcpu,
    addr: u64,
    direct: bool,
) -> c_int {
    // SAFETY: KVM handles a fault, in the vCPU's thread with its mutex and `kvm->srcu` held.
    let Some(mut vcpu) = (unsafe { enter::<T>(vcpu) }) else {
        return bindings::RET_PF_CONTINUE as c_int;
    };

    match T::page_fault(&mut vcpu, addr, direct) {
        Ok(PageFault::Retry) => bindings::RET_PF_RETRY as c_int,
        Ok(PageFault::Emulate) => bindings::RET_PF_EMULATE as c_int,
        Ok(PageFault::Invalid) => bindings::RET_PF_INVALID as c_int,
        Err(error) => error.to_errno(),
    }
}

/// # Safety
///
/// As for [`enter`]; the caller must be able to sleep.
unsafe extern "C" fn cache_info<T: MmioExt>(
    vcpu: RawVcpu,
    gva: bindings::gva_t,
    gfn: bindings::gfn_t,
    access: c_uint,
) {
    // SAFETY: KVM handles a fault, in the vCPU's thread with its mutex and `kvm->srcu` held.
    let Some(mut vcpu) = (unsafe { enter::<T>(vcpu) }) else {
        return;
    };
    let info = MmioInfo {
        gva: Gva(gva as u64),
        gfn: Gfn(gfn),
        access,
        generation: vcpu.memslots_generation(),
    };
    T::cache_info(&mut vcpu, info);
}

/// # Safety
///
/// As for [`Vcpu::state_of_mut`].
unsafe extern "C" fn clear_info<T: MmioExt>(vcpu: RawVcpu, gva: bindings::gva_t) {
    let all = gva as u64 == bindings::MMIO_EXT_GVA_ANY as u64;
    let gva = (!all).then_some(Gva(gva as u64));
    // SAFETY: KVM calls this of vCPUs that have state only, in their threads.
    T::clear_info(unsafe { Vcpu::state_of_mut(vcpu) }, gva);
}

/// Sees an access of the emulator.
///
/// # Safety
///
/// As for [`enter`]; the caller must be able to sleep. `flags` must be of
/// `enum kvm_mmio_ext_access`.
#[inline(always)]
pub(crate) unsafe fn see_access<T: MmioExt>(
    vcpu: RawVcpu,
    flags: c_ulong,
    gpa: bindings::gpa_t,
    len: c_uint,
) {
    // SAFETY: KVM emulates, in the vCPU's thread with its mutex and `kvm->srcu` held.
    if let Some(mut vcpu) = unsafe { enter::<T>(vcpu) } {
        T::see_access(&mut vcpu, Gpa(gpa), Emulated::new(flags, len));
    }
}

/// The same for when only heat is on: there is little to do as a rule.
///
/// # Safety
///
/// As for [`see_access`].
#[inline(always)]
pub(crate) unsafe fn record_access<T: MmioExt>(
    vcpu: RawVcpu,
    flags: c_ulong,
    gpa: bindings::gpa_t,
    len: c_uint,
) {
    let gfn = Gpa(gpa).gfn();
    let flags = flags & (Emulated::WRITE | Emulated::USERSPACE);
    let access = Emulated::new(flags, len);
    // SAFETY: KVM emulates, in the vCPU's thread with its mutex and `kvm->srcu` held.
    unsafe {
        if len == 0 || !record_access_quickly::<T>(vcpu, gfn, access) {
            see_access_slowly::<T>(vcpu, flags, gpa, len);
        }
    }
}

/// Returns whether it is done.
///
/// # Safety
///
/// As for [`enter`], but for sleeping.
#[inline(always)]
unsafe fn record_access_quickly<T: MmioExt>(vcpu: RawVcpu, gfn: Gfn, access: Emulated) -> bool {
    // SAFETY: This is the vCPU's thread, with its mutex and `kvm->srcu` held; `enter_with_state()`
    // is called only if `has_state()` said so.
    unsafe {
        Vcpu::<T::VcpuState>::has_state(vcpu)
            && T::record_quickly(
                &mut Vcpu::enter_with_state(vcpu, Srcu::assume_held()),
                gfn,
                access,
            )
    }
}

/// Whatever it takes. Nothing of the caller's has to be kept for that.
///
/// # Safety
///
/// As for [`see_access`].
#[cold]
#[inline(never)]
unsafe fn see_access_slowly<T: MmioExt>(
    vcpu: RawVcpu,
    flags: c_ulong,
    gpa: bindings::gpa_t,
    len: c_uint,
) {
    // SAFETY: KVM emulates, in the vCPU's thread with its mutex and `kvm->srcu` held.
    unsafe { see_access::<T>(vcpu, flags, gpa, len) };
}

/// # Safety
///
/// As for [`enter`], but for sleeping.
unsafe extern "C" fn make_spte<T: MmioExt>(
    vcpu: RawVcpu,
    gfn: bindings::gfn_t,
    access: c_uint,
) -> u64 {
    // SAFETY: KVM handles a fault, in the vCPU's thread with its mutex and `kvm->srcu` held.
    match unsafe { Vcpu::enter_atomic(vcpu, Srcu::assume_held()) } {
        Some(vcpu) => T::make_spte(&vcpu, Gfn(gfn), access),
        None => 0,
    }
}

/// # Safety
///
/// As for [`enter`], but for sleeping.
unsafe extern "C" fn sync_spte<T: MmioExt>(
    vcpu: RawVcpu,
    spte: u64,
    gfn: bindings::gfn_t,
    access: c_uint,
) -> u64 {
    // SAFETY: KVM syncs page tables in the vCPU's thread, with its mutex and `kvm->srcu` held.
    match unsafe { Vcpu::enter_atomic(vcpu, Srcu::assume_held()) } {
        Some(vcpu) => T::sync_spte(&vcpu, spte, Gfn(gfn), access),
        None => 0,
    }
}

/// # Safety
///
/// None; the function is safe to call, but its type is given.
unsafe extern "C" fn zap_spte<T: MmioExt>(_kvm: *mut bindings::kvm, spte: u64) {
    T::zap_spte(spte);
}

/// # Safety
///
/// `kvm` must point to a live VM.
unsafe extern "C" fn generation_wrapped<T: MmioExt>(
    kvm: *mut bindings::kvm,
    generation: u64,
) -> c_int {
    // SAFETY: The VM is alive: it is one of its ioctls that changes memslots.
    let spaces = unsafe { bindings::mmio_ext_nr_address_spaces(kvm) };

    if T::generation_wrapped(MemslotGeneration(generation), spaces) {
        1
    } else {
        -1
    }
}

/// # Safety
///
/// As for [`Vcpu::free_state`].
unsafe extern "C" fn vcpu_free<T: MmioExt>(vcpu: RawVcpu) {
    // SAFETY: KVM calls this of vCPUs that have state only, when nobody else knows them any more.
    unsafe { Vcpu::<T::VcpuState>::free_state(vcpu) };
}

/// The C type of `gva_t` is that of a pointer.
const _: () = assert!(size_of::<bindings::gva_t>() == size_of::<c_ulong>());
