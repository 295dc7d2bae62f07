// SPDX-License-Identifier: GPL-2.0
//! The kernel's statistics file, see Documentation/statistics-file.rst. Everything in it is found by the
//! sizes and offsets in its header and by the names in its descriptors.

use std::collections::BTreeMap;
use std::mem::offset_of;

use super::wire_error::{Fault, WireError, at};
use crate::counts::Counts;
use crate::reading::{Clock, Direction, Last, Page, Reading, TRACED, Vcpu, Vm};
use crate::site::{SOMEWHERE, Site};
use crate::stats_format::{
    self as format, Place, Type, UNKNOWN_RIP, VERSION, descriptor, head, header,
};

/// A part of the file that knows where it is.
#[derive(Clone, Copy)]
struct Part<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Part<'a> {
    fn part(self, offset: usize, size: usize) -> Result<Self, WireError> {
        let end = offset.checked_add(size);
        let bytes = end.and_then(|end| self.bytes.get(offset..end));
        Ok(Self {
            bytes: bytes.ok_or_else(|| at(self.offset)(Fault::Outside))?,
            offset: self.offset + offset,
        })
    }

    /// An unsigned little-endian number of 1 to 8 bytes.
    fn number(self, place: Place) -> Result<u64, WireError> {
        let bytes = self.part(place.offset, place.size)?.bytes;
        Ok(bytes
            .iter()
            .rev()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    }

    /// A number that is a size or an offset.
    fn length(self, place: Place) -> Result<usize, WireError> {
        Ok(self.number(place)? as usize)
    }
}

struct Descriptor<'a> {
    name: &'a str,
    block: u16,
    place: Place,
    cumulative: bool,
}

impl<'a> Descriptor<'a> {
    fn parse(part: Part<'a>) -> Result<Self, WireError> {
        let name = part.part(descriptor::NAME.offset, descriptor::NAME.size)?;
        let name = name.bytes.split(|byte| *byte == 0).next();
        let size = part.length(descriptor::FIELD_SIZE)?;
        if !matches!(size, 1 | 2 | 4 | 8) {
            let offset = part.offset + descriptor::FIELD_SIZE.offset;
            return Err(at(offset)(Fault::FieldSize(size)));
        }
        Ok(Self {
            // A name that is no text is one that nobody asks for.
            name: std::str::from_utf8(name.unwrap_or_default()).unwrap_or_default(),
            block: part.number(descriptor::BLOCK)? as u16,
            place: Place {
                offset: part.length(descriptor::FIELD_OFFSET)?,
                size,
            },
            cumulative: part.number(descriptor::TYPE)? == Type::Cumulative as u64,
        })
    }
}

/// The names of fields, each of which the format's block has, or else it does not compile.
macro_rules! names {
    ($block:ident: $($name:ident),+ $(,)?) => {
        [$({
            let _ = offset_of!(format::$block, $name);
            stringify!($name)
        }),+]
    };
}

/// The fields that are read of a kind of block, in the order in which they were asked for.
struct Layout<const N: usize>([Place; N]);

