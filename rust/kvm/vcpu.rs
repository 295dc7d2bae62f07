// SPDX-License-Identifier: GPL-2.0

//! A vCPU in its own thread, and the state that the extension hangs off it.
//!
//! C header: `arch/x86/include/asm/kvm_host.h`, `struct kvm_vcpu`.

use super::{
    bus::{Eventfd, IoBus},
    fetch::{self, FetchCache},
    heat::VcpuRecorder,
    hooks::complete_load,
    host::{mmio_format, tdp_enabled},
    observe::{self, VcpuId},
    registry, //
};
use crate::{
    addr::{Gfn, Gpa, Gva},
    bells::{Bells, Epoch},
    decode::{Extend, Register, MAX_LENGTH},
    doorbell::{first_device, Again, Answer, Bus, Doorbells, Write},
    exit::MmioFault,
    generation::{MemslotGeneration, MmioGeneration},
    info_cache::{Clear, InfoCache, MmioInfo},
    observe::fast as see_fast,
    plan::Plan,
    rsvd::{PageFormat, MAX_LEVEL},
    spte::{MmioFormat, Spte},
    stats::{Event, Stats, Taker}, //
};
use core::{
    ffi::c_void,
    marker::PhantomData,
    ptr::{self, NonNull},
};
use kernel::{
    ffi::c_int,
    prelude::*,
    sync::Arc, //
};
use kvm_bindings as bindings;
use pin_init::{init_zeroed, Zeroable};

const _: () = assert!(MAX_LEVEL == bindings::MMIO_EXT_ROOT_MAX_LEVEL as usize);

/// What a vCPU has of the extension, `vcpu->arch.mmio_ext`. Made with the first MMIO access.
pub(super) struct State {
    pub(super) stats: Arc<Stats>,
    id: VcpuId,
    pub(super) recorder: VcpuRecorder,
    info_cache: InfoCache,
    /// A stale MMIO SPTE was found and KVM is about to ask about it once more.
    faulting_in: bool,
    fetch_cache: FetchCache,
    doorbells: Doorbells,
    bells: Bells<Eventfd>,
    /// What a load waits for userspace to provide.
    pending_load: Option<PendingLoad>,
}

/// A load that is complete but for the value.
#[derive(Clone, Copy)]
pub(crate) struct PendingLoad {
    /// Where the operand is.
    pub(crate) gpa: Gpa,
    /// The register to load.
    pub(crate) register: Register,
    /// How.
    pub(crate) extend: Extend,
    /// Bytes of the operand.
    pub(crate) size: u8,
    /// Where to go on.
    pub(crate) next_rip: u64,
}

// SAFETY: All zero, they know nothing; they consist of integers.
unsafe impl Zeroable for InfoCache {}
// SAFETY: The same.
unsafe impl Zeroable for Doorbells {}
// SAFETY: The same; zero is `None` or `Some` of a null pointer, which nobody uses: no bus with a
// device has the generation 0.
unsafe impl Zeroable for Bells<Eventfd> {}

impl State {
    /// The state of the vCPU `vcpu` of the VM that is at `kvm`, made in the VM's process.
    fn new(kvm: usize, vcpu: u32) -> Result<KVBox<Self>> {
        let stats = Arc::init(Stats::init(), GFP_KERNEL_ACCOUNT)?;
        // Without memory C does the work, which is nothing for the kernel to warn of.
        let state = KVBox::new_uninit(GFP_KERNEL_ACCOUNT | __GFP_NOWARN)?;
        let id = registry::add(kvm, observe::tgid(), vcpu, stats.clone())?;
        // In place: it is too large for a stack. Nothing of it can fail.
        let state = state.write_init(try_init!(Self {
                stats,
                id,
                recorder <- VcpuRecorder::init(),
                info_cache <- init_zeroed(),
                faulting_in: false,
                fetch_cache <- FetchCache::init(),
                doorbells <- init_zeroed(),
                bells <- init_zeroed(),
                pending_load: None,
            }? Error))?;
        Ok(state)
    }
}

/// A vCPU, held by its own thread within `KVM_RUN` or another ioctl.
///
/// # Invariants
///
/// - `ptr` points to a vCPU that lives for `'a`, and whose `arch.mmio_ext` points to a [`State`];
/// - nobody else uses that state, nor the vCPU's info cache and registers: the vCPU's mutex is
///   held;
/// - `kvm->srcu` is held for reading, so that memslots and I/O buses stay what they are.
pub(crate) struct Vcpu<'a> {
    ptr: NonNull<bindings::kvm_vcpu>,
    _vcpu: PhantomData<&'a mut bindings::kvm_vcpu>,
}

/// What handling a VM exit ends in, in the form that KVM wants to have it:
/// `enum kvm_mmio_ext_verdict`, or a negative errno that fails `KVM_RUN`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit(c_int);

impl Exit {
    /// The extension does not handle it and nothing has happened.
    pub(crate) const PASS: Self = Self(bindings::kvm_mmio_ext_verdict_KVM_MMIO_EXT_PASS as c_int);

    /// Run the guest.
    pub(crate) const RESUME: Self =
        Self(bindings::kvm_mmio_ext_verdict_KVM_MMIO_EXT_RESUME as c_int);

    /// Exit to userspace.
    pub(crate) const USERSPACE: Self =
        Self(bindings::kvm_mmio_ext_verdict_KVM_MMIO_EXT_EXIT as c_int);

    /// Fail `KVM_RUN`.
    pub(crate) fn error(error: Error) -> Self {
        Self(error.to_errno())
    }

