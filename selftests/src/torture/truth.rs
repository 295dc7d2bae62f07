// SPDX-License-Identifier: GPL-2.0
//! What a thing that changes is now, for those who use it meanwhile.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// A value that one thread changes and others ask for. A sequence number, odd while a change is
/// under way, tells whether the value was the same all the time between two questions.
pub struct Truth<T> {
    sequence: AtomicU64,
    value: Mutex<T>,
}

/// The value at one moment, outside a change.
pub struct View<T> {
    sequence: u64,
    pub value: T,
}

fn is_steady(sequence: u64) -> bool {
    sequence % 2 == 0
}

impl<T: Copy> Truth<T> {
    pub fn new(value: T) -> Self {
        Self {
            sequence: AtomicU64::new(0),
            value: Mutex::new(value),
        }
    }

    /// To be called before the ioctl that makes a change.
    pub fn begin(&self) {
        let before = self.sequence.fetch_add(1, Ordering::SeqCst);
        assert!(is_steady(before), "two changes at once");
    }

    /// To be called after the ioctl has returned: `value` holds from here on.
    pub fn end(&self, value: T) {
        *self.value.lock().expect("no thread panics meanwhile") = value;
        let before = self.sequence.fetch_add(1, Ordering::SeqCst);
        assert!(!is_steady(before), "the end of no change");
    }

    /// The value, None while it changes.
    pub fn look(&self) -> Option<View<T>> {
        let sequence = self.sequence.load(Ordering::SeqCst);
        let value = *self.value.lock().expect("no thread panics meanwhile");
        let view = View { sequence, value };
        (is_steady(sequence) && self.still(&view)).then_some(view)
    }

    /// Whether the value has been that of `view` all the time since.
    pub fn still(&self, view: &View<T>) -> bool {
        self.sequence.load(Ordering::SeqCst) == view.sequence
    }
}

#[cfg(test)]
mod tests {
    use super::Truth;

    #[test]
    fn a_change_is_seen_from_its_begin_to_its_end() {
        let truth = Truth::new(1);
        let first = truth.look().expect("nothing changes");
        assert_eq!(first.value, 1);
        assert!(truth.still(&first));
        truth.begin();
        assert!(truth.look().is_none());
        assert!(!truth.still(&first));
        truth.end(1);
        assert!(!truth.still(&first), "it may have been another meanwhile");
        assert_eq!(truth.look().expect("nothing changes").value, 1);
    }
}