impl<const N: usize> Layout<N> {
    fn find(
        descriptors: &[Descriptor],
        (kind, title): (u16, &'static str),
        names: [&'static str; N],
    ) -> Result<Self, Fault> {
        let mut places = [head::KIND; N];
        for (place, name) in places.iter_mut().zip(names) {
            let mut all = descriptors.iter();
            let found = all.find(|found| found.block == kind && found.name == name);
            *place = found.ok_or(Fault::NoField(title, name))?.place;
        }
        Ok(Self(places))
    }

    fn read(&self, block: Part) -> Result<[u64; N], WireError> {
        let mut values = [0; N];
        for (value, place) in values.iter_mut().zip(self.0) {
            *value = block.number(place)?;
        }
        Ok(values)
    }
}

/// The fields of all kinds of blocks.
struct Layouts {
    vm: Layout<6>,
    vcpu: Layout<1>,
    /// Of vCPUs, by name; whatever the kernel has.
    counters: Vec<(String, Place)>,
    page: Layout<15>,
}

impl Layouts {
    fn find(descriptors: &[Descriptor]) -> Result<Self, Fault> {
        let counters = descriptors
            .iter()
            .filter(|field| field.block == format::Vcpu::KIND && field.cumulative)
            .map(|field| (field.name.to_owned(), field.place));
        Ok(Self {
            vm: Layout::find(
                descriptors,
                (format::Vm::KIND, "VMs"),
                names!(Vm: vm, tgid, vcpu_count, page_count, vm_flags, heat_dropped),
            )?,
            vcpu: Layout::find(
                descriptors,
                (format::Vcpu::KIND, "vCPUs"),
                names!(Vcpu: vcpu),
            )?,
            counters: counters.collect(),
            page: Layout::find(
                descriptors,
                (format::Page::KIND, "pages"),
                names!(
                    Page: gpa, last_size, last_width, last_direction, last_outcome, count, reads,
                    writes, kernel, userspace, fast, wildcard, cycles, last_tsc, rip,
                ),
            )?,
        })
    }

    /// What was done to a page, and by which instruction if that is told.
    fn page(&self, block: Part) -> Result<((u64, Option<u64>), Page), WireError> {
        let [
            gpa,
            size,
            width,
            direction,
            outcome,
            count,
            reads,
            writes,
            kernel,
            userspace,
            fast,
            wildcard,
            cycles,
            tsc,
            rip,
        ] = self.page.read(block)?;
        let page = Page {
            counts: Counts {
                count,
                reads,
                writes,
                kernel,
                userspace,
                fast,
                wildcard,
                cycles,
            },
            last: Last {
                size: size as u8,
                width: width as u8,
                direction: Direction::from(direction),
                outcome: outcome as u8,
                tsc,
            },
        };
        Ok(((gpa, (rip != UNKNOWN_RIP).then_some(rip)), page))
    }
}

/// Reads the statistics file.
pub fn parse(bytes: &[u8]) -> Result<Reading, WireError> {
    let file = Part { bytes, offset: 0 };
    let magic = &format::MAGIC[..bytes.len().min(header::MAGIC.size)];
    if !bytes.starts_with(magic) {
        return Err(at(0)(Fault::Magic));
    }
    if bytes.len() < header::SIZE {
        return Err(at(bytes.len())(Fault::Truncated));
    }
    let version = file.number(header::VERSION)?;
    if version != u64::from(VERSION) {
        return Err(at(header::VERSION.offset)(Fault::Version(version)));
    }
    let data_offset = file.length(header::DATA_OFFSET)?;
    let data_size = file.length(header::DATA_SIZE)?;
    if data_offset
        .checked_add(data_size)
        .is_none_or(|end| end > bytes.len())
    {
        return Err(at(bytes.len())(Fault::Truncated));
    }
    let desc_offset = file.length(header::DESC_OFFSET)?;
    let layouts = Layouts::find(&descriptors(file)?).map_err(at(desc_offset))?;
    let mut walk = Walk::new(&layouts, file.number(header::VM_COUNT)?);
    walk.blocks(file.part(data_offset, data_size)?)?;
    walk.check_counts().map_err(at(data_offset))?;
    Ok(Reading {
        clock: clock(file)?,
        counters: layouts
            .counters
            .iter()
            .map(|(name, _)| name.clone())
            .collect(),
        vms: walk.vms,
    })
}

fn clock(file: Part) -> Result<Clock, WireError> {
    // None of these numbers has more than the 32 bits that it is cut to.
    let short = |place| file.number(place).map(|number| number as u32);
    Ok(Clock {
        tsc: file.number(header::TSC)?,
        boottime: file.number(header::BOOTTIME)?,
        tsc_khz: short(header::TSC_KHZ)?,
        flags: short(header::FLAGS)? & !TRACED,
        pages_per_vcpu: short(header::PAGES_PER_VCPU)?,
        vms_kept: short(header::VMS_KEPT)?,
        lost: file.number(header::VMS_LOST)?,
    })
}

fn descriptors(file: Part) -> Result<Vec<Descriptor>, WireError> {
    let mut offset = file.length(header::DESC_OFFSET)?;
    let size = file.length(header::DESC_SIZE)?;
    let mut descriptors = Vec::new();
    for _ in 0..file.length(header::DESC_COUNT)? {
        descriptors.push(Descriptor::parse(file.part(offset, size)?)?);
        offset += size;
    }
    Ok(descriptors)
}

/// Goes over the blocks, each of which belongs to the last one of the kind above it.
struct Walk<'a> {
    layouts: &'a Layouts,
    vms: BTreeMap<u64, Vm>,
    vm: Option<u64>,
    vcpu: Option<u32>,
    /// VMs, vCPUs, pages.
    found: [u64; 3],
    promised: [u64; 3],
}

impl<'a> Walk<'a> {
    fn new(layouts: &'a Layouts, vms: u64) -> Self {
        Self {
            layouts,
            vms: BTreeMap::new(),
            vm: None,
            vcpu: None,
            found: [0; 3],
            promised: [vms, 0, 0],
        }
    }

