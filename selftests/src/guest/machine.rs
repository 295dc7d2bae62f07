// SPDX-License-Identifier: GPL-2.0
//! A virtual machine and its memslots.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use kvm_bindings::{
    KVM_CAP_DISABLE_QUIRKS2, KVM_MAX_CPUID_ENTRIES, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY,
    KVM_MP_STATE_RUNNABLE, KVM_X86_QUIRK_SLOT_ZAP_ALL, kvm_cpuid_entry2, kvm_enable_cap,
    kvm_mp_state, kvm_pit_config, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, VmFd};

use super::layout::{MAX_VCPUS, MMIO_GPA, MMIO_GVA, MMIO_GVA_LA57, MMIO_PAGES, RAM_SIZE};
use super::paging::{SUPERVISOR, TablePool};
use super::{Bus, Doorbell, Match, Mode, PAGE, PageTables, Region, Vcpu, cpu, new_event};

/// What a memslot allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotKind {
    Ram,
    /// KVM_MEM_READONLY: writes are MMIO.
    ReadOnly,
    /// KVM_MEM_LOG_DIRTY_PAGES.
    LogDirty,
}

/// The part of a slot's number that selects the address space of SMM.
pub const SMM_SPACE: u32 = 1 << 16;

/// What the deletion of a memslot takes out of KVM's page tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zap {
    /// All that is in them: KVM_X86_QUIRK_SLOT_ZAP_ALL, which VMs have unless they decline.
    All,
    /// The pages of that slot.
    Slot,
}

/// What a guest has that runs guests of its own.
#[derive(Clone, Copy, Debug)]
pub struct Svm {
    /// Nested paging.
    pub npt: bool,
}

/// A VM with [`RAM_SIZE`] bytes of RAM in memslot 0 and a window without memslots at
/// [`MMIO_GPA`].
pub struct Machine {
    kvm: Kvm,
    vm: VmFd,
    mode: Mode,
    ram: Arc<Region>,
    pool: Arc<TablePool>,
    tables: PageTables,
    vcpus: u64,
    irqchip: bool,
}

/// Whether all machines have interrupt controllers in the kernel.
static IRQCHIP: AtomicBool = AtomicBool::new(false);

impl Machine {
    /// Has all machines that are made from now on have interrupt controllers in the kernel.
    pub fn all_with_irqchip() {
        IRQCHIP.store(true, Ordering::Relaxed);
    }

    /// Whether this KVM has interrupt controllers.
    pub fn offers_irqchip() -> Result<bool> {
        let kvm = Kvm::new().context("opening /dev/kvm")?;
        Ok(kvm.check_extension(Cap::Irqchip))
    }

    /// A machine, which has no interrupt controllers unless all have.
    pub fn new(mode: Mode) -> Result<Self> {
        Self::build(mode, IRQCHIP.load(Ordering::Relaxed))
    }

    /// A machine that has those of a PC: PIC, I/O APIC and local APICs, and its timer.
    pub fn with_irqchip(mode: Mode) -> Result<Self> {
        Self::build(mode, true)
    }

    fn build(mode: Mode, irqchip: bool) -> Result<Self> {
        let kvm = Kvm::new().context("opening /dev/kvm")?;
        let vm = kvm.create_vm().context("KVM_CREATE_VM")?;
        if irqchip {
            vm.create_irq_chip().context("KVM_CREATE_IRQCHIP")?;
            vm.create_pit2(kvm_pit_config::default())
                .context("KVM_CREATE_PIT2")?;
        }
        let ram = Arc::new(Region::new(RAM_SIZE).context("memory for the guest")?);
        cpu::write_tables(&ram, mode);
        let pool = Arc::new(TablePool::new());
        let tables = PageTables::new(mode, ram.clone(), pool.clone());
        let machine = Self {
            kvm,
            vm,
            mode,
            ram,
            pool,
            tables,
            vcpus: 0,
            irqchip,
        };
        machine.set_slot(0, 0, &machine.ram, SlotKind::Ram)?;
        machine.map_window(&machine.tables);
        Ok(machine)
    }

