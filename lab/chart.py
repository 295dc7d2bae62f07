# SPDX-License-Identifier: GPL-2.0
"""Draw a run of lab/bench: chart.py RUN.json CHART.svg, with matplotlib.

Above, for each machine and kind of paging, accesses with the extension off and
on next to the port access; below, what grows with the size of the guest.
"""

import json
import pathlib
import re
import sys

import matplotlib
from matplotlib.figure import Figure

import results
from results import median

BARS = {
    "mmio_user_write": "write,\nto userspace",
    "mmio_user_read": "read,\nto userspace",
    "mmio_event_match4": "write, ioeventfd\nwith datamatch",
    "mmio_event_match4_8_pages": "the same,\n8 pages in turn",
    "mmio_event_len0": "write, ioeventfd\nof zero length",
    "mmio_coalesced": "write,\ncoalesced",
    "mmio_user_or": "OR, two exits\nto userspace",
}
# What grows: the rows whose names end in the number, one of them with the number 1 if not among these,
# what the number is of, and the access.
DOORBELL = "write, ioeventfd with datamatch"
GROWTH = (
    (r"mmio_event_match4_(\d+)_fds", "mmio_event_match4", "ioeventfds at one address", DOORBELL),
    (r"mmio_event_match4_(\d+)_others", None, "ioeventfds at other addresses", DOORBELL),
    (r"mmio_queues_(\d+)", None, "doorbells of virtio-pci in turn", "write, ioeventfd of this length"),
    (r"mmio_tails_(\d+)", None, "doorbells of NVMe in turn", "write of new values, ioeventfd of this length"),
    (r"mmio_event_match4_(\d+)_slots", "mmio_event_match4", "memslots", DOORBELL),
    (r"mmio_event_match4_(\d+)_vcpus", "mmio_event_match4", "vCPUs at the same time", DOORBELL),
)
UNIT = "instructions per access"

# Colours that differ in brightness too, for readers who do not see the hue.
OFF, SEED, ON, PORT = "#9aa5b1", "#e0b284", "#b5521b", "#1b2a3a"


def bars(axes, boot):
    """Off, seed and on of each kind of access, and where its port access is."""
    names = [name for name in BARS if name in boot["rows"]]
    height = 0.27
    for position, name in enumerate(names):
        row = boot["rows"][name]
        for step, (state, colour) in enumerate((("off", OFF), ("seed", SEED), ("on", ON))):
            value = median(row, state)
            if value:
                axes.barh(position + (step - 1) * height, value, height, color=colour)
        value = median(row, "on") or median(row, "off")
        port = median(results.port_of(boot, row), "on")
        # Behind the line, too, where that is longer.
        axes.text(max(value, port or 0), position + height, f" {value:.0f}", va="center", fontsize=7, color=ON)
        if port:
            axes.plot([port, port], [position - 1.5 * height, position + 1.5 * height], color=PORT, linewidth=1.6)
    axes.set_yticks(range(len(names)), [BARS[name] for name in names], fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.12)  # for the numbers behind the bars
    axes.set_axisbelow(True)
    axes.set_title(results.title(boot), fontsize=10)
    axes.set_xlabel(UNIT, fontsize=8)
    axes.grid(axis="x", linewidth=0.4)


def numbered(boot, pattern, first):
    """The rows of such names, by the number in them."""
    found = ((re.fullmatch(pattern, name), row) for name, row in boot["rows"].items())
    points = {int(match[1]): row for match, row in found if match}
    if points and first in boot["rows"]:
        points[1] = boot["rows"][first]
    return points


def growth(axes, boot, points, what, access):
    """A doorbell's cost over such a number."""
    for state, colour, marker in (("off", OFF, "s"), ("on", ON, "o")):
        axes.plot(sorted(points), [median(points[count], state) for count in sorted(points)],
                  marker=marker, color=colour)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(points), [str(count) for count in sorted(points)])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel(what, fontsize=8)
    axes.set_ylabel(UNIT, fontsize=8)
    axes.set_title(f"{access}:\n{results.title(boot)}", fontsize=9)
    axes.grid(linewidth=0.4)


def machines(boots):
    """The bars of the boots: a row for each kind of paging, as emulated and as silicon."""
    for tdp in (True, False):
        for kind in (results.plain, results.as_silicon):
            yield [(bars, boot) for boot in boots if boot["run"]["tdp"] == tdp and boot["cpus"] == 1
                   and kind(boot) and any(name in boot["rows"] for name in BARS)]


def curves(boots):
    """What grows, where that was measured first."""
    for pattern, first, what, access in GROWTH:
        found = ((boot, numbered(boot, pattern, first)) for boot in boots if results.plain(boot))
        boot, points = next(((boot, points) for boot, points in found if len(points) > 1), (None, None))
        if boot:
            yield growth, boot, points, what, access


def panels(run):
    """(function, arguments) of each panel, row by row."""
    boots = [boot for boot in run["boots"] if boot["module"] == "on"]
    rows = [row for row in machines(boots) if row]
    yield from rows
    left = list(curves(boots))
    columns = max(map(len, rows), default=len(left))
    while left:
        yield left[:columns]
        left = left[columns:]


def draw(run):
    rows = list(panels(run))
    if not rows:
        sys.exit("chart.py: this run has nothing to draw")
    columns = max(len(row) for row in rows)
    figure = Figure(figsize=(4.6 * columns, 4.2 * len(rows) + 0.6), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes, row in zip(grid, rows):
        for place in axes[len(row):]:
            place.remove()
        for place, (function, *arguments) in zip(axes, row):
            place.tick_params(labelsize=8)
            function(place, *arguments)
    handles = [matplotlib.patches.Patch(color=colour, label=label) for colour, label in (
        (OFF, "KVM's C code"), (SEED, "extension without its fast path"), (ON, "extension"))]
    handles.append(matplotlib.lines.Line2D([], [], color=PORT, linewidth=1.6, label="the same by port I/O"))
    figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False)
    return figure


def main():
    run = json.loads(pathlib.Path(sys.argv[1]).read_text())
    # Text stays text, and the same run gives the same file.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "bench", "font.family": "sans-serif"})
    draw(run).savefig(sys.argv[2], metadata={"Date": None, "Title": "Instructions per trapped access"})


if __name__ == "__main__":
    main()
