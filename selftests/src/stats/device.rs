// SPDX-License-Identifier: GPL-2.0
//! The extension's statistics file, read as Documentation/statistics-file.rst says.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail, ensure};

use super::counters::Counters;

pub const PATH: &str = "/dev/kvm_mmio_ext";

const VM: u16 = 1;
const VCPU: u16 = 2;
const PAGE: u16 = 3;

/// An open file.
pub struct Device(pub File);

/// What the file said when it was read last at offset 0.
#[derive(Debug)]
pub struct Snapshot {
    /// Bit 0: heat is on.
    pub flags: u32,
    pub pages_per_vcpu: u32,
    pub vms: Vec<Vm>,
}

#[derive(Debug)]
pub struct Vm {
    pub fields: Counters,
    pub vcpus: Vec<Vcpu>,
}

#[derive(Debug)]
pub struct Vcpu {
    pub fields: Counters,
    pub pages: Vec<Counters>,
}

impl Device {
    pub fn open() -> Result<Self> {
        Ok(Self(File::open(PATH).context(PATH)?))
    }

    /// The same, with heat on as long as it is open.
    pub fn open_counting() -> Result<Self> {
        let file = File::options().read(true).write(true).open(PATH);
        Ok(Self(file.context(PATH)?))
    }

    /// The whole file, read anew in pieces of `size` bytes.
    pub fn bytes(&self, size: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut piece = vec![0; size];
        loop {
            match self.0.read_at(&mut piece, bytes.len() as u64) {
                Ok(0) => return Ok(bytes),
                Ok(n) => bytes.extend_from_slice(&piece[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e).context(PATH),
            }
        }
    }

    pub fn snapshot(&self) -> Result<Snapshot> {
        Snapshot::parse(&self.bytes(1 << 16)?)
    }

    /// The VMs of this process, in the order in which they did MMIO first.
    pub fn my_vms(&self) -> Result<Vec<Vm>> {
        let me = u64::from(std::process::id());
        let vms = self.snapshot()?.vms;
        Ok(vms
            .into_iter()
            .filter(|vm| vm.fields["tgid"] == me)
            .collect())
    }
}

fn number(bytes: &[u8], at: usize, size: usize) -> Result<u64> {
    let field = bytes
        .get(at..at + size)
        .with_context(|| format!("the file ends before offset {}", at + size))?;
    Ok(field
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

fn size_at(bytes: &[u8], at: usize) -> Result<usize> {
    Ok(number(bytes, at, 4)? as usize)
}

/// A field of one kind of block.
struct Field {
    name: String,
    block: u16,
    size: usize,
    offset: usize,
}

impl Field {
    fn parse(bytes: &[u8]) -> Result<Self> {
        let name = bytes[..40].split(|byte| *byte == 0).next().unwrap_or(&[]);
        Ok(Self {
            name: String::from_utf8(name.to_vec())?,
            block: number(bytes, 40, 2)? as u16,
            size: number(bytes, 42, 2)? as usize,
            offset: size_at(bytes, 44)?,
        })
    }
}

impl Snapshot {
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        ensure!(bytes.get(..8) == Some(b"KVMMMIOX"), "wrong magic");
        ensure!(number(bytes, 8, 4)? == 3, "wrong version");
        let (start, size) = (size_at(bytes, 16)?, size_at(bytes, 20)?);
        let (count, data) = (size_at(bytes, 24)?, size_at(bytes, 28)?);
        let end = data + number(bytes, 32, 8)? as usize;
        ensure!(
            end == bytes.len(),
            "{end} bytes announced, {} read",
            bytes.len()
        );
        let fields = bytes[start..start + count * size]
            .chunks_exact(size)
            .map(Field::parse)
            .collect::<Result<Vec<_>>>()?;

        let mut snapshot = Self {
            flags: number(bytes, 60, 4)? as u32,
            pages_per_vcpu: number(bytes, 64, 4)? as u32,
            vms: Vec::new(),
        };
        let mut rest = &bytes[data..];
        while !rest.is_empty() {
            let (kind, size) = (number(rest, 0, 2)? as u16, size_at(rest, 4)?);
            ensure!(
                size >= 8 && size % 8 == 0 && size <= rest.len(),
                "a block of {size} bytes"
            );
            let (block, next) = rest.split_at(size);
            snapshot.add(kind, read_block(&fields, kind, block)?)?;
            rest = next;
        }
        ensure!(
            snapshot.vms.len() as u64 == number(bytes, 80, 4)?,
            "the number of VMs is wrong"
        );
        snapshot.vms.iter().try_for_each(Vm::check)?;
        Ok(snapshot)
    }

    fn add(&mut self, kind: u16, fields: Counters) -> Result<()> {
        if kind == VM {
            let vcpus = Vec::new();
            self.vms.push(Vm { fields, vcpus });
            return Ok(());
        }
        let vm = self.vms.last_mut().context("a block before that of a VM")?;
        if kind == VCPU {
            let pages = Vec::new();
            vm.vcpus.push(Vcpu { fields, pages });
            return Ok(());
        }
        let vcpu = vm.vcpus.last_mut().context("a page before a vCPU")?;
        match kind {
            PAGE => vcpu.pages.push(fields),
            _ => bail!("a block of kind {kind}"),
        }
        Ok(())
    }
}

fn read_block(fields: &[Field], kind: u16, block: &[u8]) -> Result<Counters> {
    fields
        .iter()
        .filter(|field| field.block == kind)
        .map(|field| {
            let value = number(block, field.offset, field.size)?;
            Ok((field.name.clone(), value))
        })
        .collect()
}

impl Vm {
    pub fn has_ended(&self) -> bool {
        self.fields["vm_flags"] & 1 != 0
    }

    /// What holds for any VM at any time.
    fn check(&self) -> Result<()> {
        let pages: usize = self.vcpus.iter().map(|vcpu| vcpu.pages.len()).sum();
        ensure!(
            self.fields["vcpu_count"] == self.vcpus.len() as u64,
            "{self:?}"
        );
        ensure!(self.fields["page_count"] == pages as u64, "{self:?}");
        for vcpu in &self.vcpus {
            ensure!(
                vcpu.fields["page_count"] == vcpu.pages.len() as u64,
                "{vcpu:?}"
            );
            for page in &vcpu.pages {
                let by_outcome = page["kernel"] + page["userspace"];
                ensure!(page["count"] == by_outcome, "{page:?}");
                let by_direction = page["reads"] + page["writes"] + page["wildcard"];
                ensure!(page["count"] == by_direction, "{page:?}");
                ensure!(page["vcpu"] == vcpu.fields["vcpu"], "{page:?}");
            }
        }
        Ok(())
    }
}

impl Vcpu {
    /// What the vCPU has done to a page; nothing if there is no record of it.
    pub fn page(&self, gpa: u64) -> Counters {
        let found = self.pages.iter().find(|page| page["gpa"] == gpa);
        found.cloned().unwrap_or_default()
    }

    /// Fails unless the counters of what has become of the faults add up.
    pub fn expect_balance(&self) -> Result<()> {
        let fields = &self.fields;
        ensure!(
            self.sum(&["fast", "emulated"]) == self.sum(&["cache_hit", "spte_hit", "read_only"]),
            "{fields:?}"
        );
        ensure!(
            self.sum(&["fast_ioeventfd", "fast_kernel", "fast_userspace"]) == fields["fast"],
            "{fields:?}"
        );
        ensure!(
            fields["fast_irqsoff"] <= fields["fast_ioeventfd"],
            "{fields:?}"
        );
        let seen = fields["emulated"].checked_sub(fields["emulated_unseen"]);
        ensure!(seen.is_some(), "{fields:?}");
        Ok(())
    }

    /// The same of a vCPU that heat was on for all the time: each access has a record, or was
    /// dropped, and a direction and a size, unless an ioeventfd took it unseen.
    pub fn expect_all_recorded(&self) -> Result<()> {
        self.expect_balance()?;
        let sized: u64 = ["read", "write"]
            .iter()
            .flat_map(|way| ["1", "2", "4", "8", "other"].map(|size| format!("{way}_{size}")))
            .map(|name| self.fields[&name])
            .sum();
        let recorded: u64 = self.pages.iter().map(|page| page["count"]).sum();
        ensure!(
            sized + self.fields["wildcard"] == recorded + self.fields["heat_dropped"],
            "{sized} and {recorded}: {:?}",
            self.fields
        );
        ensure!(self.fields["emulated_unseen"] == 0, "{:?}", self.fields);
        Ok(())
    }

    fn sum(&self, names: &[&str]) -> u64 {
        names.iter().map(|name| self.fields[*name]).sum()
    }
}