    /// From what a function returns that KVM uses as an exit handler.
    #[inline(always)]
    const fn from_handler(r: c_int) -> Self {
        match r {
            1.. => Self::RESUME,
            0 => Self::USERSPACE,
            _ => Self(r),
        }
    }

    /// What such a function returns, of an exit that was handled.
    pub(super) const fn to_handler(self) -> c_int {
        match self {
            Self::USERSPACE => 0,
            Self(verdict) => verdict,
        }
    }

    /// The form that KVM wants to have.
    #[inline(always)]
    pub(super) const fn raw(self) -> c_int {
        self.0
    }
}

/// What handling a page fault ends in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageFault {
    /// `RET_PF_RETRY`: run the guest, it may fault again.
    Retry,
    /// `RET_PF_EMULATE`: emulate the instruction.
    Emulate,
    /// `RET_PF_INVALID`: fault the page in.
    Invalid,
}

/// The bytes of an instruction as the processor reports them with an exit (AMD's decode assists,
/// APM volume 2, section 15.8.4): 15 as a rule, fewer where the next page cannot be read, none if
/// the code cannot be read at all. What is behind them is of an earlier exit.
///
/// # Invariants
///
/// `bytes` is null, or valid for reads of [`MAX_LENGTH`] bytes for `'a`.
#[derive(Clone, Copy)]
pub(crate) struct AssistBytes<'a> {
    bytes: *mut c_void,
    len: c_int,
    _bytes: PhantomData<&'a [u8; MAX_LENGTH]>,
}

impl AssistBytes<'_> {
    /// None.
    pub(crate) const NONE: Self = Self {
        bytes: ptr::null_mut(),
        len: 0,
        _bytes: PhantomData,
    };

    /// The first `len` bytes are those of the instruction and of what follows it.
    ///
    /// # Safety
    ///
    /// `bytes` must be null, or valid for reads of [`MAX_LENGTH`] bytes as long as the value lives.
    #[inline(always)]
    pub(super) unsafe fn new(bytes: *mut c_void, len: c_int) -> Self {
        // INVARIANT: The caller promises it.
        Self {
            bytes,
            len,
            _bytes: PhantomData,
        }
    }

    /// How many bytes are those of the instruction or follow it, at most [`MAX_LENGTH`].
    pub(super) fn len(&self) -> usize {
        usize::try_from(self.len).unwrap_or(0).min(MAX_LENGTH)
    }

    /// The bytes 0 to 7 and 7 to 14, if there are at least `wanted`, from 1 to [`MAX_LENGTH`].
    /// Those from [`AssistBytes::len`] on mean nothing.
    #[inline(always)]
    pub(super) fn words(&self, wanted: u64) -> Option<[u64; 2]> {
        if self.bytes.is_null() || i64::from(self.len) < wanted as i64 {
            return None;
        }
        let bytes = self.bytes.cast::<u8>();
        // SAFETY: By the type's invariant, as 7 + 8 is `MAX_LENGTH`.
        Some(unsafe {
            [
                bytes.cast::<u64>().read_unaligned(),
                bytes.add(7).cast::<u64>().read_unaligned(),
            ]
        })
    }
}

const _: () = assert!(MAX_LENGTH == 15);

/// What the processor was doing when it took an exit, `enum kvm_mmio_ext_flags`.
#[derive(Clone, Copy)]
pub(crate) struct Mode(u32);

impl Mode {
    pub(super) const fn new(flags: u32) -> Self {
        Self(flags)
    }

    /// Whether the processor has said where the next instruction is.
    #[inline(always)]
    pub(crate) const fn can_skip(self) -> bool {
        self.0 & bindings::kvm_mmio_ext_flags_KVM_MMIO_EXT_CAN_SKIP != 0
    }

    /// Whether CS is that of 64-bit code, RFLAGS.TF is clear and the instruction at RIP can be read:
    /// neither is memory encrypted nor does an enclave run.
    ///
    /// RFLAGS.RF says nothing: a VM exit by an EPT misconfiguration or a page fault saves it as 1,
    /// so that the instruction does not meet its own breakpoint again if it is resumed (Intel SDM
    /// volume 3, "Saving RIP, RSP, RFLAGS, and SSP"). That breakpoint has been looked at before the
    /// fault, see `kvm_vcpu_check_code_breakpoint()`; retiring clears RF.
    #[inline(always)]
    const fn is_plain_64_bit(self) -> bool {
        const CS_L: u32 = bindings::kvm_mmio_ext_flags_KVM_MMIO_EXT_CS_L;
        const TF: u32 = bindings::kvm_mmio_ext_flags_KVM_MMIO_EXT_TF;
        const NO_FETCH: u32 = bindings::kvm_mmio_ext_flags_KVM_MMIO_EXT_NO_FETCH;
        self.0 & (CS_L | TF | NO_FETCH) == CS_L
    }

    /// Whether RFLAGS.AC is set.
    #[inline(always)]
    const fn alignment_checked(self) -> bool {
        self.0 & bindings::kvm_mmio_ext_flags_KVM_MMIO_EXT_AC != 0
    }

    /// Whether the CPL is 3.
    #[inline(always)]
    pub(super) const fn is_user(self) -> bool {
        self.0 & bindings::kvm_mmio_ext_flags_KVM_MMIO_EXT_USER != 0
    }
}

/// The entries that a walk of the shadow page tables has come by, from the root to the leaf.
pub(crate) struct ShadowWalk {
    /// Indexed by level; 4 KiB pages are at level 1.
    sptes: [u64; MAX_LEVEL + 1],
    /// The levels of root and leaf; a leaf of -1 if there is no root.
    root: c_int,
    leaf: c_int,
}

