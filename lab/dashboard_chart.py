# SPDX-License-Identifier: GPL-2.0
"""Draw the panels of a Grafana dashboard where it has them: dashboard_chart.py PANELS.json PICTURE.svg."""

import json
import pathlib
import sys

import matplotlib
from matplotlib.figure import Figure

# Grafana has 24 columns; a row has 30 pixels.
COLUMNS, ROW_INCHES, INCHES = 24, 0.36, 12.5


def draw_stat(axes, panel):
    axes.set_axis_off()
    value = float(panel["series"][0]["values"][0][1])
    mappings = panel["fieldConfig"]["defaults"].get("mappings", [])
    names = next((mapping["options"] for mapping in mappings), {})
    shown = names.get(f"{value:g}", {"text": f"{value:g}"})
    axes.text(0.02, 0.4, shown["text"], fontsize=20, color=shown.get("color", "black"), va="center")


def draw_timeseries(axes, panel):
    begin = min(series["values"][0][0] for series in panel["series"])
    for series in panel["series"]:
        times, values = zip(*((at - begin, float(value)) for at, value in series["values"]))
        axes.plot(times, values, label=series["legend"], linewidth=1.2)
    axes.set_ylim(bottom=0)
    axes.margins(x=0)
    axes.tick_params(labelsize=7)
    axes.grid(color="#e0e0e0", linewidth=0.5)
    unit = panel["fieldConfig"]["defaults"].get("unit", "none")
    axes.set_ylabel({"ops": "per second", "s": "s per second"}.get(unit, ""), fontsize=7)
    axes.set_xlabel("seconds", fontsize=7, labelpad=1)
    axes.legend(fontsize=6, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=3, frameon=False)


def draw_table(axes, panel):
    axes.set_axis_off()
    labels = [name for name in panel["series"][0]["metric"] if name not in ("job", "__name__")]
    ordered = sorted(panel["series"], key=lambda series: -float(series["values"][0][1]))
    rows = [[*(series["metric"].get(name, "") for name in labels), f"{float(series['values'][0][1]):.1f}"]
            for series in ordered[:panel["gridPos"]["h"] + 2]]
    table = axes.table(rows, colLabels=[*labels, "per second"], loc="upper left", cellLoc="left", edges="horizontal")
    table.auto_set_font_size(False)
    table.set_fontsize(7)
    table.auto_set_column_width(list(range(len(labels) + 1)))


DRAW = {"stat": draw_stat, "timeseries": draw_timeseries, "table": draw_table}


def draw(panels, path):
    matplotlib.rcParams["svg.hashsalt"] = "kvm-mmio"
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = Figure(figsize=(INCHES, height * ROW_INCHES), facecolor="white")
    for panel in panels:
        place = panel["gridPos"]
        # Room for titles above, and for axes and legends on the left and below.
        left, below = (0.045, 2.2) if panel["type"] == "timeseries" else (0.01, 0.2)
        axes = figure.add_axes([place["x"] / COLUMNS + left, (height - place["y"] - place["h"] + below) / height,
                                place["w"] / COLUMNS - left - 0.015, (place["h"] - below - 0.9) / height])
        axes.set_title(panel["title"], loc="left", fontsize=9, fontweight="bold")
        DRAW[panel["type"]](axes, panel)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    draw(json.loads(pathlib.Path(sys.argv[1]).read_text()), sys.argv[2])