    fn blocks(&mut self, data: Part) -> Result<(), WireError> {
        let mut offset = 0;
        while offset < data.bytes.len() {
            let rest = data.part(offset, data.bytes.len() - offset)?;
            let size = rest.length(head::BLOCK_SIZE)?;
            if size < head::SIZE {
                return Err(at(rest.offset + head::BLOCK_SIZE.offset)(Fault::Outside));
            }
            let block = rest.part(0, size)?;
            match rest.number(head::KIND)? as u16 {
                format::Vm::KIND => self.vm(block)?,
                format::Vcpu::KIND => self.vcpu(block)?,
                format::Page::KIND => self.page(block)?,
                _ => {}
            }
            offset += size;
        }
        Ok(())
    }

    fn vm(&mut self, block: Part) -> Result<(), WireError> {
        let [id, tgid, vcpus, pages, flags, heat_dropped] = self.layouts.vm.read(block)?;
        self.vms.insert(
            id,
            Vm {
                tgid: tgid as u32,
                ended: flags & u64::from(format::ENDED) != 0,
                heat_dropped,
                vcpus: BTreeMap::new(),
            },
        );
        (self.vm, self.vcpu) = (Some(id), None);
        self.found[0] += 1;
        self.promised[1] += vcpus;
        self.promised[2] += pages;
        Ok(())
    }

    fn vcpu(&mut self, block: Part) -> Result<(), WireError> {
        let [id] = self.layouts.vcpu.read(block)?;
        let fields = self.layouts.counters.iter();
        let counters = fields
            .map(|(_, place)| block.number(*place))
            .collect::<Result<_, _>>()?;
        let vm = self.vm.and_then(|id| self.vms.get_mut(&id));
        vm.ok_or_else(|| at(block.offset)(Fault::Stray))?
            .vcpus
            .insert(
                id as u32,
                Vcpu {
                    counters,
                    ..Vcpu::default()
                },
            );
        self.vcpu = Some(id as u32);
        self.found[1] += 1;
        Ok(())
    }

    fn page(&mut self, block: Part) -> Result<(), WireError> {
        let ((gpa, rip), page) = self.layouts.page(block)?;
        let vm = self.vm.and_then(|id| self.vms.get_mut(&id));
        let vcpu = vm.zip(self.vcpu).and_then(|(vm, id)| vm.vcpus.get_mut(&id));
        let vcpu = vcpu.ok_or_else(|| at(block.offset)(Fault::Stray))?;
        *vcpu.pages.entry(gpa).or_default() += &page;
        if rip.is_some() {
            let site = vcpu.sites.entry((gpa | SOMEWHERE, rip)).or_default();
            *site += &Site::from(page.counts);
        }
        self.found[2] += 1;
        Ok(())
    }

