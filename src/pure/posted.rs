// SPDX-License-Identifier: GPL-2.0

//! Registers that answer by themselves: what an access does to a word of userspace's memory.
//!
//! `Documentation/registers.rst` says what userspace may rely on.

use crate::{
    addr::Gpa,
    iodev::Write,
    word::Word, //
};

/// What a write does to the word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnWrite {
    /// It becomes what is written.
    Store,
    /// It loses the bits that are written as 1.
    Clear,
    /// It gets the bits that are written as 1.
    Set,
}

/// What a read returns, and does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnRead {
    /// It returns the word.
    Return,
    /// It returns the word, which is 0 from then on.
    Take,
}

/// Which writes signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// None.
    Never,
    /// All.
    Always,
    /// Those of one value.
    Value(u64),
    /// Those that change the word.
    Change,
}

/// What accesses do to a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register {
    /// Where it is.
    pub gpa: Gpa,
    /// Bytes: 1, 2, 4 or 8.
    pub size: u8,
    /// `None` if writes are for userspace.
    pub on_write: Option<OnWrite>,
    /// `None` if reads are.
    pub on_read: Option<OnRead>,
    /// Which writes signal.
    pub signal: Signal,
}

impl Register {
    /// Does a write, if it is for the register, i.e. all of it and nothing else. Returns whether to
    /// signal. The word has changed by then.
    #[inline(always)]
    pub fn write(&self, word: &impl Word, write: &Write) -> Option<bool> {
        let is_for_it = self.is_at(write.gpa, write.size) && self.on_write.is_some();
        is_for_it.then(|| self.write_value(word, write.value))
    }

    /// Does a write that is for the register. Returns whether to signal.
    #[inline(always)]
    pub fn write_value(&self, word: &impl Word, value: u64) -> bool {
        match self.signal {
            Signal::Change => self.changes(word, value),
            // What the word was does not matter.
            signal => {
                match self.on_write {
                    Some(OnWrite::Store) => word.store(value),
                    Some(OnWrite::Clear) => {
                        word.fetch_and(!value);
                    }
                    Some(OnWrite::Set) => {
                        word.fetch_or(value);
                    }
                    None => (),
                }
                match signal {
                    Signal::Value(wanted) => value == wanted,
                    signal => signal == Signal::Always,
                }
            }
        }
    }

    /// The same. Returns whether the word has changed.
    fn changes(&self, word: &impl Word, value: u64) -> bool {
        match self.on_write {
            Some(OnWrite::Store) => word.swap(value) != value,
            Some(OnWrite::Clear) => word.fetch_and(!value) & value != 0,
            Some(OnWrite::Set) => !word.fetch_or(value) & value != 0,
            None => false,
        }
    }

    /// Does a read, if it is for the register.
    #[inline(always)]
    pub fn read(&self, word: &impl Word, gpa: Gpa, size: u8) -> Option<u64> {
        if !self.is_at(gpa, size) {
            return None;
        }
        Some(match self.on_read? {
            OnRead::Return => word.load(),
            OnRead::Take => word.swap(0),
        })
    }

    #[inline(always)]
    fn is_at(&self, gpa: Gpa, size: u8) -> bool {
        self.gpa == gpa && self.size == size
    }
}