impl ShadowWalk {
    /// The last entry, which maps a page or nothing. `None` if there are no page tables.
    pub(crate) fn leaf(&self) -> Option<Spte> {
        self.entries().last().map(|(_, spte)| spte)
    }

    /// The entries with their levels, from the root to the leaf.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (usize, Spte)> + '_ {
        // An empty range if the leaf is -1.
        let levels = if self.leaf < 0 {
            0..0
        } else {
            self.leaf as usize..(self.root as usize + 1).min(self.sptes.len())
        };
        levels.rev().map(|level| (level, Spte(self.sptes[level])))
    }
}

impl<'a> Vcpu<'a> {
    /// The error code of a page fault that is due to a reserved bit.
    pub(crate) const PFERR_RSVD: u64 = bindings::MMIO_EXT_PFERR_RSVD;

    /// The bit of an error code that tells a write.
    pub(crate) const PFERR_WRITE: u64 = bindings::MMIO_EXT_PFERR_WRITE;

    /// Whether the extension handles page faults with this error code.
    pub(crate) const fn takes_error_code(error_code: u64) -> bool {
        error_code & !bindings::MMIO_EXT_PFERR_TAKEN == 0
    }

    /// Enters a vCPU's context. Makes the extension's state if there is none and returns `None`
    /// if that fails; KVM's C code is then to do the work.
    ///
    /// # Safety
    ///
    /// - `ptr` must point to a vCPU that lives for `'a`;
    /// - the caller must be in the vCPU's thread, with its mutex and `kvm->srcu` held, and must
    ///   not use another `Vcpu` for it during `'a`. A callback may enter while another is lent
    ///   mutably to the function of KVM that calls it: nothing is borrowed from that one then;
    /// - it must be able to sleep, unless [`Vcpu::has_state`] holds.
    #[inline(always)]
    pub(super) unsafe fn enter(ptr: *mut bindings::kvm_vcpu) -> Option<Self> {
        // SAFETY: The caller promises that the vCPU is alive.
        if !unsafe { Self::has_state(ptr) } {
            // SAFETY: The same, and nobody else uses the state.
            unsafe { Self::make_state(ptr) }?;
        }
        // SAFETY: By the contract of this function, and the state was seen or made above.
        Some(unsafe { Self::enter_with_state(ptr) })
    }

    /// Enters the context of a vCPU that has state. Never sleeps.
    ///
    /// # Safety
    ///
    /// As for [`Vcpu::enter`], and [`Vcpu::has_state`] must hold.
    #[inline(always)]
    pub(super) unsafe fn enter_with_state(ptr: *mut bindings::kvm_vcpu) -> Self {
        // INVARIANT: By the contract of this function.
        Self {
            // SAFETY: The same; no vCPU is at address 0.
            ptr: unsafe { NonNull::new_unchecked(ptr) },
            _vcpu: PhantomData,
        }
    }

    /// Whether the vCPU has state of the extension.
    ///
    /// # Safety
    ///
    /// `ptr` must point to a live vCPU that only the caller uses.
    #[inline(always)]
    pub(super) unsafe fn has_state(ptr: *mut bindings::kvm_vcpu) -> bool {
        // SAFETY: By the contract of this function.
        !unsafe { (*ptr).arch.mmio_ext }.is_null()
    }

    /// # Safety
    ///
    /// As for [`Vcpu::has_state`], which must not hold.
    #[cold]
    unsafe fn make_state(ptr: *mut bindings::kvm_vcpu) -> Option<()> {
        // SAFETY: By the contract of this function.
        let (kvm, vcpu) = unsafe { ((*ptr).kvm as usize, (*ptr).vcpu_id as u32) };
        let state = State::new(kvm, vcpu).ok()?;
        // SAFETY: By the contract of this function.
        unsafe { (*ptr).arch.mmio_ext = KVBox::into_raw(state).cast() };
        Some(())
    }

    /// Frees the state.
    ///
    /// # Safety
    ///
    /// `ptr` must point to a vCPU that has state and that only the caller uses.
    pub(super) unsafe fn free_state(ptr: *mut bindings::kvm_vcpu) {
        // SAFETY: The vCPU is alive, and the pointer came from `KVBox::into_raw()`.
        let state = unsafe { KVBox::from_raw((*ptr).arch.mmio_ext.cast::<State>()) };
        // SAFETY: The vCPU is alive.
        unsafe { (*ptr).arch.mmio_ext = ptr::null_mut() };
        registry::remove(&state.stats);
    }

    /// Forgets virtual addresses in the info cache.
    ///
    /// # Safety
    ///
    /// As for [`Vcpu::free_state`]. `kvm->srcu` need not be held.
    pub(super) unsafe fn clear_info(ptr: *mut bindings::kvm_vcpu, what: Clear) {
        // SAFETY: By the contract of this function; the pointer came from `KVBox::into_raw()`.
        let state = unsafe { &mut *(*ptr).arch.mmio_ext.cast::<State>() };
        state.info_cache.clear(what);
        state.stats.count(Event::CacheCleared);
    }

    #[inline(always)]
    pub(super) fn raw(&self) -> *mut bindings::kvm_vcpu {
        self.ptr.as_ptr()
    }

    /// The architecture's part of the vCPU. Other threads use parts of it, so there must be no
    /// reference to the whole.
    #[inline(always)]
    pub(super) fn arch(&self) -> *mut bindings::kvm_vcpu_arch {
        // SAFETY: The vCPU is alive.
        unsafe { &raw mut (*self.raw()).arch }
    }