    /// A machine with one vCPU.
    pub fn with_vcpu(mode: Mode) -> Result<(Self, Vcpu)> {
        let mut machine = Self::new(mode)?;
        let vcpu = machine.add_vcpu()?;
        Ok((machine, vcpu))
    }

    /// Sets what the deletion of a memslot zaps; a new machine has [`Zap::All`], for good once it
    /// has not.
    pub fn zap(&self, zap: Zap) -> Result<()> {
        match zap {
            Zap::All => Ok(()),
            Zap::Slot => self
                .vm
                .enable_cap(&kvm_enable_cap {
                    cap: KVM_CAP_DISABLE_QUIRKS2,
                    args: [KVM_X86_QUIRK_SLOT_ZAP_ALL.into(), 0, 0, 0],
                    ..Default::default()
                })
                .context("KVM_CAP_DISABLE_QUIRKS2"),
        }
    }

    /// Whether guests of `mode` can run here.
    pub fn supports(mode: Mode) -> Result<bool> {
        const LA57: u32 = 1 << 16;
        let features = Self::cpuid(7)?;
        Ok(mode != Mode::La57 || features.is_some_and(|leaf| leaf.ecx & LA57 != 0))
    }

    /// Whether guests can have SMAP here.
    pub fn supports_smap() -> Result<bool> {
        const SMAP: u32 = 1 << 20;
        Ok(Self::cpuid(7)?.is_some_and(|leaf| leaf.ebx & SMAP != 0))
    }

    /// Whether guests can have protection keys here.
    pub fn supports_protection_keys() -> Result<bool> {
        const PKU: u32 = 1 << 3;
        Ok(Self::cpuid(7)?.is_some_and(|leaf| leaf.ecx & PKU != 0))
    }

    /// How guests can have guests of their own here as on AMD's processors, if they can.
    pub fn svm() -> Result<Option<Svm>> {
        const SVM: u32 = 1 << 2;
        const NPT: u32 = 1 << 0;
        let has_svm = Self::cpuid(0x8000_0001)?.is_some_and(|leaf| leaf.ecx & SVM != 0);
        let npt = Self::cpuid(0x8000_000a)?.is_some_and(|leaf| leaf.edx & NPT != 0);
        Ok(has_svm.then_some(Svm { npt }))
    }

    /// A leaf of CPUID, as guests may have it.
    fn cpuid(function: u32) -> Result<Option<kvm_cpuid_entry2>> {
        let cpuid = Kvm::new()
            .context("opening /dev/kvm")?
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .context("KVM_GET_SUPPORTED_CPUID")?;
        let mut leaves = cpuid.as_slice().iter();
        Ok(leaves
            .find(|leaf| leaf.function == function && leaf.index == 0)
            .copied())
    }

    fn map_window(&self, tables: &PageTables) {
        self.map_pages(tables, 0..MMIO_PAGES);
    }

    fn map_pages(&self, tables: &PageTables, pages: Range<u64>) {
        if self.mode.is_paged() {
            for page in pages {
                tables.map(self.gva(page), self.gpa(page), SUPERVISOR);
            }
        }
    }

    /// Maps more pages of the MMIO window, for a guest that has not run yet.
    pub fn widen_window(&self, pages: u64) {
        self.map_pages(&self.tables, MMIO_PAGES..pages);
    }

    /// GPA of page `page` of the MMIO window.
    pub fn gpa(&self, page: u64) -> u64 {
        MMIO_GPA + page * PAGE
    }

    /// Linear address of the same page.
    pub fn gva(&self, page: u64) -> u64 {
        match self.mode {
            Mode::Flat => self.gpa(page),
            Mode::La57 => MMIO_GVA_LA57 + page * PAGE,
            Mode::Long | Mode::Pae | Mode::Legacy => MMIO_GVA + page * PAGE,
        }
    }

