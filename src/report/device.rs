// SPDX-License-Identifier: GPL-2.0

//! The statistics file, `/dev/kvm_mmio_ext`, and its text form in debugfs.

use crate::{
    kvm::{
        boottime, fast_path_enabled, heat_is_on, instructions_are_told, is_enabled, tsc, tsc_khz,
        HeatUser, InstructionUser, ModuleRef,
    },
    pure::{
        binary_stats::{descriptor_bytes, Header},
        heat,
        heat_page,
        stats_format::{self as format, Direction, Outcome}, //
    },
    report::{
        registry::{for_each_vm, vms_lost, Reader, VcpuEntry, Vm, VMS_KEPT},
        stats::{Event, Snapshot, Taker}, //
    }, //
};
use core::fmt;
use kernel::{
    fs::{
        file::flags::{O_ACCMODE, O_RDONLY},
        File, Kiocb,
    },
    iov::{IovIterDest, IovIterSource},
    miscdevice::{MiscDevice, MiscDeviceRegistration},
    new_mutex,
    prelude::*,
    sync::Mutex, //
};

/// What the kernel calls the file.
pub(crate) const NAME: &CStr = c"kvm_mmio_ext";

/// An open file.
#[pin_data]
pub(crate) struct OpenFile {
    /// What a reader goes on in: the whole file as it was when offset 0 was read last.
    #[pin]
    contents: Mutex<KVVec<u8>>,
    _reader: Reader,
    /// Of who may write and so change what the kernel does: heat is on as long as the file is open.
    _heat: Option<HeatUser>,
    /// If it has asked for them.
    #[pin]
    instructions: Mutex<Option<InstructionUser>>,
    _module: ModuleRef,
}

#[vtable]
impl MiscDevice for OpenFile {
    type Ptr = Pin<KBox<Self>>;