    /// The MMU in use.
    #[inline(always)]
    fn mmu(&self) -> *mut bindings::kvm_mmu {
        // SAFETY: The vCPU is alive and in its own thread; the pointer is that of one of its MMUs.
        unsafe { (*self.arch()).mmu }
    }

    #[inline(always)]
    pub(super) fn state(&self) -> &State {
        // SAFETY: By the type's invariants.
        unsafe { &*(*self.arch()).mmio_ext.cast() }
    }

    /// The vCPU's counters.
    #[inline(always)]
    pub(crate) fn stats(&self) -> &Stats {
        &self.state().stats
    }

    /// How the vCPU is named where it is seen.
    pub(crate) fn id(&self) -> VcpuId {
        self.state().id
    }

    #[inline(always)]
    pub(super) fn state_mut(&mut self) -> &mut State {
        // SAFETY: By the type's invariants, and `self` is borrowed mutably.
        unsafe { &mut *(*self.arch()).mmio_ext.cast() }
    }

    /// The extension's info cache.
    #[inline(always)]
    pub(crate) fn info_cache(&self) -> &InfoCache {
        &self.state().info_cache
    }

    /// The same, to be changed.
    pub(crate) fn info_cache_mut(&mut self) -> &mut InfoCache {
        &mut self.state_mut().info_cache
    }

    /// Whether [`Vcpu::fault_in`] has just been called.
    pub(crate) fn take_faulting_in(&mut self) -> bool {
        core::mem::take(&mut self.state_mut().faulting_in)
    }

    /// The page in KVM's own info cache.
    #[inline(always)]
    pub(crate) fn last_mmio_info(&self) -> MmioInfo {
        let arch = self.arch();
        // SAFETY: The vCPU is alive, and only its thread uses these fields.
        unsafe {
            MmioInfo {
                gva: Gva((*arch).mmio_gva),
                gfn: Gfn((*arch).mmio_gfn),
                access: (*arch).mmio_access,
                generation: MemslotGeneration((*arch).mmio_gen),
            }
        }
    }

    /// Puts a page into KVM's own info cache, where the emulator looks.
    #[inline(always)]
    pub(crate) fn set_last_mmio_info(&self, info: MmioInfo) {
        let arch = self.arch();
        // SAFETY: The vCPU is alive, and only its thread uses these fields.
        unsafe {
            (*arch).mmio_gva = info.gva.0;
            (*arch).mmio_gfn = info.gfn.0;
            // As `vcpu_cache_mmio_info()`: MMIO SPTEs have no room to say that they are readable.
            (*arch).mmio_access = info.access | bindings::MMIO_EXT_ACC_READ;
            (*arch).mmio_gen = info.generation.0;
        }
    }

    /// The generation of the memslots that the vCPU uses: those of SMM while it is in SMM.
    #[inline(always)]
    pub(crate) fn memslots_generation(&self) -> MemslotGeneration {
        // SAFETY: The vCPU is alive and `kvm->srcu` is held, so that the memslots are as well.
        // `READ_ONCE()` makes `kvm_memslots()` out of this on x86, and a generation may get its
        // flag set at any time.
        unsafe {
            let smm = (*self.arch()).hflags & bindings::MMIO_EXT_HF_SMM != 0;
            let kvm = (*self.raw()).kvm;
            let slots = ptr::read_volatile(&raw const (*kvm).memslots[usize::from(smm)]);
            MemslotGeneration(ptr::read_volatile(&raw const (*slots).generation))
        }
    }

    /// Whether L2 runs and L1 has given it page tables of its own: faults then report addresses
    /// of L2, not of the VM.
    #[inline(always)]
    pub(crate) fn mmu_is_nested(&self) -> bool {
        // SAFETY: The vCPU is alive; nothing is read.
        ptr::eq(self.mmu(), unsafe { &raw const (*self.arch()).guest_mmu })
    }

    /// Whether the guest's paging is off: faults report physical addresses then also with shadow
    /// paging, as the MMU is direct.
    #[inline(always)]
    pub(crate) fn paging_is_off(&self) -> bool {
        // SAFETY: The vCPU is in its own thread. The guest never owns this bit of CR0.
        unsafe { (*self.arch()).cr0 as u64 & bindings::MMIO_EXT_CR0_PG == 0 }
    }

    /// The format of the VM's MMIO SPTEs.
    pub(crate) fn mmio_format(&self) -> MmioFormat {
        // SAFETY: The VM lives at least as long as its vCPU. Its value is fixed when it is made.
        mmio_format(unsafe { (*(*self.raw()).kvm).arch.shadow_mmio_value })
    }

