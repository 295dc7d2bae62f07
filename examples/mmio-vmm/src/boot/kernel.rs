// SPDX-License-Identifier: GPL-2.0
//! The kernel, its command line and its initramfs, and what tells it of them.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use linux_loader::loader::elf::{Elf, Error as ElfError};
use linux_loader::loader::{BzImage, Error as LoadError, KernelLoader, KernelLoaderResult};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::layout;

/// The entry of 64 bits, behind that of 32 bits.
const ENTRY_64: u64 = 0x200;
const XLF_KERNEL_64: u16 = 1;

const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;

/// What a guest begins with: its files, open, and what its kernel is told.
pub struct Boot<'a> {
    kernel: File,
    initrd: Option<File>,
    cmdline: &'a str,
}

impl<'a> Boot<'a> {
    /// Fails if a file cannot be opened, or the command line is too long.
    pub fn open(kernel: &Path, initrd: Option<&Path>, cmdline: &'a str) -> Result<Self> {
        ensure!(
            cmdline.len() < layout::CMDLINE_SIZE && cmdline.is_ascii(),
            "--cmdline has more than {} bytes, or others than ASCII",
            layout::CMDLINE_SIZE - 1
        );
        let open = |path: &Path| File::open(path).with_context(|| path.display().to_string());
        Ok(Self {
            kernel: open(kernel).context("--kernel")?,
            initrd: initrd.map(open).transpose().context("--initrd")?,
            cmdline,
        })
    }

    /// Loads everything into a guest that has `size` bytes of memory; gives where the kernel's
    /// first instruction is.
    pub fn load(mut self, memory: &GuestMemoryMmap, size: u64) -> Result<u64> {
        let (loaded, entry) = load_kernel(memory, &mut self.kernel).context("--kernel")?;
        let needed = needed(&loaded);
        ensure!(
            needed <= size,
            "the kernel needs {} MiB of --memory",
            needed.div_ceil(1 << 20)
        );
        let mut params = boot_params::default();
        match loaded.setup_header {
            Some(header) => params.hdr = header,
            None => (params.hdr.boot_flag, params.hdr.header) = (0xaa55, 0x5372_6448),
        }
        // A loader without a number of its own.
        params.hdr.type_of_loader = 0xff;
        let cmdline = [self.cmdline.as_bytes(), &[0]].concat();
        memory.write_slice(&cmdline, GuestAddress(layout::CMDLINE))?;
        params.hdr.cmd_line_ptr = layout::CMDLINE as u32;
        params.hdr.cmdline_size = self.cmdline.len() as u32;
        if let Some(file) = &mut self.initrd {
            load_initrd(memory, needed..size, &mut params, file).context("--initrd")?;
        }
        describe_memory(&mut params, size);
        let params = BootParams::new(&params, GuestAddress(layout::ZERO_PAGE));
        LinuxBootConfigurator::write_bootparams(&params, memory)?;
        Ok(entry)
    }
}

/// A vmlinux or a bzImage; also gives the entry.
fn load_kernel(memory: &GuestMemoryMmap, file: &mut File) -> Result<(KernelLoaderResult, u64)> {
    let high = Some(GuestAddress(layout::HIGH));
    match Elf::load(memory, None, file, high) {
        Ok(loaded) => return Ok((loaded, loaded.kernel_load.0)),
        Err(LoadError::Elf(ElfError::InvalidElfMagicNumber)) => {}
        Err(e) => return Err(e).context("cannot be loaded as ELF; is --memory large enough?"),
    }
    let loaded = BzImage::load(memory, high, file, high).map_err(|e| match e {
        LoadError::Bzimage(e) => {
            anyhow!("is neither a vmlinux nor a bzImage that fits: {e}")
        }
        e => e.into(),
    })?;
    let flags = loaded.setup_header.map_or(0, |header| header.xloadflags);
    ensure!(flags & XLF_KERNEL_64 != 0, "is not a kernel of 64 bits");
    Ok((loaded, loaded.kernel_load.0 + ENTRY_64))
}

/// Where the memory ends that the kernel uses before it knows what else there is.
fn needed(loaded: &KernelLoaderResult) -> u64 {
    let unpacked = loaded.setup_header.map_or(0, |header| {
        header.pref_address.saturating_add(header.init_size.into())
    });
    unpacked.max(loaded.kernel_end)
}

/// At the end of memory, so far from the kernel that this can unpack itself.
fn load_initrd(
    memory: &GuestMemoryMmap,
    free: Range<u64>,
    params: &mut boot_params,
    file: &mut File,
) -> Result<()> {
    let length = file.metadata()?.len();
    let address = free.end.saturating_sub(length) & !(layout::PAGE - 1);
    ensure!(
        address >= free.start,
        "leaves the kernel too little memory: give more --memory"
    );
    memory.read_exact_volatile_from(GuestAddress(address), file, length as usize)?;
    params.hdr.ramdisk_image = address as u32;
    params.hdr.ramdisk_size = length as u32;
    Ok(())
}

fn describe_memory(params: &mut boot_params, size: u64) {
    let map = [
        (0, layout::LOW_END, E820_RAM),
        (layout::ACPI, layout::ACPI_END, E820_RESERVED),
        (layout::HIGH, size, E820_RAM),
    ];
    for (index, (start, end, type_)) in map.into_iter().enumerate() {
        params.e820_table[index] = boot_e820_entry {
            addr: start,
            size: end - start,
            type_,
        };
    }
    params.e820_entries = map.len() as u8;
}
