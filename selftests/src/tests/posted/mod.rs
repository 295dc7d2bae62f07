// SPDX-License-Identifier: GPL-2.0
//! Registers that answer by themselves: what accesses do to their words, and how they come and go.
//!
//! Where the extension is on, all of it is done in each way: without the extension, without its
//! fast path, with it, and with writes that are answered before interrupts are on again.

mod actions;
mod bench;
mod life;
mod requests;
mod signals;

use bench::each_way;

const ACTIONS: &str = "src/pure/posted.rs: \
    an access changes the word as declared, and nothing exits to userspace";
const SIGNALS: &str = "src/pure/posted.rs: \
    exactly the writes that were declared to signal do";
const ATOMIC: &str = "rust/kvm/user_word.rs: \
    no bit is lost that a device sets while the guest clears others";
const ERRNO: &str = "src/registers.rs: \
    each field that is wrong has its errno, and leaves nothing behind";
const LIFE: &str = "rust/kvm/io_device.rs: \
    a register ends with its file and its VM, whichever goes first";

crate::test_table! {
    posted_store: ACTIONS => each_way(actions::store),
    posted_clear_and_set: ACTIONS => each_way(actions::clear_and_set),
    posted_reads: ACTIONS => each_way(actions::reads),
    posted_other_accesses: ACTIONS => each_way(actions::other_accesses),
    posted_instructions: ACTIONS => each_way(actions::instructions),
    posted_status_and_ack: ACTIONS => each_way(actions::status_and_ack),
    posted_in_guest_memory: ACTIONS => each_way(actions::in_guest_memory),
    posted_read_only_slot: ACTIONS => each_way(actions::read_only_slot),
    posted_signals: SIGNALS => each_way(signals::signals),
    posted_word_before_signal: SIGNALS => each_way(signals::word_before_signal),
    posted_lost_bits: ATOMIC => each_way(signals::lost_bits),
    posted_invalid: ERRNO => requests::invalid(),
    posted_files: ERRNO => requests::files(),
    posted_addresses: ERRNO => requests::addresses(),
    posted_other_process: ERRNO => requests::other_process(),
    posted_collisions: ERRNO => requests::collisions(),
    posted_later_ioeventfd: ERRNO => each_way(requests::later_ioeventfd),
    posted_limit_of_a_vm: ERRNO => requests::limit_of_a_vm(),
    posted_locked_memory: ERRNO => requests::locked_memory(),
    posted_remove: LIFE => each_way(life::remove),
    posted_file_first: LIFE => each_way(life::file_first),
    posted_vm_first: LIFE => life::vm_first(),
    posted_unmapped_word: LIFE => each_way(life::unmapped_word),
    posted_while_running: LIFE => each_way(life::while_running),
    posted_module_stays: LIFE => life::module_stays(),
}
