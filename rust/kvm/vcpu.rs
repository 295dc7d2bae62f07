// SPDX-License-Identifier: GPL-2.0

//! A vCPU in its own thread, and the state that an extension hangs off it.
//!
//! C header: [`arch/x86/include/asm/kvm_host.h`](srctree/arch/x86/include/asm/kvm_host.h), `struct
//! kvm_vcpu`.

use super::srcu::Srcu;
use core::{
    marker::PhantomData,
    ptr::{self, NonNull},
};
use kernel::{
    prelude::*,
    types::ForeignOwnable, //
};
use kvm_bindings as bindings;

/// What an extension has for each vCPU, `vcpu->arch.mmio_ext`. It is dropped with the vCPU.
pub(crate) trait VcpuState: Sized + 'static {
    /// Makes it with the first MMIO access of the vCPU `vcpu`, of the VM to which KVM has given the
    /// number `vm`, in the VM's process.
    ///
    /// # Errors
    ///
    /// KVM's C code does the work then.
    fn new(vm: u64, vcpu: u32) -> Result<KVBox<Self>>;
}

/// A vCPU, held by its own thread within `KVM_RUN` or another ioctl.
///
/// # Invariants
///
/// - `ptr` points to a vCPU that lives for `'a`, and whose `arch.mmio_ext` comes from a
///   `KVBox<S>`;
/// - the current thread is the vCPU's and holds its mutex: nobody else uses that state, nor the
///   vCPU's info cache and registers.
pub(crate) struct Vcpu<'a, S> {
    ptr: NonNull<bindings::kvm_vcpu>,
    srcu: Srcu<'a>,
    _vcpu: PhantomData<(&'a mut bindings::kvm_vcpu, &'a mut S)>,
}

impl<'a, S: VcpuState> Vcpu<'a, S> {
    /// Enters a vCPU's context. Makes the state if there is none and returns `None` if that fails;
    /// KVM's C code is then to do the work.
    ///
    /// # Safety
    ///
    /// - `ptr` must point to a vCPU that lives for `'a`, whose state, if any, is an `S`;
    /// - the caller must be in the vCPU's thread, with its mutex held, and must not use another
    ///   `Vcpu` for it during `'a`. A callback may enter while another is lent mutably to the
    ///   function of KVM that calls it: nothing is borrowed from that one then;
    /// - it must be able to sleep, unless [`Vcpu::has_state`] holds.
    #[inline(always)]
    pub(crate) unsafe fn enter(ptr: *mut bindings::kvm_vcpu, srcu: Srcu<'a>) -> Option<Self> {
        // SAFETY: The vCPU is alive, and this is its thread.
        if !unsafe { Self::has_state(ptr) } {
            // SAFETY: The vCPU is alive, this is its thread, it has no state, and the caller may
            // sleep.
            unsafe { Self::make_state(ptr) }?;
        }
        // SAFETY: The vCPU is alive, this is its thread, and state was seen or has just been made.
        Some(unsafe { Self::enter_with_state(ptr, srcu) })
    }

    /// Enters the context of a vCPU that has state. Never sleeps.
    ///
    /// # Safety
    ///
    /// As for [`Vcpu::enter`], and [`Vcpu::has_state`] must hold.
    #[inline(always)]
    pub(super) unsafe fn enter_with_state(ptr: *mut bindings::kvm_vcpu, srcu: Srcu<'a>) -> Self {
        // INVARIANT: The caller is in the vCPU's thread with its mutex held; the vCPU lives for
        // `'a`, and its state is an `S`.
        Self {
            // SAFETY: No vCPU is at address 0.
            ptr: unsafe { NonNull::new_unchecked(ptr) },
            srcu,
            _vcpu: PhantomData,
        }
    }

    /// The same if there is state. For callers that hold `mmu_lock`, where it cannot be made.
    ///
    /// # Safety
    ///
    /// As for [`Vcpu::enter`], but for sleeping.
    pub(super) unsafe fn enter_atomic(
        ptr: *mut bindings::kvm_vcpu,
        srcu: Srcu<'a>,
    ) -> Option<Self> {
        // SAFETY: The vCPU is alive, and this is its thread; there is state in the second case.
        unsafe { Self::has_state(ptr).then(|| Self::enter_with_state(ptr, srcu)) }
    }