/// The bits of a word of `size` bytes.
pub(super) const fn mask(size: u8) -> u64 {
    u64::MAX >> (64 - 8 * size as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// A word of one thread, of `size` bytes.
    struct Plain {
        size: u8,
        value: Cell<u64>,
        changes: Cell<u32>,
    }

    impl Plain {
        fn new(size: u8, value: u64) -> Self {
            Self {
                size,
                value: Cell::new(value),
                changes: Cell::new(0),
            }
        }

        fn change(&self, value: u64) -> u64 {
            self.changes.set(self.changes.get() + 1);
            self.value.replace(value & mask(self.size))
        }
    }

    impl Word for Plain {
        fn load(&self) -> u64 {
            self.value.get()
        }

        fn store(&self, value: u64) {
            self.change(value);
        }

        fn swap(&self, value: u64) -> u64 {
            self.change(value)
        }

        fn fetch_and(&self, value: u64) -> u64 {
            self.change(self.value.get() & value)
        }

        fn fetch_or(&self, value: u64) -> u64 {
            self.change(self.value.get() | value)
        }
    }

    const WRITES: [OnWrite; 3] = [OnWrite::Store, OnWrite::Clear, OnWrite::Set];

    /// As a bit of hardware would: each bit on its own.
    fn bit(action: OnWrite, old: bool, written: bool) -> bool {
        match (action, old, written) {
            (OnWrite::Store, _, written) => written,
            (OnWrite::Clear, old, written) => old && !written,
            (OnWrite::Set, old, written) => old || written,
        }
    }

    fn new_value(action: OnWrite, size: u8, old: u64, written: u64) -> u64 {
        (0..8 * u32::from(size)).fold(0, |value, i| {
            let set = bit(action, old >> i & 1 != 0, written >> i & 1 != 0);
            value | u64::from(set) << i
        })
    }

    fn register(size: u8, action: OnWrite, signal: Signal) -> Register {
        Register {
            gpa: Gpa(0x1000),
            size,
            on_write: Some(action),
            on_read: None,
            signal,
        }
    }

    fn check_write(size: u8, action: OnWrite, old: u64, value: u64) {
        let new = new_value(action, size, old, value);
        let signals = [
            (Signal::Never, false),
            (Signal::Always, true),
            (Signal::Value(value), true),
            (Signal::Value(value ^ 1), false),
            (Signal::Change, old != new),
        ];
        for (signal, wanted) in signals {
            let word = Plain::new(size, old);
            let write = Write {
                gpa: Gpa(0x1000),
                value,
                size,
            };
            let got = register(size, action, signal).write(&word, &write);
            let case = format!("{action:?} {size} bytes, {old:#x}, {value:#x}, {signal:?}");
            assert_eq!(got, Some(wanted), "{case}");
            assert_eq!(word.value.get(), new, "{case}");
            // Whoever else changes the word never sees it half changed.
            assert_eq!(word.changes.get(), 1, "{case}");
        }
    }

    #[test]
    fn all_writes_of_a_byte() {
        for action in WRITES {
            for old in 0..=0xff {
                for value in 0..=0xff {
                    check_write(1, action, old, value);
                }
            }
        }
    }

    #[test]
    fn writes_of_more() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            // Values without and with all bits are of interest, and such with few.
            match state & 3 {
                0 => 0,
                1 => u64::MAX,
                2 => 1 << (state >> 58),
                _ => state,
            }
        };
        for _ in 0..20_000 {
            for size in [2, 4, 8] {
                let (old, value) = (next() & mask(size), next() & mask(size));
                for action in WRITES {
                    check_write(size, action, old, value);
                }
            }
        }
    }

    #[test]
    fn reads() {
        for size in [1, 2, 4, 8] {
            for (on_read, left) in [(OnRead::Return, 0x5a), (OnRead::Take, 0)] {
                let word = Plain::new(size, 0x5a);
                let register = Register {
                    on_read: Some(on_read),
                    ..register(size, OnWrite::Store, Signal::Always)
                };
                assert_eq!(register.read(&word, Gpa(0x1000), size), Some(0x5a));
                assert_eq!(word.value.get(), left);
            }
        }
    }

    #[test]
    fn what_is_not_for_it() {
        let word = Plain::new(4, 7);
        let mut register = register(4, OnWrite::Store, Signal::Always);
        register.on_read = Some(OnRead::Take);
        for (gpa, size) in [
            (0x1000, 1),
            (0x1000, 2),
            (0x1000, 8),
            (0x1001, 2),
            (0xffe, 4),
            (0x1004, 4),
        ] {
            let write = Write {
                gpa: Gpa(gpa),
                value: 1,
                size,
            };
            assert_eq!(register.write(&word, &write), None);
            assert_eq!(register.read(&word, Gpa(gpa), size), None);
        }

        register.on_write = None;
        register.on_read = None;
        let write = Write {
            gpa: Gpa(0x1000),
            value: 1,
            size: 4,
        };
        assert_eq!(register.write(&word, &write), None);
        assert_eq!(register.read(&word, Gpa(0x1000), 4), None);
        assert_eq!((word.value.get(), word.changes.get()), (7, 0));
    }
}
