// SPDX-License-Identifier: GPL-2.0
//! The load of the macro bench (`lab/macro`) and of `lab/vmm --bench`, in a guest.
//!
//! A line asks for transactions: `tcp 500`, `read 500`, or `read 500 16` to have 16 under way at a
//! time. The answer, `load: 123`, is the number of ticks of the time-stamp counter that they took.
//!
//! Without arguments this is process 1, and lines are those of the console. Otherwise each
//! argument is a line; before the first one, and after each, the guest rests for a moment, so that
//! who reads the answers can read counters as well.

use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::ptr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use kvm_mmio_selftests::host::ticks;
use kvm_mmio_selftests::reads::{BLOCK, Block, Reads};

/// Where whatever is sent comes back.
const PEER: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 0, 2, 100), 5000);

const REST: Duration = Duration::from_millis(250);

/// The load of a guest whose devices are measured
#[derive(Parser)]
struct Options {
    /// Where blocks are read
    #[arg(long, value_name = "FILE", default_value = "/dev/vda")]
    disk: PathBuf,

    /// What to do: tcp COUNT, read COUNT, or read COUNT DEPTH
    lines: Vec<String>,
}

struct Load {
    peer: TcpStream,
    disk: File,
    /// The size of the disk, in blocks.
    blocks: u64,
}

impl Load {
    fn new(disk: &Path) -> Result<Self> {
        let peer = TcpStream::connect(PEER).context("the peer")?;
        peer.set_nodelay(true)?;
        let mut disk = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECT)
            .open(disk)
            .with_context(|| disk.display().to_string())?;
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

    /// Blocks anywhere on the disk, one at a time.
    fn random_reads(&self, count: u64) -> io::Result<()> {
        let mut block = Block([0; BLOCK]);
        self.offsets(count)
            .try_for_each(|offset| self.disk.read_exact_at(&mut block.0, offset))
    }

    /// Offsets of blocks, in bytes, the same ones each time.
    fn offsets(&self, count: u64) -> impl Iterator<Item = u64> {
        let mut random: u64 = 1;
        (0..count).map(move |_| {
            // Marsaglia's xorshift64.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % self.blocks * BLOCK as u64
        })
    }

    fn run(&mut self, line: &str) -> Result<u64> {
        let words: Vec<_> = line.split_whitespace().collect();
        let (what, numbers) = words.split_first().context("no load")?;
        let numbers: Result<Vec<u64>, _> = numbers.iter().map(|word| word.parse()).collect();
        let numbers = numbers.context("a number")?;
        // What begins and ends them is not of the reads.
        let depth = numbers.get(1).map(|&depth| depth as usize);
        let mut reads = depth.map(Reads::new).transpose()?;
        let start = ticks();
        match (*what, &numbers[..], &mut reads) {
            ("tcp", &[count], _) => self.request_response(count)?,
            ("read", &[count], _) => self.random_reads(count)?,
            ("read", &[count, _], Some(reads)) => reads.read(&self.disk, self.offsets(count))?,
            _ => bail!("no such load"),
        }
        Ok(ticks() - start)
    }

    /// Does what a line asks for, and says how long it took.
    fn answer(&mut self, line: &str) -> Result<()> {
        let ticks = self.run(line).with_context(|| format!("{line:?}"))?;
        // Always as many characters, each of which costs exits.
        println!("load: {ticks:16}");
        Ok(())
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
    let options = Options::parse();
    if options.lines.is_empty() {
        match mount(c"devtmpfs", c"/dev") {
            // Whoever has started this has done it.
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy => (),
            mounted => mounted.context("devtmpfs on /dev")?,
        }
    }
    let mut load = Load::new(&options.disk)?;
    println!("load: ready");
    if options.lines.is_empty() {
        return io::stdin().lines().try_for_each(|line| load.answer(&line?));
    }
    thread::sleep(REST);
    for line in &options.lines {
        load.answer(line)?;
        thread::sleep(REST);
    }
    Ok(())
}
