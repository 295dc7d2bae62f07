// SPDX-License-Identifier: GPL-2.0
//! A file that is the contents of a disk.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// In bytes.
pub const SECTOR: u64 = 512;

/// A disk of whole sectors.
pub struct Disk {
    file: File,
    size: u64,
}

impl Disk {
    /// Fails if the file cannot be read and written, or has another size than sectors have.
    pub fn open(path: &Path) -> Result<Self> {
        File::options()
            .read(true)
            .write(true)
            .open(path)
            .map_err(Into::into)
            .and_then(Self::from_file)
            .with_context(|| format!("disk {}", path.display()))
    }

    /// The same, of an open file.
    pub fn from_file(mut file: File) -> Result<Self> {
        // Unlike its metadata, this has the size of a block device, too.
        let size = file.seek(SeekFrom::End(0))?;
        ensure!(size > 0, "is empty");
        ensure!(
            size % SECTOR == 0,
            "{size} bytes are no multiple of {SECTOR}"
        );
        Ok(Self { file, size })
    }

    /// In bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The file at a sector, if whole sectors of `length` bytes from there on are on the disk.
    pub fn at(&mut self, sector: u64, length: usize) -> io::Result<&mut File> {
        let start = sector.checked_mul(SECTOR);
        let end = start.and_then(|start| start.checked_add(length as u64));
        match (start, end) {
            (Some(start), Some(end)) if end <= self.size && length as u64 % SECTOR == 0 => {
                self.file.seek(SeekFrom::Start(start))?;
                Ok(&mut self.file)
            }
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// What was written is kept, whatever happens.
    pub fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}
