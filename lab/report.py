# SPDX-License-Identifier: GPL-2.0
"""The figures of a run of lab/bench, in the documentation.

A document has places for them: what is between `.. bench: NAME` and the next
`.. bench: end` is replaced by what the function of that name returns.
"""

import pathlib
import re
import subprocess
import sys

import lib
import results
from results import median, number, ratio

DOCUMENTS = (lib.ROOT / "README.rst",
             *(lib.ROOT / "Documentation" / name for name in ("performance.rst", "promises.rst", "performance-rows.rst")))
CHART = lib.ROOT / "Documentation" / "bench.svg"

# For a run that is limited to some machines or rows.
NOTHING = "Not measured in the last run."

# The rows of README's table, as they are called there, and its machines.
HEADLINE = {"mmio_event_match4": "doorbell with datamatch",
            "mmio_queues_8_900_others": "the same, 8 of them, 900 others",
            "mmio_queues_900": "the same, 900 of them in turn",
            "mmio_event_len0": "doorbell of zero length",
            "mmio_user_write": "exit to userspace, write",
            "mmio_user_read": "exit to userspace, read"}
HEADLINE_MACHINES = ("svm", "vmx")

# The rows of the short tables.
SHORT = ("pio_user_write", "mmio_user_write", "mmio_user_read", "mmio_user_write_8_pages",
         "pio_event_match4", "mmio_event_match4", "mmio_event_match4_8_pages", "mmio_event_len0",
         "mmio_coalesced", "mmio_user_or", "mmio_event_match4_flat")


def table(head, rows):
    """A simple table: text to the left, figures to the right."""
    if not rows:
        return NOTHING
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    rule = "  ".join("=" * width for width in widths)
    lines = ["  ".join(cell.rjust(width) if cell[:1].isdigit() else cell.ljust(width)
                       for cell, width in zip(row, widths)).rstrip()
             for row in [head, *rows]]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule])


def loaded(run, kind=results.plain):
    """The boots with the extension and one processor, of one kind of machine."""
    return [boot for boot in run["boots"] if boot["module"] == "on" and boot["cpus"] == 1 and kind(boot)]


def three(row):
    return " / ".join(number(median(row, state)) for state in results.STATES)


def short(run, tdp, kind=results.plain):
    """The main rows of all machines."""
    boots = [boot for boot in loaded(run, kind) if boot["run"]["tdp"] == tdp]
    rows = []
    for name in SHORT:
        found = [boot["rows"].get(name) for boot in boots]
        if any(found):
            description = next(row for row in found if row)["description"]
            rows.append([description, *(three(row) if row else "-" for row in found)])
    return table(["off / seed / on", *(results.title(boot) for boot in boots)], rows)


def headline(run):
    """A few rows for who has read nothing yet, and where they are from."""
    rows = []
    for boot in loaded(run):
        if boot["machine"] in HEADLINE_MACHINES and boot["run"]["tdp"]:
            rows += [headline_row(boot, name) for name in HEADLINE if name in boot["rows"]]
    return f"""\
{table(["access, off and on", "off", "on", "on/off", "on/port"], rows)}

Measured {run["created"][:10]} at revision ``{run["revision"]}``, {run["repetitions"]} x {run["iterations"]} accesses."""


def headline_row(boot, name):
    row = boot["rows"][name]
    off, on = (median(row, state) for state in ("off", "on"))
    port = median(results.port_of(boot, row), "on")
    return [f"{HEADLINE[name]}, {boot['machine']} {boot['paging']}", number(off), number(on),
            number(ratio(on, off), 2), number(ratio(on, port), 2)]


def matrix(run, machine, tdp):
    """All rows of one boot."""
    return "\n\n".join(every_row(boot) for boot in loaded(run)
                       if boot["machine"] == machine and boot["run"]["tdp"] == tdp) or NOTHING


def every_row(boot):
    rows = []
    for row in boot["rows"].values():
        off, seed, on = (median(row, state) for state in results.STATES)
        port = results.port_of(boot, row)
        rows.append([row["description"], number(off), number(seed), number(on), number(ratio(on, off), 3),
                     number(ratio(off, median(port, "off")), 3), number(ratio(on, median(port, "on")), 3)])
    return table([results.title(boot), "off", "seed", "on", "on/off", "off/port", "on/port"], rows)


def processors(run):
    return "\n\n".join(every_row(boot) for boot in run["boots"]
                       if boot["module"] == "on" and boot["cpus"] > 1) or NOTHING