    /// Whether the machine has interrupt controllers in the kernel.
    pub fn has_irqchip(&self) -> bool {
        self.irqchip
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    pub fn vm(&self) -> &VmFd {
        &self.vm
    }

    pub fn ram(&self) -> &Arc<Region> {
        &self.ram
    }

    /// The page tables that new vCPUs start with.
    pub fn tables(&self) -> &PageTables {
        &self.tables
    }

    /// Another root, with the same mappings as the first had at the start.
    pub fn new_tables(&self) -> PageTables {
        let tables = PageTables::new(self.mode, self.ram.clone(), self.pool.clone());
        self.map_window(&tables);
        tables
    }

    /// Makes the page at `at` another root, with the tables below the one that vCPUs begin with.
    pub fn copy_root(&self, at: u64) {
        let root = self.ram.read(self.tables.root(), PAGE as usize);
        self.ram.write(at, &root);
    }

    pub fn add_vcpu(&mut self) -> Result<Vcpu> {
        let id = self.vcpus;
        assert!(id < MAX_VCPUS, "no room for vCPU {id}");
        self.vcpus += 1;
        let fd = self
            .vm
            .create_vcpu(id)
            .with_context(|| format!("KVM_CREATE_VCPU {id}"))?;
        let cpuid = self
            .kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .context("KVM_GET_SUPPORTED_CPUID")?;
        fd.set_cpuid2(&cpuid).context("KVM_SET_CPUID2")?;
        if self.irqchip {
            // All but the first would wait for an INIT.
            let mp_state = KVM_MP_STATE_RUNNABLE;
            fd.set_mp_state(kvm_mp_state { mp_state })
                .context("KVM_SET_MP_STATE")?;
        }
        cpu::write_tss(&self.ram, self.mode, id);
        Vcpu::new(fd, id, self.mode, self.ram.clone(), self.tables.root())
    }

    /// Creates memslot `slot` at `gpa`, or changes its flags.
    pub fn set_slot(&self, slot: u32, gpa: u64, memory: &Region, kind: SlotKind) -> Result<()> {
        let flags = match kind {
            SlotKind::Ram => 0,
            SlotKind::ReadOnly => KVM_MEM_READONLY,
            SlotKind::LogDirty => KVM_MEM_LOG_DIRTY_PAGES,
        };
        self.set_region(kvm_userspace_memory_region {
            slot,
            flags,
            guest_phys_addr: gpa,
            memory_size: memory.len(),
            userspace_addr: memory.hva(),
        })
    }

    /// Deletes memslot `slot`.
    pub fn delete_slot(&self, slot: u32) -> Result<()> {
        self.set_region(kvm_userspace_memory_region {
            slot,
            ..Default::default()
        })
    }

    fn set_region(&self, region: kvm_userspace_memory_region) -> Result<()> {
        // SAFETY: the range is a `Region`, which callers keep until the machine is gone or the
        // slot is deleted; an earlier unmap would make the guest's accesses fail, not touch other
        // memory of this process that Rust relies on.
        unsafe { self.vm.set_user_memory_region(region) }
            .with_context(|| format!("KVM_SET_USER_MEMORY_REGION {region:x?}"))
    }

    pub fn doorbell(&self, bus: Bus, kind: Match) -> Result<Doorbell> {
        Doorbell::new(&self.vm, bus, kind)
    }

    /// Many, all with the same eventfd.
    pub fn doorbells(&self, places: impl Iterator<Item = (Bus, Match)>) -> Result<Vec<Doorbell>> {
        let event = new_event()?;
        places
            .map(|(bus, kind)| Doorbell::sharing(&event, &self.vm, bus, kind))
            .collect()
    }

    /// Writes to the `len` bytes at an address go to a ring that userspace reads when it likes to;
    /// see [`Vcpu::map_coalesced_ring`].
    pub fn coalesce(&self, bus: Bus, len: u32) -> Result<()> {
        self.vm
            .register_coalesced_mmio(address(bus), len)
            .with_context(|| format!("KVM_REGISTER_COALESCED_MMIO {bus:?}"))
    }

    /// Takes that back.
    pub fn no_coalesce(&self, bus: Bus, len: u32) -> Result<()> {
        self.vm
            .unregister_coalesced_mmio(address(bus), len)
            .with_context(|| format!("KVM_UNREGISTER_COALESCED_MMIO {bus:?}"))
    }
}

fn address(bus: Bus) -> IoEventAddress {
    match bus {
        Bus::Mmio(gpa) => IoEventAddress::Mmio(gpa),
        Bus::Pio(port) => IoEventAddress::Pio(port.into()),
    }
}
