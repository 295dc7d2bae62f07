# SPDX-License-Identifier: GPL-2.0
"""What the log of a test machine says of how its run went."""

import collections
import re

import lib

TIMEOUT, DIRTY, DEAD = 124, 97, 98


# What reads the generation of memslots in KVM's C code, which only KVM's C code sets. Of that race now and
# then one side only is seen.
GENERATION = re.compile(r"data-race in (kvm_vcpu_is_visible_gfn|kvm_vcpu_gfn_to_memslot)\+")


def is_own_race(race):
    """Whether a function of the extension, or one that the patches add to KVM, has a part in this
    match of RACE, or may have. Linux has others, see Documentation/models.rst."""
    return "mmio_ext" in race[1] if race[1] else not GENERATION.search(race[0])


def is_complaint(line):
    """Whether the kernel reports that something is wrong."""
    race = lib.RACE.search(line)
    return lib.KERNEL_REPORT.search(line) or race and is_own_race(race)


def live(log):
    """What the kernel has said while KVM ran. Nothing of it runs before "ready", and Bochs'
    firmware tables make the kernel warn at boot; after "whole log" comes a repetition."""
    return log.partition("lab: ready")[2].partition("lab: whole log")[0].splitlines()


def judge(log, finished):
    """The exit status, and in words what is wrong (None: nothing)."""
    found = re.search(r"lab: exit (\d+)", log)
    status = int(found[1]) if found else None
    report = next(filter(is_complaint, live(log)), None)
    if report:
        return DIRTY, f"the kernel complained: {report.strip()}"
    if not finished:
        return TIMEOUT, "time-out"
    if "lab: ready" not in log:
        return DEAD, "the machine did not boot"
    if status is None:
        return DEAD, "the machine stopped before the command ended"
    if status == DEAD:
        return DEAD, "a module did not load"
    return status, None


def say_other_races(log):
    races = collections.Counter(race[1] or race[0] for race in map(lib.RACE.search, live(log))
                                if race and not is_own_race(race))
    for functions, count in races.most_common():
        lib.say(f"lab/run: {count} data races of Linux itself: {functions}")
