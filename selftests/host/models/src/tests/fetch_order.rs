// SPDX-License-Identifier: GPL-2.0
//! The order in which `mmio_ext_code_is_current()` reads again what maps a known instruction, and
//! its bytes. Another vCPU changes page tables and code meanwhile, each before it is mapped: from
//! the root down and with the code last, only what was at RIP at some time is completed.
//!
//! That function is C, so what is tried here is its order, in a guest with two levels of tables.

use super::explore;
use loom::{
    sync::atomic::{
        AtomicUsize,
        Ordering::{Acquire, Release},
    },
    thread,
};
use std::{cell::Cell, rc::Rc};

/// The guest's memory: the root names one of two tables, the entry of each one of two pages, and
/// at the beginning of those is an instruction.
type Words = [usize; 5];
const ROOT: usize = 0;
const ENTRIES: usize = 1;
const CODES: usize = 3;

/// Instructions. The first is what the vCPU knows, from an earlier time.
const KNOWN: usize = 0;
const NEW: usize = 1;
const OTHER: usize = 2;

fn at_rip(words: &Words) -> usize {
    words[CODES + words[ENTRIES + words[ROOT]]]
}

/// What was read when the known instruction was: the first table, the first page, the instruction.
const READ: [(usize, usize); 3] = [(ROOT, 0), (ENTRIES, 0), (CODES, KNOWN)];

/// Orders of these three.
const DOWN_TO_CODE: [usize; 3] = [0, 1, 2];
const CODE_FIRST: [usize; 3] = [2, 0, 1];
const UP_TO_ROOT: [usize; 3] = [1, 0, 2];
const ALL_REVERSED: [usize; 3] = [2, 1, 0];

/// What another vCPU writes, one word after another.
struct Changes {
    before: Words,
    writes: [(usize, usize); 3],
}

/// The page of the known instruction gets another one, is mapped, and then has it again.
const OF_CODE: Changes = Changes {
    before: [0, 1, 1, KNOWN, OTHER],
    writes: [(CODES, NEW), (ENTRIES, 0), (CODES, KNOWN)],
};

/// The table that maps the page of the known instruction gets another entry, is put under the
/// root, and then maps that page again.
const OF_TABLES: Changes = Changes {
    before: [1, 0, 1, KNOWN, OTHER],
    writes: [(ENTRIES, 1), (ROOT, 0), (ENTRIES, 0)],
};

/// A vCPU whose access was not the known instruction's asks whether that is at RIP.
fn compare(changes: &'static Changes, order: [usize; 3]) {
    explore(move || {
        let memory = Rc::new(changes.before.map(AtomicUsize::new));
        let was_at_rip = Rc::new(Cell::new(at_rip(&changes.before) == KNOWN));

        let changer = {
            let (memory, was_at_rip) = (memory.clone(), was_at_rip.clone());
            thread::spawn(move || {
                let mut words = changes.before;
                for (word, value) in changes.writes {
                    words[word] = value;
                    memory[word].store(value, Release);
                    // In the same step: threads take turns in front of what they share.
                    was_at_rip.set(was_at_rip.get() || at_rip(&words) == KNOWN);
                }
            })
        };
        let is_current = order
            .iter()
            .map(|n| READ[*n])
            .all(|(word, value)| memory[word].load(Acquire) == value);
        assert!(!is_current || was_at_rip.get(), "was never at RIP");
        changer.join().unwrap();

        is_current
    });
}

#[test]
fn what_is_read_down_to_the_code_was_at_rip() {
    compare(&OF_CODE, DOWN_TO_CODE);
    compare(&OF_TABLES, DOWN_TO_CODE);
}

#[test]
#[should_panic(expected = "was never at RIP")]
fn code_must_not_be_read_first() {
    compare(&OF_CODE, CODE_FIRST);
}

#[test]
#[should_panic(expected = "was never at RIP")]
fn entries_must_not_be_read_upwards() {
    compare(&OF_TABLES, UP_TO_ROOT);
}

#[test]
#[should_panic(expected = "was never at RIP")]
fn nothing_must_be_read_in_reverse() {
    compare(&OF_CODE, ALL_REVERSED);
}