    /// Whether the vCPU has state of the extension.
    ///
    /// # Safety
    ///
    /// `ptr` must point to a live vCPU that only the caller uses.
    #[inline(always)]
    pub(super) unsafe fn has_state(ptr: *mut bindings::kvm_vcpu) -> bool {
        // SAFETY: The vCPU is alive, and nobody else changes the pointer.
        !unsafe { (*ptr).arch.mmio_ext }.is_null()
    }

    /// # Safety
    ///
    /// As for [`Vcpu::has_state`], which must not hold.
    #[cold]
    unsafe fn make_state(ptr: *mut bindings::kvm_vcpu) -> Option<()> {
        // SAFETY: The vCPU is alive, and so is its VM; these do not change.
        let (vm, vcpu) = unsafe { ((*(*ptr).kvm).arch.mmio_ext_vm, (*ptr).vcpu_id as u32) };
        let state = S::new(vm, vcpu).ok()?;
        // SAFETY: The vCPU is alive, and nobody else changes the pointer.
        unsafe { (*ptr).arch.mmio_ext = state.into_foreign() };
        Some(())
    }

    /// Frees the state.
    ///
    /// # Safety
    ///
    /// `ptr` must point to a vCPU that has state, an `S`, and that only the caller uses.
    pub(super) unsafe fn free_state(ptr: *mut bindings::kvm_vcpu) {
        // SAFETY: The vCPU is alive; the pointer is from `into_foreign()`, and nobody has borrowed
        // from it.
        let state = unsafe { KVBox::<S>::from_foreign((*ptr).arch.mmio_ext) };
        // SAFETY: The vCPU is alive, and nobody else changes the pointer.
        unsafe { (*ptr).arch.mmio_ext = ptr::null_mut() };
        drop(state);
    }

    /// The state, if there is any. `kvm->srcu` need not be held.
    ///
    /// # Safety
    ///
    /// `ptr` must point to a live vCPU whose state, if any, is an `S`, and that only the caller uses
    /// for `'a`.
    #[inline(always)]
    pub(super) unsafe fn state_of(ptr: *mut bindings::kvm_vcpu) -> Option<&'a S> {
        // SAFETY: The vCPU is alive, and nobody else changes the pointer or the state.
        unsafe { Self::has_state(ptr).then(|| KVBox::<S>::borrow((*ptr).arch.mmio_ext)) }
    }

    /// The state of a vCPU that has it, to be changed. `kvm->srcu` need not be held.
    ///
    /// # Safety
    ///
    /// As for [`Vcpu::state_of`], and [`Vcpu::has_state`] must hold.
    pub(super) unsafe fn state_of_mut(ptr: *mut bindings::kvm_vcpu) -> &'a mut S {
        // SAFETY: The vCPU is alive, its pointer is from `into_foreign()`, and nobody else uses
        // what it points to.
        unsafe { KVBox::<S>::borrow_mut((*ptr).arch.mmio_ext) }
    }

    /// The state.
    #[inline(always)]
    pub(crate) fn state(&self) -> &S {
        // SAFETY: By the type's invariants it is an `S` that only this thread uses, and `self` is
        // borrowed.
        unsafe { KVBox::<S>::borrow((*self.arch()).mmio_ext) }
    }

    /// The same, to be changed.
    #[inline(always)]
    pub(crate) fn state_mut(&mut self) -> &mut S {
        // SAFETY: By the type's invariants the pointer is from a `KVBox<S>` that only this thread
        // uses; `self` is borrowed mutably.
        unsafe { KVBox::<S>::borrow_mut((*self.arch()).mmio_ext) }
    }
}

impl<'a, S> Vcpu<'a, S> {
    #[inline(always)]
    pub(super) fn raw(&self) -> *mut bindings::kvm_vcpu {
        self.ptr.as_ptr()
    }

    /// The architecture's part of the vCPU. Other threads use parts of it, so there must be no
    /// reference to the whole.
    #[inline(always)]
    pub(super) fn arch(&self) -> *mut bindings::kvm_vcpu_arch {
        // SAFETY: The vCPU is alive; nothing is read.
        unsafe { &raw mut (*self.raw()).arch }
    }

    /// The VM, which lives at least as long.
    #[inline(always)]
    pub(super) fn kvm(&self) -> *mut bindings::kvm {
        // SAFETY: The vCPU is alive, and never changes its VM.
        unsafe { (*self.raw()).kvm }
    }

    /// Proof that `kvm->srcu` is held.
    #[inline(always)]
    pub(super) fn srcu(&self) -> Srcu<'a> {
        self.srcu
    }
}
