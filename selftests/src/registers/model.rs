// SPDX-License-Identifier: GPL-2.0
//! What `Documentation/registers.rst` says of a request, written down once more.

use super::world::{Added, Fd, World};
use crate::guest::{Place, Request, on_read, on_write, signal};

/// The errors that a request to add may end with; none if it must not.
pub fn errors_of_adding(world: &World, request: &Request) -> Vec<i32> {
    let mut errors = Vec::new();
    let mut fails = |fails: bool, errno| {
        if fails {
            errors.push(errno);
        }
    };
    fails(!fields_are_valid(request), libc::EINVAL);
    let vm = match world.fd(request.vm_fd) {
        Fd::Vm(vm) => Some(vm),
        other => {
            fails(true, other.error());
            None
        }
    };
    if request.event_fd >= 0 {
        let event = world.fd(request.event_fd);
        fails(!matches!(event, Fd::Event), event.error());
    }
    fails(!world.is_mapped(request.user_addr), libc::EFAULT);
    let taken = |added: &Added| {
        let (old, new) = (&added.request, request);
        Some(added.vm) == vm && old.gpa < end(new) && new.gpa < end(old)
    };
    fails(world.added.iter().any(taken), libc::EEXIST);
    errors
}

/// The error that a request to remove ends with, if any.
pub fn errors_of_removing(world: &World, file: usize, place: &Place) -> Vec<i32> {
    let mut errors = Vec::new();
    if place.reserved != 0 {
        errors.push(libc::EINVAL);
    }
    match world.fd(place.vm_fd) {
        Fd::Vm(vm) => {
            let is_there = |added: &Added| added.file == file && added.is_at(vm, place.gpa);
            if !world.added.iter().any(is_there) {
                errors.push(libc::ENOENT);
            }
        }
        other => errors.push(other.error()),
    }
    errors
}

fn end(request: &Request) -> u64 {
    request.gpa.saturating_add(request.len.into())
}

fn fields_are_valid(request: &Request) -> bool {
    let len = u64::from(request.len);
    if !matches!(len, 1 | 2 | 4 | 8) || request.gpa % len != 0 || request.user_addr % len != 0 {
        return false;
    }
    let signals = request.signal != signal::NEVER;
    let datamatch_is_valid = match request.signal {
        signal::VALUE => len == 8 || request.datamatch >> (8 * len) == 0,
        _ => request.datamatch == 0,
    };
    let writes = request.on_write != on_write::EXIT;
    request.gpa.checked_add(len).is_some()
        && request.on_write <= on_write::SET
        && request.on_read <= on_read::CLEAR
        && request.signal <= signal::CHANGE
        && (writes || request.on_read != on_read::EXIT)
        && (writes || !signals)
        && signals == (request.event_fd >= 0)
        && datamatch_is_valid
        && request.reserved == [0; 25]
}
