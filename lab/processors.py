# SPDX-License-Identifier: GPL-2.0
"""Which processor of the host an emulator is on."""

import contextlib
import fcntl
import os
import random

import lib


@contextlib.contextmanager
def one():
    """What is started from here has one processor: one that no other such program has, if there is any.

    QEMU 10.0.13 changes CPUState.interrupt_request of a processor from two threads: the one that
    emulates it at each VMRUN and #VMEXIT (helper_vmrun() and do_vmexit() of svm_helper.c), and the one
    that has timers and devices (tcg_handle_interrupt()). Only the latter holds a lock. Now and then an
    interrupt is lost thus: the local APIC has it in its IRR, and the processor, halted, does not wake.
    Each of these changes is a single instruction, which threads on one processor cannot tear.
    """
    allowed = os.sched_getaffinity(0)
    with contextlib.ExitStack() as stack:
        number = next((number for number in allowed if could_take(stack, number)), None)
        os.sched_setaffinity(0, {random.choice([*allowed]) if number is None else number})
        try:
            yield
        finally:
            os.sched_setaffinity(0, allowed)


def could_take(stack, number):
    """Whether nobody had the processor; it is ours then until the stack is closed, or this process dies."""
    path = lib.CACHE / "lock" / f"processor-{number}"
    path.parent.mkdir(parents=True, exist_ok=True)
    file = stack.enter_context(path.open("w"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