    fn check_counts(&self) -> Result<(), Fault> {
        let titles = ["VM", "vCPU", "page"];
        let mut counts = titles
            .into_iter()
            .zip(self.found.into_iter().zip(self.promised));
        match counts.find(|(_, (found, promised))| found != promised) {
            Some((title, (found, promised))) => Err(Fault::Count(title, found, promised)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::device::sample;

    #[test]
    fn a_file_of_the_kernel() {
        let reading = parse(&sample::file(&sample::two_vms())).unwrap();
        assert_eq!(reading, sample::two_vms());
    }

    /// Blocks of one page, whose instructions are told apart, and accesses from before.
    #[test]
    fn instructions_of_a_page() {
        let mut reading = sample::told();
        let bytes = sample::file(&reading);
        assert_eq!(parse(&bytes).unwrap(), reading);
        let page = |reading: &Reading| reading.vms[&1].vcpus[&0].pages[&0xfe00_3000];
        assert_eq!(page(&reading), page(&sample::two_vms()));
        reading = reading.since(&sample::two_vms());
        let sites = &reading.vms[&1].vcpus[&0].sites;
        assert_eq!(sites.len(), 2);
    }

    #[test]
    fn no_vm_at_all() {
        let reading = sample::idle();
        assert_eq!(parse(&sample::file(&reading)).unwrap(), reading);
    }

    /// What a later kernel may add: longer header, descriptors and blocks, fields and kinds of
    /// blocks.
    #[test]
    fn a_later_kernel() {
        let bytes = sample::Form::later().file(&sample::two_vms());
        assert_eq!(parse(&bytes).unwrap(), sample::two_vms());
    }

    #[test]
    fn what_is_wrong_is_said() {
        let file = sample::file(&sample::two_vms());
        let message = |bytes: &[u8]| parse(bytes).unwrap_err().to_string();
        let patched = |offset: usize, byte| {
            let mut bytes = file.clone();
            bytes[offset] = byte;
            message(&bytes)
        };
        assert!(message(b"").contains("at byte 0, it ends too early"));
        assert!(message(b"cache_hit 5\n").contains("not the statistics file"));
        assert!(patched(8, 1).contains("its version is 1, this program knows version 3"));
        assert!(patched(80, 9).contains("its 2 VM blocks") || patched(80, 9).contains("says 9"));
        let last = file.len() - 1;
        assert!(message(&file[..last]).contains(&format!("at byte {last}, it ends too early")));
        let name = file
            .windows(10)
            .position(|name| name == b"last_width")
            .unwrap();
        assert!(patched(name, b'L').contains("no field \"last_width\" for pages"));
        assert!(patched(name + 42, 3).contains("a field of 3 bytes"));
    }

    proptest! {
        #[test]
        fn every_reading_comes_back(reading in sample::reading()) {
            prop_assert_eq!(parse(&sample::file(&reading)).unwrap(), reading);
        }

        /// Cut off anywhere, it is an error, which lies in the file.
        #[test]
        fn truncation(reading in sample::reading(), cut in any::<prop::sample::Index>()) {
            let bytes = sample::file(&reading);
            let cut = cut.index(bytes.len());
            prop_assert!(parse(&bytes[..cut]).unwrap_err().offset <= cut);
        }

        /// Whatever the bytes are, there is an answer.
        #[test]
        fn hostile(reading in sample::reading(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12)) {
            let mut bytes = sample::file(&reading);
            for (place, byte) in changes {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            if let Err(error) = parse(&bytes) {
                prop_assert!(error.offset <= bytes.len());
            }
        }

        /// The same where it hurts: sizes, offsets and counts of the header.
        #[test]
        fn hostile_header(reading in sample::reading(), offset in (12usize..40).prop_map(|offset| offset & !3), value in any::<u32>()) {
            let mut bytes = sample::file(&reading);
            bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
            let _ = parse(&bytes);
        }

        #[test]
        fn noise(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse(&bytes);
        }
    }
}
