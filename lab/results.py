# SPDX-License-Identifier: GPL-2.0
"""What a run of lab/bench has found, and what it ought to be.

A run is one JSON document:

    schema, created, revision, iterations, repetitions
    boots: list of
        machine, paging ("npt=1"), kernel, cpus, emulator
        module:  on, unloaded, or heat (on, and counting by page)
        silicon: whether the processor reports what silicon reports (lab/run --as-silicon)
        mitigations: on as the kernel has them, or off
        run:     what mmio-bench says of the machine (unit, kernel, ...)
        rows:    by name: description, port, what kind of access, off, seed, on, counts
        skipped: list of name, description, reason

off, seed and on are KVM's C code, the extension without its fast path, and with
it; each with median, min, max, spread_percent and values, in ticks per access.
"""

import collections

STATES = ("off", "seed", "on")

# At most so many times the other: what is promised. A run that misses one fails.
LIMIT_SEED, LIMIT_REFUSED, LIMIT_PATCHED = 1.02, 1.02, 1.005
# The same of a figure of an earlier run; the first where the clock is exact and neither run spreads more.
LIMIT_REGRESSION_EXACT, LIMIT_REGRESSION = 1.005, 1.02
# Extension on / off: of any access, of an ioeventfd of zero length, which C serves as soon as it
# knows the address, and of one with a length, however many there are and whatever is written.
LIMIT_ON, LIMIT_ZERO_LENGTH, LIMIT_DOORBELL = 1.02, 1.00, 0.40
# The same of an access to where an ioeventfd waits for another value, and of exits that are none of the
# extension's.
LIMIT_MISSED, LIMIT_OTHER_EXIT = 1.00, 1.01
# The same, of the instructions that counting by page adds to an access.
LIMIT_HEAT = 40

# Where the clock counts the instructions of one processor, repeated measurements differ
# by no more than this, but for one above and one below that something else in the kernel
# has met; in measurements long enough that one timer interrupt is less than this. How
# several processors take turns is not exact.
LIMIT_SPREAD, LONG_ENOUGH = 1.02, 1000

# What the project strives for: row, against what (the port row that does as much, KVM's C code, or
# another row), the aim, what is promised of that (None: nothing but the limits above), with
# two-dimensional paging or not (None: both). An aim that is missed is no reason to get worse.
TARGETS = (
    ("mmio_event_match4", "port", 0.65, 0.83, True),
    ("mmio_event_match4", "port", 1.05, 1.20, False),
    ("mmio_event_len0", "off", 0.70, 0.87, True),
    ("mmio_user_write", "port", 1.02, 1.04, True),
    ("mmio_user_read", "port", 1.02, 1.08, True),
    ("mmio_user_or", "off", 1.01, None, None),
    ("mmio_user_stos", "off", 1.01, None, None),
    ("mmio_user_write_8_pages", "mmio_user_write", 1.01, 1.01, False),
    ("mmio_user_read_8_pages", "mmio_user_read", 1.01, 1.01, False),
    ("mmio_event_match4_8_pages", "mmio_event_match4", 1.01, 1.01, False),
    ("mmio_event_match4_500_slots", "mmio_event_match4", 1.05, 1.05, True),
    ("mmio_event_match4_256_fds", "mmio_event_match4", 1.05, 1.05, None),
    ("mmio_event_match4_64_sites", "mmio_event_match4", 1.05, 1.05, True),
    ("mmio_event_match4_large", "mmio_event_match4", 1.05, 1.05, True),
    ("mmio_event_match4_4_vcpus", "mmio_event_match4", 1.05, 1.05, True),
    ("mmio_event_match4_large_4_vcpus", "mmio_event_match4", 1.05, 1.05, True),
    ("mmio_event_match4_read_only", "mmio_event_match4", 1.10, 1.10, True),
    ("mmio_posted_store", "mmio_event_match4", 1.05, 1.05, True),
    ("mmio_posted_clear", "mmio_event_match4", 1.05, 1.05, True),
    ("mmio_posted_read", "mmio_user_read", 0.50, 0.50, None),
)

Check = collections.namedtuple("Check", "boot row what value most promised")


def kept(check):
    return check.value <= check.most


def as_silicon(boot):
    return boot.get("silicon", False)


def mitigations_off(boot):
    return boot.get("mitigations", "on") == "off"


def plain(boot):
    return not as_silicon(boot) and not mitigations_off(boot)


def title(boot):
    parts = [boot["machine"] + (" as silicon" if as_silicon(boot) else ""), boot["paging"]]
    if boot["module"] == "unloaded":
        parts.append("mainline kernel" if boot["kernel"] == "mainline" else "module unloaded")
    if boot["module"] == "heat":
        parts.append("heat=1")
    if boot["cpus"] > 1:
        parts.append(f"{boot['cpus']} processors")
    if mitigations_off(boot):
        parts.append("mitigations=off")
    return ", ".join(parts)


