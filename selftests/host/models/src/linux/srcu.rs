// SPDX-License-Identifier: GPL-2.0
//! Sleepable RCU: a grace period ends when all have left who were inside when it began.

use loom::sync::{
    atomic::{fence, Ordering::SeqCst},
    Condvar, Mutex,
};

pub(crate) struct Srcu {
    /// Whether to enter is a full barrier, as the extension relies on: `__srcu_read_lock()` has
    /// one, `smp_mb__after_srcu_read_lock()` therefore none.
    has_barrier: bool,
    sections: Mutex<Sections>,
    left: Condvar,
}

#[derive(Default)]
struct Sections {
    /// Which of the two counts who enters now is added to.
    current: usize,
    readers: [usize; 2],
}

/// `srcu_read_lock()` until it is dropped.
pub(crate) struct ReadGuard<'a> {
    srcu: &'a Srcu,
    index: usize,
}

impl Srcu {
    pub(crate) fn new(has_barrier: bool) -> Self {
        Self {
            has_barrier,
            sections: Mutex::new(Sections::default()),
            left: Condvar::new(),
        }
    }

    pub(crate) fn read_lock(&self) -> ReadGuard<'_> {
        let mut sections = self.sections.lock().unwrap();
        let index = sections.current;
        sections.readers[index] += 1;
        if self.has_barrier {
            fence(SeqCst);
        }
        ReadGuard { srcu: self, index }
    }

    /// To be called by one thread at a time: the lock makes one turn of the counts enough.
    pub(crate) fn synchronize(&self) {
        let mut sections = self.sections.lock().unwrap();
        let old = sections.current;
        sections.current = 1 - old;
        while sections.readers[old] > 0 {
            sections = self.left.wait(sections).unwrap();
        }
    }
}

impl Drop for ReadGuard<'_> {
    fn drop(&mut self) {
        self.srcu.sections.lock().unwrap().readers[self.index] -= 1;
        self.srcu.left.notify_all();
    }
}