def checks(found):
    return table(["row", "where", "what", "reached", "at most", ""],
                 [[f"``{check.row}``", results.title(check.boot), check.what, number(check.value, 4),
                   str(check.most), "kept" if results.kept(check) else "missed"] for check in found])


def limits(run):
    """The worst of each kind."""
    found = [check for check in results.all_checks(run) if check.promised]
    missed = [check for check in found if not results.kept(check)]
    worst = results.worst_of_each_kind(found)
    return checks([*worst, *(check for check in missed if check not in worst)])


def provenance(run):
    kernels = ", ".join(sorted({boot["run"]["kernel"] for boot in run["boots"]}))
    emulators = ", ".join(sorted({boot["emulator"] for boot in run["boots"]}))
    return (f"Measured {run['created']} at revision ``{run['revision']}``: Linux {kernels};\n"
            f"{emulators}; medians of {run['repetitions']} measurements of {run['iterations']} accesses.")


def span(values):
    values = sorted(values)
    return f"{values[0]:.2f} to {values[-1]:.2f}"


def summary(run):
    """What it comes to, in words."""
    boots = [*loaded(run), *loaded(run, results.as_silicon)]
    silicon = ", as the emulators have them and as silicon," if any(map(results.as_silicon, boots)) else ""
    rows = [(boot, name, row) for boot in boots for name, row in boot["rows"].items()]
    taken = [ratio(median(row, "on"), median(row, "off")) for _, name, row in rows
             if row["counts"] and row["counts"]["fast"] and not name.endswith("_fds")]
    bells = [(boot, row) for boot, name, row in rows if name == "mmio_event_match4"]
    unloaded = [check.value for check in results.patched(run["boots"])]
    if not (taken and bells and unloaded):
        return NOTHING
    to_c = [ratio(median(row, "on"), median(row, "off")) for _, row in bells]
    to_port = {state: [ratio(median(row, state), median(results.port_of(boot, row), state)) for boot, row in bells]
               for state in ("off", "on")}
    return f"""\
Over all machines{silicon} and both kinds of paging, an MMIO access that the
fast path takes costs {span(taken)} times what it costs in C. A doorbell with a datamatch
costs {span(to_c)} times as much, which is {span(to_port["on"])} times a port write (in C {span(to_port["off"])}).
A patched kernel without the module needs at most {max(unloaded):.4f} times the instructions
of the unpatched kernel."""


PLACES = {
    "provenance": provenance,
    "summary": summary,
    "headline": headline,
    "tdp": lambda run: short(run, True),
    "shadow": lambda run: short(run, False),
    "targets": lambda run: checks(check for check in results.all_checks(run) if not check.promised),
    "limits": limits,
    "silicon-tdp": lambda run: short(run, True, results.as_silicon),
    "silicon-shadow": lambda run: short(run, False, results.as_silicon),
    "unmitigated-tdp": lambda run: short(run, True, results.mitigations_off),
    "unmitigated-shadow": lambda run: short(run, False, results.mitigations_off),
    "matrix-tdp": lambda run: matrix(run, "svm", True),
    "matrix-shadow": lambda run: matrix(run, "svm", False),
    "processors": processors,
}


def fill(text, marker, places, run):
    """The text with what is between `.. MARKER: NAME` and `.. MARKER: end` written anew."""
    def place(match):
        name = match[1]
        return f".. {marker}: {name}\n\n{places[name](run)}\n\n.. {marker}: end"

    return re.sub(rf"^\.\. {marker}: (?!end$)(\S+)\n.*?^\.\. {marker}: end$", place, text, flags=re.M | re.S)


def draw(script, source, picture):
    """Draw a picture of what is in a file, by a script of the lab that has matplotlib."""
    out = lib.call([lib.LAB / "setup", "--charts"], stdout=subprocess.PIPE)
    if out.returncode:
        sys.exit(out.returncode)
    if lib.call([out.stdout.strip(), lib.LAB / script, source, picture]).returncode:
        lib.die(f"{pathlib.Path(picture).name} could not be drawn")


def write(run, path):
    """Rewrite the documents and draw the chart of the run in the file `path`."""
    texts = {document: fill(document.read_text(), "bench", PLACES, run) for document in DOCUMENTS}
    draw("chart.py", path, CHART)
    for document, text in texts.items():
        lib.write_atomically(document, text)
    lib.say("rewrote " + ", ".join(str(name.relative_to(lib.ROOT)) for name in [*DOCUMENTS, CHART]))