def key(boot):
    names = ("machine", "paging", "kernel", "module", "cpus")
    return (*(boot[name] for name in names), as_silicon(boot), mitigations_off(boot))


def median(row, state):
    return row[state]["median"] if row and row[state] else None


def least(row, state):
    return row[state]["min"] if row and row[state] else None


def ratio(above, below):
    return above / below if above and below else None


def port_of(boot, row):
    return boot["rows"].get(row["port"])


def refused(row):
    """Whether the fast path has left all of these accesses to the emulator."""
    counts = row["counts"]
    return bool(counts and counts["emulated"] and not counts["fast"])


def exact(boot):
    run = boot["run"]
    return run["unit"] == "instructions" and run["iterations"] >= LONG_ENOUGH and boot["cpus"] == 1


def spread(sample):
    """Largest / smallest value, without one at each end if there are enough."""
    values = sorted(sample["values"])
    middle = values[1:-1] if len(values) > 3 else values
    return middle[-1] / middle[0]


def is_doorbell(boot, row):
    """Whether an ioeventfd with a length takes what a 64-bit guest writes, and the fast path knows how:
    read-only memslots it knows with two-dimensional paging."""
    is_known = boot["run"]["tdp"] or not row.get("read_only")
    return (row["space"] == "mmio" and row["receiver"] in ("datamatch", "length")
            and row["mode"] in ("long", "la57") and is_known)


def never_slower(boot, row):
    """What an access may cost: (what, extension on, off, at most). By the smallest values where the
    limit leaves no room: whatever else a kernel does only adds to them."""
    if not row["on"]:
        return
    on, off = median(row, "on"), median(row, "off")
    yield "on / off", on, off, LIMIT_ON
    if row["space"] == "mmio":
        yield "seed / off", median(row, "seed"), off, LIMIT_SEED
    elif exact(boot):
        yield "on / off, other exit", least(row, "on"), least(row, "off"), LIMIT_OTHER_EXIT
    if is_doorbell(boot, row):
        yield "on / off, doorbell", on, off, LIMIT_DOORBELL
    if row["receiver"] == "missed" and row["space"] == "mmio":
        yield "on / off, other value", on, off, LIMIT_MISSED
    # What is refused has another limit, see checks().
    if row["space"] == "mmio" and row["receiver"] == "zero_length" and not refused(row):
        # In whole instructions.
        yield "on / off, zero length", round(least(row, "on")), round(least(row, "off")), LIMIT_ZERO_LENGTH


def checks(boot):
    """What is promised and what is striven for, of the rows of one boot."""
    if boot["module"] == "heat":
        # Nothing of accesses that are looked at so closely, but see heat().
        return
    rows = boot["rows"]

    def check(row, what, above, below, most, promised):
        value = ratio(above, below)
        if value:
            yield Check(boot, row, what, value, most, promised)

    for name, row in rows.items():
        off, on = (median(row, state) for state in ("off", "on"))
        if "receiver" in row:  # Earlier runs do not tell.
            for what, above, below, most in never_slower(boot, row):
                yield from check(name, what, above, below, most, True)
        if refused(row):
            yield from check(name, "on / off, refused by the fast path", on, off, LIMIT_REFUSED, True)
        if exact(boot) and len(row["off"]["values"]) > 3:
            worst = max(spread(row[state]) for state in STATES if row[state])
            yield Check(boot, name, "spread", worst, LIMIT_SPREAD, True)
    for name, other, aim, limit, tdp in TARGETS:
        row = rows.get(name)
        if not row or tdp not in (None, boot["run"]["tdp"]):
            continue
        below = (median(row, "off") if other == "off" else
                 median(port_of(boot, row) if other == "port" else rows.get(other), "on"))
        for most, promised in (aim, False), (limit, True):
            if most:
                yield from check(name, f"on / {other}", median(row, "on"), below, most, promised)


def pairs(boots, kernel, module, other):
    """The rows of some boots, with the same of another boot: (boot, name, row, row there)."""
    boots = [boot for boot in boots if plain(boot)]
    others = {(boot["machine"], boot["paging"]): boot for boot in boots
              if (boot["kernel"], boot["module"], boot["cpus"]) == (*other, 1)}
    for boot in boots:
        there = others.get((boot["machine"], boot["paging"]))
        if there and (boot["kernel"], boot["module"]) == (kernel, module):
            for name, row in boot["rows"].items():
                yield boot, name, row, there["rows"].get(name)


def patched(boots):
    """The patched kernel without the module / the unpatched kernel, row by row. Of two boots, so by
    the smallest values: whatever else a kernel does meanwhile only adds to them.
    """
    for boot, name, row, there in pairs(boots, "release", "unloaded", ("mainline", "unloaded")):
        value = ratio(least(row, "off"), least(there, "off"))
        if value:
            yield Check(boot, name, "module unloaded / mainline kernel", value, LIMIT_PATCHED, True)