    /// Which bits are reserved in the page tables of the MMU.
    pub(crate) fn page_format(&self) -> PageFormat<'_> {
        // SAFETY: `arch.mmu` always points to one of the vCPU's MMUs, which only this thread
        // changes.
        let format = unsafe { &(*self.mmu()).fmt };
        PageFormat {
            reserved: &format.rsvd_bits_mask,
            bad_mt_xwr: format.bad_mt_xwr,
        }
    }

    /// Whether the MMU has page tables, as `VALID_PAGE()` asks.
    fn root_is_valid(&self) -> bool {
        // SAFETY: `arch.mmu` always points to one of the vCPU's MMUs, which only this thread
        // changes.
        unsafe { (*self.mmu()).root.hpa != !0 }
    }

    /// Walks the shadow page tables of `addr` without a lock.
    pub(crate) fn walk_shadow_page_lockless(&mut self, addr: u64) -> ShadowWalk {
        let mut walk = ShadowWalk {
            sptes: [0; MAX_LEVEL + 1],
            root: 0,
            leaf: -1,
        };
        if !self.root_is_valid() {
            return walk;
        }
        // SAFETY: The vCPU is in its own thread, the array has an element for each level, and the
        // function protects the tables against being freed for the time of the walk.
        walk.leaf = unsafe {
            bindings::kvm_mmu_get_sptes_lockless(
                self.raw(),
                addr,
                walk.sptes.as_mut_ptr(),
                &mut walk.root,
            )
        };
        walk
    }

    /// Whether there is any zero-length ioeventfd. Most VMs have none.
    #[inline(always)]
    pub(crate) fn has_wildcards(&self) -> bool {
        IoBus::fast_mmio(self).is_some_and(|bus| bus.count() != 0)
    }

    /// Whether there is a zero-length ioeventfd at `gpa`.
    pub(crate) fn has_wildcard(&self, gpa: Gpa) -> bool {
        IoBus::fast_mmio(self).is_some_and(|bus| first_device(&bus, gpa, 0).is_some())
    }

    /// Signals the zero-length ioeventfd at `gpa`. Returns whether there is one.
    pub(crate) fn signal_wildcard(&mut self, gpa: Gpa) -> bool {
        // SAFETY: The vCPU is alive and `kvm->srcu` is held.
        unsafe { bindings::mmio_ext_signal_wildcard(self.raw(), gpa.0) }
    }

    /// Moves RIP behind the instruction that has caused the exit.
    pub(crate) fn skip_emulated_instruction(&mut self) -> Exit {
        // SAFETY: The vCPU is in its own thread, handling an exit.
        Exit::from_handler(unsafe { bindings::kvm_skip_emulated_instruction(self.raw()) })
    }

    /// Whether KVM's emulator knows the instruction that has caused a fault.
    pub(crate) fn can_emulate(&mut self, fault: &MmioFault<'_>) -> bool {
        // SAFETY: The vCPU is in its own thread, handling an exit, and the bytes are valid.
        unsafe { bindings::mmio_ext_can_emulate(self.raw(), fault.insn.bytes, fault.insn.len) }
    }

    /// Emulates the instruction that has caused a fault.
    #[inline(always)]
    pub(crate) fn emulate_instruction(&mut self, fault: &MmioFault<'_>) -> Exit {
        // SAFETY: The vCPU is in its own thread, handling an exit, and the bytes are valid.
        Exit::from_handler(unsafe {
            bindings::x86_emulate_instruction(
                self.raw(),
                fault.addr.raw(),
                bindings::MMIO_EXT_EMULTYPE_PF,
                fault.insn.bytes,
                fault.insn.len,
            )
        })
    }

    /// Whether the fast path is switched on, the parameter `fast`.
    #[inline(always)]
    pub(crate) fn fast_path_enabled() -> bool {
        // SAFETY: A bool that the C side only ever writes 0 or 1 to; a read that races with a
        // write sees one or the other.
        unsafe { ptr::read_volatile(&raw const bindings::mmio_ext_fast) }
    }

    #[inline(always)]
    pub(super) fn fetch_cache(&self) -> &FetchCache {
        &self.state().fetch_cache
    }

    #[inline(always)]
    pub(super) fn fetch_cache_mut(&mut self) -> &mut FetchCache {
        &mut self.state_mut().fetch_cache
    }

    /// Whether the vCPU runs plain 64-bit code of L1: no nested guest, SMM, encrypted state,
    /// single-stepping, debugging, or event that is being delivered.
    #[inline(always)]
    pub(crate) fn runs_plain_code(&self, mode: Mode) -> bool {
        const MODES: u32 = bindings::MMIO_EXT_HF_GUEST | bindings::MMIO_EXT_HF_SMM;
        let arch = self.arch();

        // SAFETY: The vCPU is alive, and only its thread changes these fields.
        unsafe {
            mode.is_plain_64_bit()
                && (*arch).hflags & MODES == 0
                && (*arch).efer & bindings::MMIO_EXT_EFER_LMA != 0
                && (*self.raw()).guest_debug == 0
                && !((*arch).guest_state_protected
                    | (*arch).exception.pending
                    | (*arch).exception.injected
                    | (*arch).interrupt.injected
                    | (*arch).nmi_injected)
        }
    }

    /// Whether a register is where KVM keeps it. A vendor module may not have read it yet.
    #[inline(always)]
    fn has_register(&self, register: u32) -> bool {
        // SAFETY: The vCPU is in its own thread.
        unsafe { (*self.arch()).regs_avail[0] & 1 << register != 0 }
    }

    /// Makes the vendor module read a register.
    fn read_register(&self, register: u32) {
        // SAFETY: The vCPU is in its own thread, and the register is one that can be read so.
        unsafe { bindings::mmio_ext_cache_reg(self.raw(), register) };
    }

    /// RIP.
    #[inline(always)]
    pub(super) fn rip(&self) -> u64 {
        if !self.has_register(bindings::MMIO_EXT_RIP) {
            self.read_register(bindings::MMIO_EXT_RIP);
        }
        // SAFETY: The vCPU is in its own thread.
        unsafe { (*self.arch()).rip as u64 }
    }

    /// CR3.
    #[inline(always)]
    pub(super) fn cr3(&self) -> u64 {
        // With shadow paging the processor's CR3 is not the guest's, which only KVM has.
        if !self.has_register(bindings::MMIO_EXT_CR3) && tdp_enabled() {
            self.read_register(bindings::MMIO_EXT_CR3);
        }
        // SAFETY: The vCPU is in its own thread.
        unsafe { (*self.arch()).cr3 as u64 }
    }

    /// Whether the guest's linear addresses have 57 bits rather than 48, `vcpu_virt_addr_bits()`.
    #[inline(always)]
    pub(crate) fn has_5_levels(&self) -> bool {
        // SAFETY: The vCPU is in its own thread. The guest never owns this bit of CR4.
        unsafe { (*self.arch()).cr4 as u64 & bindings::MMIO_EXT_CR4_LA57 != 0 }
    }

    /// How the guest's page tables are to be read, `union kvm_cpu_role`.
    #[inline(always)]
    pub(super) fn cpu_role(&self) -> u64 {
        // SAFETY: The vCPU is in its own thread. The union has a view as a number.
        unsafe { (*self.arch()).gva_walk.cpu_role.as_u64 }
    }

    /// What the instruction at RIP does, if it is still the one that was read there. The vCPU runs
    /// plain code; `now` is the generation of the memslots.
    ///
    /// # Errors
    ///
    /// Why the fast path has refused it a short time ago, `None` if it is not known.
    #[inline(always)]
    pub(crate) fn known_plan(
        &self,
        mode: Mode,
        assist: AssistBytes<'_>,
        now: MemslotGeneration,
    ) -> Result<&Plan, Option<Event>> {
        fetch::known_plan(self, mode, assist, now)
    }

    /// Reads and decodes the current instruction of a vCPU that runs plain code; it is then known.
    ///
    /// # Errors
    ///
    /// Why the fast path refuses it.
    pub(crate) fn fetch(&mut self, mode: Mode, assist: AssistBytes<'_>) -> Result<(), Event> {
        fetch::fetch(self, mode, assist)
    }

    /// Where an access of L1 goes by its page tables, `None` if they do not allow it. `access` is
    /// of `PFERR_FETCH` and `PFERR_WRITE`. Sets accessed and dirty bits as the access does.
    pub(super) fn translate(&self, gva: Gva, access: u64, user: bool) -> Option<Gpa> {
        let user = if user {
            bindings::MMIO_EXT_PFERR_USER
        } else {
            0
        };
        // SAFETY: The vCPU is in its own thread and `kvm->srcu` is held.
        let gpa = unsafe { bindings::mmio_ext_translate(self.raw(), gva.0 as _, access | user) };
        (gpa != bindings::MMIO_EXT_INVALID_GPA as u64).then_some(Gpa(gpa))
    }

    /// Lets the guest's page tables say anew whether a page of the info cache may be written, which
    /// it may not as far as that knows. The vCPU runs plain code with shadow paging.
    ///
    /// A page that is read while its entry is clean is cached without write permission, so that KVM
    /// sees it become dirty. With MMIO there is nothing to see: once the entry is dirty the cache
    /// can say so.
    #[cold]
    pub(crate) fn learn_write_access(&mut self, gva: Gva, page: MmioInfo, mode: Mode) {
        let page = MmioInfo {
            access: page.access | bindings::MMIO_EXT_ACC_WRITE,
            ..page
        };
        // If it is not for want of this permission that the write is refused, nothing is learnt.
        if self.may_access_mmio(&page, mode, true)
            && self.translate(gva, bindings::MMIO_EXT_PFERR_WRITE, mode.is_user())
                == Some(page.gfn.gpa_of(gva))
        {
            self.info_cache_mut().insert(page);
        }
    }

    /// Makes RSP one of the registers that [`Vcpu::register`] can return.
    pub(crate) fn read_rsp(&self) {
        if !self.has_register(bindings::MMIO_EXT_RSP) {
            self.read_register(bindings::MMIO_EXT_RSP);
        }
    }

    /// The value of a general purpose register. That of RSP is an old one before
    /// [`Vcpu::read_rsp`].
    #[inline(always)]
    pub(crate) fn register(&self, number: u8) -> u64 {
        // SAFETY: The vCPU is in its own thread.
        unsafe { (*self.arch()).regs[usize::from(number & 0xf)] as u64 }
    }

    /// Changes a general purpose register, which must not be RSP.
    #[inline(always)]
    pub(crate) fn set_register(&mut self, number: u8, value: u64) {
        debug_assert_ne!(u32::from(number), bindings::MMIO_EXT_RSP);
        // SAFETY: The vCPU is in its own thread. All registers but RSP and RIP are always in the
        // array, see `struct kvm_vcpu_arch`.
        unsafe { (*self.arch()).regs[usize::from(number & 0xf)] = value as _ };
    }

    /// Whether the guest's page tables allow an access to a page of the info cache, as
    /// `vcpu_mmio_gva_to_gpa()` asks `permission_fault()`. The vCPU runs plain code with shadow
    /// paging. `false` as well if protection keys would have to be looked at.
    #[inline(always)]
    pub(crate) fn may_access_mmio(&self, page: &MmioInfo, mode: Mode, write: bool) -> bool {
        let arch = self.arch();
        let mut error_code = 0;
        if mode.is_user() {
            error_code |= bindings::MMIO_EXT_PFERR_USER;
        }
        if write {
            error_code |= bindings::MMIO_EXT_PFERR_WRITE;
        }
        // RFLAGS.AC switches SMAP off for explicit accesses, as all of plain code are.
        if mode.alignment_checked() {
            error_code |= bindings::MMIO_EXT_PFERR_SMAP_OFF;
        }
        // What is mapped is readable, but MMIO SPTEs have no room to say so.
        let access = page.access | bindings::MMIO_EXT_ACC_READ;

        // SAFETY: The vCPU is alive, and only its thread changes these fields.
        unsafe {
            let format = &raw const (*arch).gva_walk.fmt;
            let faults = (*format).permissions[(error_code >> 1) as usize % 16];
            (*format).pkru_mask == 0 && faults >> (access & 0xf) & 1 == 0
        }
    }

    /// Writes up to 8 bytes and goes on at `next_rip`. If all of it was `known`, no hit was counted
    /// yet.
    #[inline(always)]
    pub(crate) fn write_mmio(&mut self, write: Write, next_rip: u64, known: bool) -> Exit {
        if observe::mmio_is_traced() {
            self.trace_mmio_write(&write);
        }
        match self.write_to_device(&write) {
            Some(Answer::Signalled { eventfd, again }) => {
                self.see_write(&write, Taker::Ioeventfd, known);
                self.remember_bell(&write, eventfd, again);
                self.retire(next_rip)
            }
            Some(_) => {
                self.see_write(&write, Taker::Kernel, known);
                self.retire(next_rip)
            }
            None => self.leave_write_to_userspace(&write, next_rip, known),
        }
    }

    /// Offers a write to the devices in the kernel, as `vcpu_mmio_write()` does.
    #[inline(always)]
    pub(super) fn write_to_device(&mut self, write: &Write) -> Option<Answer<Eventfd>> {
        // The local APIC comes first; its page can be anywhere.
        if self.is_apic_page(write.gpa) && self.write_to_apic(write) {
            return Some(Answer::Taken);
        }
        let bus = IoBus::mmio(self)?;
        self.state_mut().doorbells.write(&bus, write)
    }

    #[inline(always)]
    fn is_apic_page(&self, gpa: Gpa) -> bool {
        // SAFETY: The vCPU is alive, and so is its local APIC if it has one in the kernel.
        unsafe {
            let apic = (*self.arch()).apic;
            !apic.is_null()
                && gpa.0.wrapping_sub((*apic).base_address as u64) < bindings::MMIO_EXT_PAGE_SIZE
        }
    }

    #[cold]
    fn write_to_apic(&mut self, write: &Write) -> bool {
        // SAFETY: The vCPU is in its own thread, handling an exit, and `kvm->srcu` is held.
        unsafe {
            bindings::kvm_mmio_ext_write_apic(
                self.raw(),
                write.gpa.0,
                write.size.into(),
                write.value,
            )
        }
    }

    /// Remembers what a write has signalled, if that may be done with interrupts off next time.
    #[inline(always)]
    fn remember_bell(&mut self, write: &Write, eventfd: Eventfd, again: Again) {
        if Self::rings_irqs_off() && tdp_enabled() {
            self.insert_bell(write, eventfd, again);
        }
    }

    #[cold]
    fn insert_bell(&mut self, write: &Write, eventfd: Eventfd, again: Again) {
        let slots = self.memslots_generation();
        // Nobody can tell what is at the address while they change.
        if slots.update_in_progress() {
            return;
        }
        if let Some(bus) = IoBus::mmio(self).map(|bus| bus.generation()) {
            let epoch = Epoch { bus, slots };
            self.state_mut().bells.insert(write, epoch, again, eventfd);
        }
    }

    /// Whether doorbells are answered before interrupts are on again: by the parameters `irqsoff`
    /// and `fast`, and unless somebody wants to see each access, which the ordinary path shows.
    #[inline(always)]
    fn rings_irqs_off() -> bool {
        // SAFETY: As for `fast_path_enabled()`.
        let irqs_off = unsafe { ptr::read_volatile(&raw const bindings::mmio_ext_irqsoff) };
        let is_watched = observe::heat_is_on()
            || observe::access_is_traced()
            || observe::mmio_is_traced()
            || observe::page_fault_is_traced();
        irqs_off && Self::fast_path_enabled() && !is_watched
    }

    /// Whether a write to `gpa` may be worth a try with interrupts off. As cheap as can be: other
    /// exits pay for it.
    ///
    /// # Safety
    ///
    /// `ptr` must point to a live vCPU that is in its own thread.
    #[inline(always)]
    pub(super) unsafe fn may_ring(ptr: *mut bindings::kvm_vcpu, gpa: Gpa) -> bool {
        // SAFETY: By the contract of this function; the state is a `State`.
        unsafe {
            let state = (*ptr).arch.mmio_ext.cast::<State>();
            !state.is_null() && (*state).bells.may_be_at(gpa) && Self::rings_irqs_off()
        }
    }

    /// Whether the guest's performance counters count no instructions, which may end in an
    /// interrupt of theirs.
    #[inline(always)]
    pub(crate) fn counts_no_instructions(&self) -> bool {
        // SAFETY: The vCPU is alive, and only its thread changes this.
        unsafe { (*self.arch()).pmu.pmc_counting_instructions == [0] }
    }

    /// Signals what a write is remembered to signal. Returns whether it is. `slots` is the
    /// memslots' generation. Interrupts may be off.
    #[inline(always)]
    pub(crate) fn ring(&mut self, write: &Write, slots: MemslotGeneration) -> bool {
        // The local APIC's page can be anywhere.
        if self.is_apic_page(write.gpa) {
            return false;
        }
        let Some(bus) = IoBus::mmio(self).map(|bus| bus.generation()) else {
            return false;
        };
        let Some(eventfd) = self.state().bells.find(write, Epoch { bus, slots }) else {
            return false;
        };
        // SAFETY: It is from a bus of this generation, which is alive: `kvm->srcu` is held.
        unsafe { eventfd.signal() };
        self.stats().count_rung(write.size);
        true
    }

    #[inline(never)]
    fn leave_write_to_userspace(&mut self, write: &Write, next_rip: u64, known: bool) -> Exit {
        // SAFETY: The vCPU is in its own thread, handling an exit.
        unsafe {
            bindings::kvm_mmio_ext_exit_write(
                self.raw(),
                write.gpa.0,
                write.size.into(),
                write.value,
                next_rip as _,
            )
        };
        self.see_write(write, Taker::Userspace, known);
        Exit::USERSPACE
    }

    #[inline(always)]
    fn see_write(&mut self, write: &Write, taker: Taker, known: bool) {
        see_fast(
            self,
            write.gpa,
            (true, write.size),
            write.value,
            taker,
            known,
        );
    }

    /// Reads up to 8 bytes. `None` if userspace has to provide them; [`complete_load`] then goes
    /// on with the load. If all of it was `known`, no hit was counted yet.
    #[inline(always)]
    pub(crate) fn read_mmio(&mut self, load: PendingLoad, known: bool) -> Option<u64> {
        let mut value = 0;
        let (gpa, size) = (load.gpa, load.size);
        let vacant = IoBus::mmio(self).is_none_or(|bus| first_device(&bus, gpa, size).is_none());
        self.state_mut().pending_load = Some(load);
        // SAFETY: The vCPU is in its own thread, handling an exit, and `kvm->srcu` is held. The
        // callback keeps its contract: KVM calls it in the same context.
        let done = unsafe {
            bindings::kvm_mmio_ext_read(
                self.raw(),
                gpa.0,
                size.into(),
                &mut value,
                vacant,
                Some(complete_load),
            )
        };
        let taker = match done {
            0 => Taker::Userspace,
            _ => Taker::Kernel,
        };
        see_fast(self, gpa, (false, size), value, taker, known);
        (done != 0).then_some(value)
    }

    /// Takes the value that userspace has provided for a load.
    pub(super) fn take_pending_load(&mut self) -> Option<(PendingLoad, u64)> {
        let load = self.state_mut().pending_load.take()?;
        // SAFETY: The vCPU is in its own thread, and a load is pending.
        Some((load, unsafe {
            bindings::kvm_mmio_ext_read_value(self.raw(), load.gpa.0, load.size.into())
        }))
    }

    /// Ends an instruction and goes on at `next_rip`.
    #[inline(always)]
    pub(crate) fn retire(&mut self, next_rip: u64) -> Exit {
        // SAFETY: The vCPU is in its own thread.
        unsafe { bindings::kvm_mmio_ext_retire(self.raw(), next_rip as _) };
        Exit::RESUME
    }

    /// The same for an instruction that userspace has had part in.
    pub(crate) fn retire_read(&mut self, next_rip: u64) -> Exit {
        // SAFETY: The vCPU is in its own thread.
        Exit::from_handler(unsafe { bindings::kvm_mmio_ext_retire_read(self.raw(), next_rip as _) })
    }

    /// Lets KVM fault the page in, for an MMIO SPTE that is not of the current generation.
    #[cold]
    pub(crate) fn fault_in(&mut self, fault: &MmioFault<'_>) -> Exit {
        self.state_mut().faulting_in = true;
        // SAFETY: The vCPU is in its own thread, handling an exit, and the bytes are valid.
        let exit = Exit::from_handler(unsafe {
            bindings::kvm_mmu_page_fault(
                self.raw(),
                fault.addr.raw(),
                fault.error_code,
                fault.insn.bytes,
                fault.insn.len,
            )
        });
        // KVM does not ask if the extension has just been switched off.
        self.state_mut().faulting_in = false;
        exit
    }

    /// Warns, once, that page tables are corrupt.
    pub(crate) fn warn_reserved(&self) {
        // SAFETY: The function has no preconditions.
        unsafe { bindings::mmio_ext_warn_reserved() };
    }

    /// The tracepoint `kvmmmu:check_mmio_spte`.
    pub(crate) fn trace_check_mmio_spte(
        &self,
        spte: Spte,
        now: MmioGeneration,
        made: MmioGeneration,
    ) {
        // SAFETY: The function has no preconditions.
        unsafe { bindings::mmio_ext_trace_check_mmio_spte(spte.0, now.get(), made.get()) };
    }

    /// The tracepoint `kvmmmu:handle_mmio_page_fault`.
    pub(crate) fn trace_handle_mmio_page_fault(&self, gva: Gva, gfn: Gfn, access: u32) {
        // SAFETY: The function has no preconditions.
        unsafe { bindings::mmio_ext_trace_handle_mmio_page_fault(gva.0, gfn.0, access) };
    }

    /// The tracepoint `kvm:kvm_mmio`.
    #[cold]
    fn trace_mmio_write(&self, write: &Write) {
        // SAFETY: The function has no preconditions.
        unsafe { bindings::mmio_ext_trace_mmio_write(write.gpa.0, write.size.into(), write.value) };
    }

    /// The tracepoint `kvm:kvm_page_fault`.
    #[inline(always)]
    pub(crate) fn trace_page_fault(&self, gpa: Gpa, error_code: u64) {
        if observe::page_fault_is_traced() {
            // SAFETY: The vCPU is alive and in its own thread.
            unsafe { bindings::mmio_ext_trace_page_fault(self.raw(), gpa.0, error_code) };
        }
    }
}
