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
GROWTH = {"fds": "ioeventfds at one address", "slots": "memslots", "vcpus": "vCPUs at the same time"}
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
        axes.text(value, position + height, f" {value:.0f}", va="center", fontsize=7, color=ON)
        port = median(results.port_of(boot, row), "on")
        if port:
            axes.plot([port, port], [position - 1.5 * height, position + 1.5 * height], color=PORT, linewidth=1.6)
    axes.set_yticks(range(len(names)), [BARS[name] for name in names], fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.12)  # for the numbers behind the bars
    axes.set_axisbelow(True)
    axes.set_title(results.title(boot), fontsize=10)
    axes.set_xlabel(UNIT, fontsize=8)
    axes.grid(axis="x", linewidth=0.4)


def growth(axes, boot, what):
    """A doorbell's cost over a number in its row's name; the row without one has 1."""
    points = {1: boot["rows"]["mmio_event_match4"]}
    for name, row in boot["rows"].items():
        found = re.fullmatch(rf"mmio_event_match4_(\d+)_{what}", name)
        if found:
            points[int(found[1])] = row
    for state, colour, marker in (("off", OFF, "s"), ("on", ON, "o")):
        axes.plot(sorted(points), [median(points[count], state) for count in sorted(points)],
                  marker=marker, color=colour)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(points), [str(count) for count in sorted(points)])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel(GROWTH[what], fontsize=8)
    axes.set_ylabel(UNIT, fontsize=8)
    axes.set_title(f"write, ioeventfd with datamatch:\n{results.title(boot)}", fontsize=9)
    axes.grid(linewidth=0.4)


def has(boot, pattern):
    return "mmio_event_match4" in boot["rows"] and any(re.search(pattern, name) for name in boot["rows"])


def panels(run):
    """(function, arguments) of each panel: a row for each kind of paging, then growth."""
    boots = [boot for boot in run["boots"] if boot["module"] == "on"]
    for tdp in (True, False):
        row = [(bars, boot) for boot in boots if boot["run"]["tdp"] == tdp and boot["cpus"] == 1
               and any(name in boot["rows"] for name in BARS)]
        if row:
            yield row
    row = []
    for what in GROWTH:
        boot = next((boot for boot in boots if has(boot, rf"_\d+_{what}$")), None)
        if boot:
            row.append((growth, boot, what))
    if row:
        yield row


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