def heat(boots):
    """What counting by page adds to a read or a write, row by row; by the smallest values as well."""
    for boot, name, row, there in pairs(boots, "release", "heat", ("release", "on")):
        if there and name.startswith("mmio_"):
            value = (least(row, "on") - least(there, "on")) / row["accesses_each"]
            what = "instructions that heat=1 adds to an access"
            yield Check(boot, name, what, value, LIMIT_HEAT, True)


def all_checks(run):
    boots = run["boots"]
    return [check for boot in boots for check in checks(boot)] + [*patched(boots), *heat(boots)]


def worst_of_each_kind(found):
    """Those that are the closest to their limits, or the furthest beyond."""
    return [max((check for check in found if check.what == what), key=lambda check: check.value / check.most)
            for what in dict.fromkeys(check.what for check in found)]


def number(value, digits=0):
    return "-" if value is None else f"{value:.{digits}f}"


def print_boot(boot):
    """The table of one boot, with the targets next to what was reached."""
    wanted = {check.row: check for check in checks(boot) if not check.promised}
    print(f"\n{title(boot)}: {boot['run']['unit'].replace('_', ' ')} per access, "
          f"median of {boot['run']['repetitions']} x {boot['run']['iterations']} accesses")
    width = max(len(row["description"]) for row in boot["rows"].values())
    print(f"{'access':{width}}{'off':>7}{'seed':>7}{'on':>7}{'spread':>8}"
          f"{'on/off':>8}{'off/port':>10}{'on/port':>9}  target")
    for name, row in boot["rows"].items():
        off, seed, on = (median(row, state) for state in STATES)
        port = port_of(boot, row)
        most = max(row[state]["spread_percent"] for state in STATES if row[state])
        print(f"{row['description']:{width}}{number(off):>7}{number(seed):>7}{number(on):>7}{most:>6.1f} %"
              f"{number(ratio(on, off), 3):>8}{number(ratio(off, median(port, 'off')), 3):>10}"
              f"{number(ratio(on, median(port, 'on')), 3):>9}  "
              f"{describe(wanted[name]) if name in wanted else ''}".rstrip())
    for row in boot["skipped"]:
        print(f"skipped: {row['description']}: {row['reason']}")


def describe(check):
    verdict = "ok" if kept(check) else "MISSED"
    return f"{check.what}: {check.value:.4f}, at most {check.most}: {verdict}"


def print_verdicts(run):
    """All limits and targets; returns whether all limits are kept."""
    found = all_checks(run)
    promised = [check for check in found if check.promised]
    missed = [check for check in promised if not kept(check)]
    targets = [check for check in found if not check.promised]
    print("\nTargets (a missed one does not fail the run):")
    for check in targets:
        print(f"  {title(check.boot)}: {check.row}: {describe(check)}")
    print(f"Limits: {len(promised) - len(missed)} kept, {len(missed)} missed; the closest or worst of each kind:")
    for worst in worst_of_each_kind(promised):
        print(f"  {title(worst.boot)}: {worst.row}: {describe(worst)}")
    for check in missed:
        print(f"NOT OK: {title(check.boot)}: {check.row}: {describe(check)}")
    return not missed


Change = collections.namedtuple("Change", "value most what")


def change(boot, old, name, state):
    """A figure / that of an earlier run, None if that has none. Of two boots, so by the smallest values
    where the limit leaves no room."""
    row, before = boot["rows"][name], old["rows"].get(name) if old and same_unit(boot, old) else None
    value, most = ratio(median(row, state), median(before, state)), LIMIT_REGRESSION
    if value and exact(boot) and exact(old) and \
            max(spread(row[state]), spread(before[state])) <= LIMIT_REGRESSION_EXACT:
        value, most = ratio(least(row, state), least(before, state)), LIMIT_REGRESSION_EXACT
    return value and Change(value, most, f"{title(boot)}: {name}, {state}")


def print_comparison(run, base):
    """Each figure against that of an earlier run; returns whether none is worse, or
    None if there is nothing to compare."""
    earlier = {key(boot): boot for boot in base["boots"]}
    changes, missing = [], 0
    for boot in run["boots"]:
        old = earlier.get(key(boot))
        for name, row in boot["rows"].items():
            for state in STATES:
                found = change(boot, old, name, state)
                if found:
                    changes.append(found)
                elif row[state]:
                    missing += 1
    if not changes:
        return None
    changes.sort()
    print(f"\nCompared with {base['revision']} of {base['created']}: {len(changes)} figures, "
          f"{changes[0].value:.4f} to {changes[-1].value:.4f} times the earlier ones"
          + (f"; {missing} have no earlier one" if missing else ""))
    worse = [found for found in changes if not kept(found)]
    for found in changes:
        if found.value < 1 / found.most:
            print(f"better: {found.what}: {found.value:.4f}")
    for found in worse:
        print(f"NOT OK: {found.what}: {found.value:.4f} times the earlier figure, at most {found.most}")
    return not worse


def same_unit(boot, old):
    return boot["run"]["unit"] == old["run"]["unit"]
