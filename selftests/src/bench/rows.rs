// SPDX-License-Identifier: GPL-2.0
//! All rows.

use super::insn::Insn;
use super::places::{Places, Sites};
use super::row::{Event, Kind, OnWrite, Row, Space, Value};
use crate::guest::{Mode, PAGE};

const MATCH: Kind = Kind::Event(Event::DataMatch);
const LENGTH: Kind = Kind::Event(Event::Length);
const ANY: Kind = Kind::Event(Event::Any);

const STORE: Insn = Insn::Store(4);
const LOAD: Insn = Insn::Load(4);

/// So many bytes are between registers of devices, and doorbells of virtio-pci.
const REGISTER: u64 = 4;
/// And between the doorbells of NVMe's queues, which come in pairs.
const TAIL: u64 = 8;

const fn each(count: u64, stride: u64) -> Places {
    Places {
        count,
        stride,
        sites: Sites::Each,
    }
}

const fn one(count: u64, stride: u64) -> Places {
    Places {
        sites: Sites::One,
        ..each(count, stride)
    }
}

const fn pio(name: &'static str, kind: Kind, insn: Insn) -> Row {
    Row {
        name,
        port: Some(name),
        space: Space::Pio,
        kind,
        insn,
        mode: Mode::Long,
        places: each(1, PAGE),
        value: Value::Same,
        slots: 1,
        read_only: false,
        segments: false,
        doorbells: 1,
        others: 0,
        vcpus: 1,
    }
}

const fn mmio(name: &'static str, port: &'static str, kind: Kind, insn: Insn) -> Row {
    Row {
        port: Some(port),
        space: Space::Mmio,
        ..pio(name, kind, insn)
    }
}

/// A 4-byte write that an ioeventfd with a datamatch takes: what a virtio doorbell is.
const fn doorbell(name: &'static str) -> Row {
    mmio(name, "pio_event_match4", MATCH, STORE)
}

const fn user_write(name: &'static str) -> Row {
    mmio(name, "pio_user_write", Kind::User, STORE)
}

const fn user_read(name: &'static str) -> Row {
    read_by(name, LOAD)
}

const fn read_by(name: &'static str, insn: Insn) -> Row {
    mmio(name, "pio_user_read", Kind::User, insn)
}

/// A register that answers by itself: no port does.
const fn posted(name: &'static str, on_write: OnWrite, insn: Insn) -> Row {
    Row {
        port: None,
        ..mmio(name, "", Kind::Posted(on_write), insn)
    }
}

/// An exit that is no access. The extension has no part in it, but KVM asks it at exits.
const fn exit(name: &'static str, kind: Kind, insn: Insn) -> Row {
    Row {
        port: None,
        space: Space::None,
        ..pio(name, kind, insn)
    }
}

/// Two exits to userspace, a read and a write: no row by port I/O does as much.
const fn modify(name: &'static str, insn: Insn) -> Row {
    Row {
        port: None,
        ..mmio(name, "", Kind::User, insn)
    }
}

const fn in_mode(mode: Mode, row: Row) -> Row {
    Row { mode, ..row }
}

const fn at(places: Places, row: Row) -> Row {
    Row { places, ..row }
}

/// One instruction and one register, in so many address spaces.
const fn spaces(count: u64, row: Row) -> Row {
    let sites = Sites::Spaces;
    let places = one(count, 0);
    at(Places { sites, ..places }, row)
}

/// An instruction for each page.
const fn pages(count: u64, row: Row) -> Row {
    at(each(count, PAGE), row)
}

/// One instruction for all registers.
const fn registers(count: u64, row: Row) -> Row {
    at(one(count, REGISTER), row)
}

/// An instruction for each register.
const fn sites(count: u64, row: Row) -> Row {
    at(each(count, REGISTER), row)
}

/// virtio-pci's doorbells: the driver writes the number of the queue, in 2 bytes, and KVM is told
/// of the length or of none.
const fn queues(name: &'static str, count: u64, stride: u64, event: Event) -> Row {
    let port = match event {
        Event::Any => "pio_event_len0",
        _ => "pio_event_len4",
    };
    Row {
        places: one(count, stride),
        value: Value::Number,
        ..mmio(name, port, Kind::Event(event), Insn::Store(2))
    }
}

/// NVMe's doorbells: the driver writes how far it has got.
const fn tails(name: &'static str, count: u64) -> Row {
    changing(at(
        one(count, TAIL),
        mmio(name, "pio_event_len4", LENGTH, STORE),
    ))
}

