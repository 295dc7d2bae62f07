// SPDX-License-Identifier: GPL-2.0
//! The load of the macro bench (`lab/macro`): process 1 of a guest with virtio-mmio devices.
//!
//! A line on the console asks for transactions, `tcp 500` or `read 500`. The answer, `load: 123`,
//! is the number of ticks of the time-stamp counter that they took.

use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::ptr;

use anyhow::{Context, Result, bail};
use kvm_mmio_selftests::host::ticks;

/// Where whatever is sent comes back.
const PEER: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 0, 2, 100), 5000);

const DISK: &str = "/dev/vda";
const BLOCK: usize = 4096;

/// A block of the disk: without the page cache its address in memory must be aligned as well.
#[repr(align(4096))]
struct Block([u8; BLOCK]);

struct Load {
    peer: TcpStream,
    disk: File,
    /// The size of the disk, in blocks.
    blocks: u64,
}

impl Load {
    fn new() -> Result<Self> {
        let peer = TcpStream::connect(PEER).context("the peer")?;
        peer.set_nodelay(true)?;
        let mut disk = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECT)
            .open(DISK)
            .context(DISK)?;
        let blocks = disk.seek(SeekFrom::End(0))? / BLOCK as u64;
        Ok(Load { peer, disk, blocks })
    }

    /// One byte there, one byte back.
    fn request_response(&mut self, count: u64) -> io::Result<()> {
        let mut byte = [0];
        for _ in 0..count {
            self.peer.write_all(&byte)?;
            self.peer.read_exact(&mut byte)?;
        }
        Ok(())
    }

    /// Blocks anywhere on the disk, one at a time, and the same ones each time.
    fn random_reads(&self, count: u64) -> io::Result<()> {
        let mut block = Block([0; BLOCK]);
        let mut random: u64 = 1;
        for _ in 0..count {
            // Marsaglia's xorshift64.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let offset = random % self.blocks * BLOCK as u64;
            self.disk.read_exact_at(&mut block.0, offset)?;
        }
        Ok(())
    }

    fn run(&mut self, line: &str) -> Result<u64> {
        let (what, count) = line.split_once(' ').context("a load and a number")?;
        let count = count.trim().parse().context("the number")?;
        let start = ticks();
        match what {
            "tcp" => self.request_response(count)?,
            "read" => self.random_reads(count)?,
            _ => bail!("no such load"),
        }
        Ok(ticks() - start)
    }
}

fn mount(kind: &CStr, directory: &CStr) -> io::Result<()> {
    // SAFETY: both names are terminated strings, and this file system takes no data.
    let status = unsafe {
        libc::mount(
            kind.as_ptr(),
            directory.as_ptr(),
            kind.as_ptr(),
            0,
            ptr::null(),
        )
    };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn main() -> Result<()> {
    mount(c"devtmpfs", c"/dev").context("devtmpfs on /dev")?;
    let mut load = Load::new()?;
    println!("load: ready");
    for line in io::stdin().lines() {
        let line = line?;
        let ticks = load.run(&line).with_context(|| format!("{line:?}"))?;
        // Always as many characters, each of which costs exits.
        println!("load: {ticks:16}");
    }
    Ok(())
}
