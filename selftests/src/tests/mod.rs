// SPDX-License-Identifier: GPL-2.0
//! The tests, one subject a file.

mod access;
mod allocation;
mod coalesced;
mod crossing;
mod doorbell;
mod fast;
mod first_access;
mod live_switch;
mod observe;
mod page_tables;
mod permission;
mod posted;
mod slots;
mod smm;
mod string;
mod sync;
mod sysregs;
mod write_protected;

use crate::tap::Test;

/// Every test, in the order in which they run.
pub fn all() -> impl Iterator<Item = &'static Test> {
    [
        first_access::TESTS,
        access::TESTS,
        string::TESTS,
        slots::TESTS,
        doorbell::TESTS,
        posted::TESTS,
        crossing::TESTS,
        coalesced::TESTS,
        page_tables::TESTS,
        permission::TESTS,
        sync::TESTS,
        write_protected::TESTS,
        sysregs::TESTS,
        live_switch::TESTS,
        allocation::TESTS,
        smm::TESTS,
    ]
    .into_iter()
    .flatten()
    .chain(fast::tests())
    .chain(observe::tests())
}