const fn changing(row: Row) -> Row {
    let value = Value::Changes;
    Row { value, ..row }
}

const fn others(others: u32, row: Row) -> Row {
    Row { others, ..row }
}

const fn slots(slots: u32, row: Row) -> Row {
    Row { slots, ..row }
}

/// 32-bit code that limits its data segment.
const fn in_segments(row: Row) -> Row {
    let segments = true;
    in_mode(Mode::Pae, Row { segments, ..row })
}

/// Memory to read and a device to write.
const fn read_only(row: Row) -> Row {
    let read_only = true;
    Row { read_only, ..row }
}

const fn doorbells(doorbells: u32, row: Row) -> Row {
    Row { doorbells, ..row }
}

/// 64 instructions that ring one of 256 doorbells at an address, in a guest of 500 memslots.
const fn large(name: &'static str) -> Row {
    at(each(64, 0), slots(500, doorbells(256, doorbell(name))))
}

const fn vcpus(vcpus: u64, port: &'static str, row: Row) -> Row {
    Row {
        vcpus,
        port: Some(port),
        ..row
    }
}

#[rustfmt::skip] // One row a line.
pub const ROWS: &[Row] = &[
    pio("pio_user_write", Kind::User, STORE),
    pio("pio_user_read", Kind::User, LOAD),
    pio("pio_event_match1", MATCH, Insn::Store(1)),
    pio("pio_event_match2", MATCH, Insn::Store(2)),
    pio("pio_event_match4", MATCH, STORE),
    pio("pio_event_len4", LENGTH, STORE),
    pio("pio_event_len0", ANY, STORE),
    pio("pio_coalesced", Kind::Coalesced, STORE),
    pio("pio_missed", Kind::Missed, STORE),
    exit("exit_hlt", Kind::User, Insn::Halt),
    exit("exit_wrmsr", Kind::Kvm, Insn::WriteMsr),
    exit("exit_invd", Kind::Kvm, Insn::Invalidate),

    user_write("mmio_user_write"),
    user_read("mmio_user_read"),
    mmio("mmio_event_match1", "pio_event_match1", MATCH, Insn::Store(1)),
    mmio("mmio_event_match2", "pio_event_match2", MATCH, Insn::Store(2)),
    doorbell("mmio_event_match4"),
    mmio("mmio_event_match8", "pio_event_match4", MATCH, Insn::Store(8)),
    mmio("mmio_event_len4", "pio_event_len4", LENGTH, STORE),
    mmio("mmio_event_len0", "pio_event_len0", ANY, STORE),
    mmio("mmio_coalesced", "pio_coalesced", Kind::Coalesced, STORE),
    mmio("mmio_missed", "pio_missed", Kind::Missed, STORE),
    posted("mmio_posted_store", OnWrite::Store, STORE),
    posted("mmio_posted_clear", OnWrite::Clear, STORE),
    posted("mmio_posted_read", OnWrite::Store, LOAD),

    mmio("mmio_user_write_imm", "pio_user_write", Kind::User, Insn::StoreImmediate),
    mmio("mmio_event_match4_imm", "pio_event_match4", MATCH, Insn::StoreImmediate),
    read_by("mmio_user_read_8", Insn::Load(8)),
    read_by("mmio_user_read_movzx1", Insn::LoadZeroExtended(1)),
    read_by("mmio_user_read_movzx2", Insn::LoadZeroExtended(2)),
    read_by("mmio_user_read_movsx1", Insn::LoadSignExtended(1)),
    read_by("mmio_user_read_movsx2", Insn::LoadSignExtended(2)),
    read_by("mmio_user_read_movsxd", Insn::LoadSignExtended(4)),
    modify("mmio_user_or", Insn::Or),
    modify("mmio_user_xchg", Insn::Exchange),
    mmio("mmio_user_stos", "pio_user_write", Kind::User, Insn::Stos),

    pages(8, user_write("mmio_user_write_8_pages")),
    pages(8, user_read("mmio_user_read_8_pages")),
    pages(8, doorbell("mmio_event_match4_8_pages")),

    in_mode(Mode::La57, user_read("mmio_user_read_la57")),
    in_mode(Mode::La57, doorbell("mmio_event_match4_la57")),
    in_mode(Mode::Pae, user_read("mmio_user_read_pae")),
    in_mode(Mode::Pae, doorbell("mmio_event_match4_pae")),
    in_mode(Mode::Flat, user_read("mmio_user_read_flat")),
    in_mode(Mode::Flat, doorbell("mmio_event_match4_flat")),
    in_segments(user_read("mmio_user_read_segments")),
    in_mode(Mode::Pae, modify("mmio_user_or_pae", Insn::Or)),
    in_segments(doorbell("mmio_event_match4_segments")),
    in_segments(mmio("mmio_event_len0_segments", "pio_event_len0", ANY, STORE)),

    read_only(doorbell("mmio_event_match4_read_only")),
    read_only(posted("mmio_posted_store_read_only", OnWrite::Store, STORE)),
    read_only(user_write("mmio_user_write_read_only")),
    read_only(modify("mmio_user_or_read_only", Insn::Or)),

    slots(10, doorbell("mmio_event_match4_10_slots")),
    slots(100, doorbell("mmio_event_match4_100_slots")),
    slots(500, doorbell("mmio_event_match4_500_slots")),
    slots(500, user_write("mmio_user_write_500_slots")),

    doorbells(16, doorbell("mmio_event_match4_16_fds")),
    doorbells(64, doorbell("mmio_event_match4_64_fds")),
    doorbells(256, doorbell("mmio_event_match4_256_fds")),

    queues("mmio_queues_2", 2, REGISTER, Event::Length),
    queues("mmio_queues_8", 8, REGISTER, Event::Length),
    queues("mmio_queues_64", 64, REGISTER, Event::Length),
    queues("mmio_queues_256", 256, REGISTER, Event::Length),
    queues("mmio_queues_900", 900, REGISTER, Event::Length),
    others(900, queues("mmio_queues_8_900_others", 8, REGISTER, Event::Length)),
    queues("mmio_queues_8_pages", 8, PAGE, Event::Length),
    queues("mmio_queues_256_pages", 256, PAGE, Event::Length),
    queues("mmio_queues_len0_2", 2, REGISTER, Event::Any),
    queues("mmio_queues_len0_64", 64, REGISTER, Event::Any),
    queues("mmio_queues_len0_900", 900, REGISTER, Event::Any),
    queues("mmio_queues_len0_8_pages", 8, PAGE, Event::Any),
    others(900, queues("mmio_queues_len0_8_900_others", 8, REGISTER, Event::Any)),

    tails("mmio_tails_1", 1),
    tails("mmio_tails_8", 8),
    tails("mmio_tails_64", 64),
    tails("mmio_tails_256", 256),
    tails("mmio_tails_900", 900),
    others(64, tails("mmio_tails_1_64_others", 1)),
    others(900, tails("mmio_tails_1_900_others", 1)),
    others(900, tails("mmio_tails_64_900_others", 64)),
    changing(mmio("mmio_event_len0_changes", "pio_event_len0", ANY, STORE)),
    others(900, mmio("mmio_event_len0_900_others", "pio_event_len0", ANY, STORE)),

    registers(900, doorbell("mmio_event_match4_900_bells")),
    others(1, doorbell("mmio_event_match4_1_others")),
    others(8, doorbell("mmio_event_match4_8_others")),
    others(64, doorbell("mmio_event_match4_64_others")),
    others(900, doorbell("mmio_event_match4_900_others")),

    registers(32, user_write("mmio_user_write_32_regs")),
    registers(64, user_write("mmio_user_write_64_regs")),
    others(320, registers(64, user_write("mmio_user_write_64_regs_320_others"))),
    others(900, registers(256, user_write("mmio_user_write_256_regs_900_others"))),
    registers(256, user_read("mmio_user_read_256_regs")),

    sites(32, user_write("mmio_user_write_32_sites")),
    sites(48, user_write("mmio_user_write_48_sites")),
    sites(512, user_write("mmio_user_write_512_sites")),
    sites(512, user_read("mmio_user_read_512_sites")),
    sites(64, doorbell("mmio_event_match4_64_sites")),
    sites(512, doorbell("mmio_event_match4_512_sites")),
    large("mmio_event_match4_large"),
    changing(sites(512, mmio("mmio_event_len4_512_sites", "pio_event_len4", LENGTH, STORE))),
    pages(64, user_write("mmio_user_write_64_pages")),
    pages(256, user_write("mmio_user_write_256_pages")),
    pages(256, user_read("mmio_user_read_256_pages")),
    pages(256, doorbell("mmio_event_match4_256_pages")),
    spaces(8, doorbell("mmio_event_match4_8_spaces")),
    spaces(64, doorbell("mmio_event_match4_64_spaces")),
    spaces(256, doorbell("mmio_event_match4_256_spaces")),
    spaces(256, user_write("mmio_user_write_256_spaces")),
    changing(pages(64, mmio("mmio_event_len4_64_pages", "pio_event_len4", LENGTH, STORE))),

    vcpus(2, "pio_user_write_2_vcpus", pio("pio_user_write_2_vcpus", Kind::User, STORE)),
    vcpus(4, "pio_user_write_4_vcpus", pio("pio_user_write_4_vcpus", Kind::User, STORE)),
    vcpus(2, "pio_event_match4_2_vcpus", pio("pio_event_match4_2_vcpus", MATCH, STORE)),
    vcpus(4, "pio_event_match4_4_vcpus", pio("pio_event_match4_4_vcpus", MATCH, STORE)),
    vcpus(2, "pio_user_write_2_vcpus", user_write("mmio_user_write_2_vcpus")),
    vcpus(4, "pio_user_write_4_vcpus", user_write("mmio_user_write_4_vcpus")),
    vcpus(2, "pio_event_match4_2_vcpus", doorbell("mmio_event_match4_2_vcpus")),
    vcpus(4, "pio_event_match4_4_vcpus", doorbell("mmio_event_match4_4_vcpus")),
    vcpus(4, "pio_event_match4_4_vcpus", large("mmio_event_match4_large_4_vcpus")),
];

