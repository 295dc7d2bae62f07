// SPDX-License-Identifier: GPL-2.0
//! What one sees from all VMs down to who accesses a page, and on the way back.

use ratatui::crossterm::event::KeyCode;

use super::app::{Action, App};
use super::screen::tests::{app, app_of, screen_of, type_in};
use crate::device::sample;
use crate::region::Owner;
use crate::symbols::Symbols;

/// The words of each line of the table, and of the one that says where that is.
fn told(app: &mut App) -> Vec<String> {
    let screen = screen_of(app, 160, 16);
    let words = |line: &String| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let table = screen[5..15].iter().filter(|line| !line.is_empty());
    [&screen[1]].into_iter().chain(table).map(words).collect()
}

#[test]
fn from_vms_to_pages_to_vcpus_and_back() {
    let mut app = app();
    type_in(&mut app, "\t");
    let vms = told(&mut app);
    assert_eq!(
        vms[1..],
        [
            "VM PID process pages total acc/s % reads/s writes/s kernel/s user/s",
            "1 4711 - 3 10620 5310 99.6 60 5250 5300 10",
            "2 4712 - (ended) 1 42 21 0.4 20 1 0 21",
        ]
    );
    type_in(&mut app, "j\n");
    let pages = told(&mut app);
    // The accesses of no page are the other's.
    assert_eq!(pages[0], "VM 2");
    assert_eq!(pages.len(), 3, "{pages:?}");
    assert!(pages[2].starts_with("2 4712 - (ended) 0xfed00000 HPET 42 21 100.0"));
    type_in(&mut app, "\u{1b}k\n\n");
    let page = told(&mut app);
    assert!(
        page[0].starts_with("VM 1, page 0xfe003000; instructions are not known"),
        "{page:?}"
    );
    assert_eq!(
        page[1..],
        [
            "vCPU instruction symbol total acc/s % reads/s writes/s kernel/s user/s",
            "0 9000 4500 90.0 0 4500 4500 0",
            "1 1000 500 10.0 0 500 500 0",
        ]
    );
    // Nothing is below a vCPU.
    assert_eq!(type_in(&mut app, "\n"), Action::None);
    assert_eq!(told(&mut app), page);
    assert_eq!(type_in(&mut app, "\u{1b}\u{1b}"), Action::None);
    assert_eq!(told(&mut app), vms);
    assert_eq!(type_in(&mut app, "\u{1b}"), Action::Quit);
}

#[test]
fn instructions_of_a_page() {
    let mut app = app_of(&sample::traced());
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "ffffffff81000000 T ring_bell\n").unwrap();
    app.names.symbols = vec![(Owner::All, Symbols::read(file.path()).unwrap())];
    type_in(&mut app, "\n");
    let page = told(&mut app);
    assert_eq!(
        page[2..],
        [
            "0 9000 4500 90.0 0 4500 4500 0",
            "1 1000 500 10.0 0 500 500 0",
            "0xffffffff81000010 ring_bell+0x10 9990 4995 99.9 0 0 4995 0",
            "others 10 5 0.1 0 0 5 0",
        ]
    );
    assert!(!page[0].contains("instructions are not known"), "{page:?}");
}

#[test]
fn a_hundred_vms() {
    let mut app = app_of(&sample::many_vms(100));
    type_in(&mut app, "\t");
    let screen = screen_of(&mut app, 120, 30);
    assert!(screen[0].contains("90 VMs, 200 pages, 27775 accesses/s"));
    // A cell for each.
    assert_eq!(screen[2].chars().count(), 100);
    let rows = &screen[6..29];
    assert!(
        rows[0].starts_with(" 100     5100 - (ended) "),
        "{screen:?}"
    );
    assert!(rows[22].starts_with("  78     5078 - "), "{screen:?}");
    app.key(KeyCode::End.into());
    let screen = screen_of(&mut app, 120, 30);
    assert!(screen[28].starts_with("   1     5001 - "), "{screen:?}");
    type_in(&mut app, "kkkkkkkkk\n");
    assert_eq!(told(&mut app)[0], "VM 10");
    // What was chosen is in sight again.
    type_in(&mut app, "\u{1b}");
    let screen = screen_of(&mut app, 120, 30);
    assert!(
        screen[6..29]
            .iter()
            .any(|row| row.starts_with("  10     5010 - (ended)"))
    );
}

#[test]
fn a_page_of_one_vcpu() {
    let mut app = app();
    type_in(&mut app, "xj\n");
    let page = told(&mut app);
    assert!(
        page[0].starts_with("VM 1, page 0xfe003000 of vCPU 1"),
        "{page:?}"
    );
    assert_eq!(page.len(), 3, "{page:?}");
}

#[test]
fn what_was_chosen_stays_so_when_the_order_changes() {
    let mut app = app();
    // By accesses the APIC's page is second; by reads it is first.
    type_in(&mut app, "jo\n");
    assert!(told(&mut app)[0].starts_with("VM 1, page 0xfee00000 local APIC"));
    // Until another is chosen it is the first, whichever that is.
    type_in(&mut app, "\u{1b}");
    app.key(KeyCode::Home.into());
    type_in(&mut app, "o\n");
    assert!(told(&mut app)[0].starts_with("VM 1, page 0xfe003000"));
}