    fn open(file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<Pin<KBox<Self>>> {
        let module = ModuleRef::new()?;
        let for_writing = file.flags() & O_ACCMODE != O_RDONLY;
        KBox::try_pin_init(
            try_pin_init!(Self {
                contents <- new_mutex!(KVVec::new()),
                _reader: Reader::new(),
                _heat: for_writing.then(HeatUser::new),
                instructions <- new_mutex!(None),
                _module: module,
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    fn read_iter(mut kiocb: Kiocb<'_, Self::Ptr>, iov: &mut IovIterDest<'_>) -> Result<usize> {
        let file = kiocb.file();
        let mut contents = file.contents.lock();
        let position = kiocb.ki_pos_mut();

        if *position == 0 || contents.is_empty() {
            *contents = take_snapshot()?;
        }
        let wanted = !iov.is_empty() && *position < contents.len() as i64;
        match iov.simple_read_from_buffer(position, &contents)? {
            0 if wanted => Err(EFAULT),
            n => Ok(n),
        }
    }

    fn write_iter(kiocb: Kiocb<'_, Self::Ptr>, iov: &mut IovIterSource<'_>) -> Result<usize> {
        let mut command = [0; format::TELL_INSTRUCTIONS.len() + 1];
        let size = written(iov, &mut command)?;
        if command[..size].trim_ascii_end() != format::TELL_INSTRUCTIONS {
            return Err(EINVAL);
        }
        kiocb
            .file()
            .instructions
            .lock()
            .get_or_insert_with(InstructionUser::new);
        Ok(size)
    }
}

/// What is written at once.
fn written(iov: &mut IovIterSource<'_>, bytes: &mut [u8]) -> Result<usize> {
    let size = iov.len();
    if size > bytes.len() {
        return Err(EINVAL);
    }
    match iov.copy_from_iter(bytes) {
        copied if copied < size => Err(EFAULT),
        _ => Ok(size),
    }
}

/// The whole file as it is now.
fn take_snapshot() -> Result<KVVec<u8>> {
    let mut file = KVVec::new();
    let mut vm_count = 0;

    push(&mut file, &[0; format::header::SIZE])?;
    for descriptor in descriptor_bytes() {
        push(&mut file, &descriptor)?;
    }
    for_each_vm(|vm| {
        vm_count += 1;
        push_vm(&mut file, vm)
    })?;

    let header = header(file.len(), vm_count);
    fill_in(&mut file, 0, &header.to_bytes());
    Ok(file)
}

fn header(file_size: usize, vm_count: u32) -> Header {
    let flag = |flag, is_set| if is_set { flag } else { 0 };
    Header {
        file_size,
        tsc: tsc(),
        boottime: boottime(),
        tsc_khz: tsc_khz(),
        flags: flag(format::HEAT, heat_is_on())
            | flag(format::ENABLED, is_enabled())
            | flag(format::FAST, fast_path_enabled())
            | flag(format::INSTRUCTIONS, instructions_are_told()),
        pages_per_vcpu: heat::PAGES as u32,
        vms_kept: VMS_KEPT as u32,
        vms_lost: vms_lost(),
        vm_count,
    }
}

fn push(file: &mut KVVec<u8>, bytes: &[u8]) -> Result {
    Ok(file.extend_from_slice(bytes, GFP_KERNEL_ACCOUNT)?)
}

/// Overwrites what was pushed to make room. vCPUs go on meanwhile: the numbers of what follows a
/// block are right only once that is written.
fn fill_in(file: &mut KVVec<u8>, at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

fn push_vm(file: &mut KVVec<u8>, vm: &Vm) -> Result {
    let at = file.len();
    let mut block = format::Vm {
        vm: vm.id,
        tgid: vm.tgid,
        vcpu_count: vm.vcpus.len() as u32,
        page_count: 0,
        vm_flags: u32::from(vm.has_ended()) * format::ENDED,
        heat_dropped: 0,
    };

    push(file, &block.to_bytes())?;
    for vcpu in &vm.vcpus {
        let counters = vcpu.stats.snapshot();
        block.page_count += push_vcpu(file, vcpu, &counters)?;
        block.heat_dropped = block.heat_dropped.wrapping_add(counters.heat_dropped());
    }
    fill_in(file, at, &block.to_bytes());
    Ok(())
}

/// Returns how many page blocks the vCPU has.
fn push_vcpu(file: &mut KVVec<u8>, vcpu: &VcpuEntry, counters: &Snapshot) -> Result<u32> {
    let at = file.len();
    let mut block = vcpu_block(vcpu.id, counters);

    push(file, &block.to_bytes())?;
    for page in vcpu.heat.iter().flat_map(|heat| heat.pages()) {
        push(file, &page_block(vcpu.id, &page).to_bytes())?;
        block.page_count += 1;
    }
    fill_in(file, at, &block.to_bytes());
    Ok(block.page_count)
}

fn vcpu_block(vcpu: u32, counters: &Snapshot) -> format::Vcpu {
    let [read_1, read_2, read_4, read_8, read_other] = counters.by_size(false);
    let [write_1, write_2, write_4, write_8, write_other] = counters.by_size(true);

    format::Vcpu {
        vcpu,
        page_count: 0,
        faults: counters.faults(),
        emulated: counters.emulated(),
        cache_hit: counters.get(Event::CacheHit),
        spte_hit: counters.get(Event::SpteHit),
        spte_stale: counters.get(Event::SpteStale),
        retry: counters.get(Event::Retry),
        wildcard: counters.get(Event::Wildcard),
        fast: counters.fast(),
        refused_context: counters.get(Event::RefusedContext),
        refused_fetch: counters.get(Event::RefusedFetch),
        refused_insn: counters.get(Event::RefusedInsn),
        refused_address: counters.get(Event::RefusedAddress),
        refused_access: counters.get(Event::RefusedAccess),
        passed: counters.get(Event::Passed),
        left_to_kvm: counters.left_to_kvm(),
        spte_made: counters.get(Event::SpteMade),
        spte_synced: counters.get(Event::SpteSynced),
        spte_sync_dropped: counters.get(Event::SpteSyncDropped),
        cache_filled: counters.get(Event::CacheFilled),
        cache_cleared: counters.get(Event::CacheCleared),
        read_1,
        read_2,
        read_4,
        read_8,
        read_other,
        write_1,
        write_2,
        write_4,
        write_8,
        write_other,
        emulated_unseen: counters.unseen(),
        heat_dropped: counters.heat_dropped(),
        fast_ioeventfd: counters.fast_by(Taker::Ioeventfd),
        fast_kernel: counters.fast_by(Taker::Kernel),
        fast_userspace: counters.fast_by(Taker::Userspace),
        fast_irqsoff: counters.irqsoff(),
        read_only: counters.get(Event::ReadOnly),
    }
}

fn page_block(vcpu: u32, page: &heat_page::Page) -> format::Page {
    format::Page {
        gpa: page.gfn.gpa().0,
        vcpu,
        last_size: page.last_size,
        last_width: page.last_width,
        last_direction: page.last_direction as u8,
        last_outcome: page.last_outcome as u8,
        count: page.count(),
        reads: page.with_direction(Direction::Read),
        writes: page.with_direction(Direction::Write),
        kernel: page.kernel(),
        userspace: page.userspace(),
        fast: page.fast(),
        wildcard: page.with_outcome(&[Outcome::Wildcard]),
        cycles: page.cycles,
        last_tsc: page.last_tsc,
        rip: page.rip.unwrap_or(format::UNKNOWN_RIP),
    }
}

/// Shows the heat of the VMs that are alive, for people.
pub(crate) fn show_heat(_: &(), f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for_each_vm(|vm| match vm.has_ended() {
        true => Ok(()),
        false => vm
            .vcpus
            .iter()
            .try_for_each(|vcpu| show_vcpu_heat(f, vm, vcpu)),
    })
}

fn show_vcpu_heat(f: &mut fmt::Formatter<'_>, vm: &Vm, vcpu: &VcpuEntry) -> fmt::Result {
    let Some(heat) = &vcpu.heat else {
        return Ok(());
    };

    writeln!(
        f,
        "vm {} tgid {} vcpu {} pages {} dropped {}\n\
         {:>20} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10} {:>18}",
        vm.id,
        vm.tgid,
        vcpu.id,
        heat.page_count(),
        vcpu.stats.snapshot().heat_dropped(),
        "gpa",
        "count",
        "reads",
        "writes",
        "kernel",
        "userspace",
        "fast",
        "cycles",
        "rip",
    )?;
    heat.pages().try_for_each(|page| {
        write!(
            f,
            "{:#20x} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10} ",
            page.gfn.gpa().0,
            page.count(),
            page.with_direction(Direction::Read),
            page.with_direction(Direction::Write),
            page.kernel(),
            page.userspace(),
            page.fast(),
            page.cycles,
        )?;
        match page.rip {
            Some(rip) => writeln!(f, "{rip:#18x}"),
            None => writeln!(f, "{:>18}", "-"),
        }
    })
}