/// The rows that `parts` name, and the port rows that they are compared with, in the order of
/// [`ROWS`]. A part is the name of a row, or something that is in the names of some.
pub fn choose(parts: &[String]) -> Result<Vec<&'static Row>, String> {
    let is_named = |row: &Row, part: &str| {
        if ROWS.iter().any(|row| row.name == part) {
            row.name == part
        } else {
            row.name.contains(part)
        }
    };
    if let Some(part) = parts
        .iter()
        .find(|part| !ROWS.iter().any(|row| is_named(row, part)))
    {
        return Err(format!("no row has {part:?} in its name; see --list"));
    }
    let wanted = |row: &Row| parts.is_empty() || parts.iter().any(|part| is_named(row, part));
    let ports: Vec<_> = ROWS
        .iter()
        .filter(|row| wanted(row))
        .filter_map(|row| row.port)
        .collect();
    Ok(ROWS
        .iter()
        .filter(|row| wanted(row) || ports.contains(&row.name))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::{Kind, ROWS, Sites, Space, Value, choose};

    fn names(parts: &[&str]) -> Vec<&'static str> {
        let parts: Vec<_> = parts.iter().map(|part| part.to_string()).collect();
        choose(&parts).unwrap().iter().map(|row| row.name).collect()
    }

    #[test]
    fn names_are_unique_and_ports_exist() {
        for row in ROWS {
            let same: Vec<_> = ROWS.iter().filter(|other| other.name == row.name).collect();
            assert_eq!(same.len(), 1, "{}", row.name);
            let Some(port) = row.port else { continue };
            let port = ROWS.iter().find(|other| other.name == port).unwrap();
            assert_eq!(port.space, Space::Pio, "{}", row.name);
            assert_eq!(port.kind, row.kind, "{}", row.name);
            assert_eq!(port.vcpus, row.vcpus, "{}", row.name);
        }
    }

    #[test]
    fn what_needs_a_64_bit_guest_has_one() {
        for row in ROWS {
            let needs = row.places.sites != Sites::Each || row.value == Value::Changes;
            assert!(!needs || row.mode.is_long(), "{}", row.name);
        }
    }

    #[test]
    fn the_bus_has_room() {
        // NR_IOBUS_DEVS of Linux.
        const MOST: u64 = 1000;
        for row in ROWS {
            let devices = match row.kind {
                Kind::User | Kind::Kvm => 0,
                _ => row.places.distinct() * u64::from(row.doorbells),
            };
            assert!(devices + u64::from(row.others) <= MOST, "{}", row.name);
        }
    }

    #[test]
    fn a_whole_name_means_one_row_and_its_port_row() {
        assert_eq!(
            names(&["mmio_user_write"]),
            ["pio_user_write", "mmio_user_write"]
        );
    }

    #[test]
    fn a_part_of_a_name_means_all_rows_that_have_it() {
        assert_eq!(
            names(&["_flat"]),
            [
                "pio_user_read",
                "pio_event_match4",
                "mmio_user_read_flat",
                "mmio_event_match4_flat"
            ]
        );
        assert_eq!(names(&[]).len(), ROWS.len());
        assert!(choose(&["nothing".to_owned()]).is_err());
    }
}
