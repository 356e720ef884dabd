"""Table 1 as a picture: F1 of gender and of age group, ours with intervals beside the paper's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from scoring.pictures import COLOURS, canvas

from paper_table.figures import Line
from paper_table.rows import PAPER_ROWS
from paper_table.text import NETWORKS

BLOCKS = {"clean": "clean, 16 kHz", "telephone": "telephone", "inhouse": "in-house"}
TITLES = {"gender": "gender of adults, F1", "age_group": "age group, F1"}
_GAP = 0.8
"""Between groups of one network and block, in rows."""


def places() -> tuple[dict[str, float], list[tuple[float, str]]]:
    """Height of every row, downwards, and of the headings of the groups."""
    heights: dict[str, float] = {}
    headings: list[tuple[float, str]] = []
    at, before = 0.0, ("", "")
    for row in PAPER_ROWS:
        group = (row.block, "" if row.block == "clean" else row.network)
        if group != before:
            at += _GAP
            network = NETWORKS[row.network] if group[1] else ""
            headings.append((at, f"{BLOCKS[row.block]} {network}".strip()))
            at += 1
            before = group
        heights[row.id] = at
        at += 1
    return heights, headings


def picture(lines: Mapping[str, Line], path: Path) -> None:
    """Draw the rows of the table; one that is missing keeps its place, and the paper's mark."""
    heights, headings = places()
    drawing = canvas(12, 0.33 * max(heights.values()) + 1.6)
    panels = drawing.subplots(1, 2, sharey=True)
    for axes, (task, title) in zip(panels, TITLES.items(), strict=True):
        for name, height in heights.items():
            _row(axes, lines[name], task, height)
        axes.set(title=title, xlabel="per cent")
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        for height, heading in headings:
            axes.axhline(height - 0.6, color="0.8", linewidth=0.8)
            axes.axhspan(height - 0.6, height + 0.4, color="0.96", zorder=0)
            if axes is panels[0]:
                axes.annotate(
                    heading,
                    (0.01, height),
                    xycoords=("axes fraction", "data"),
                    va="center",
                    fontsize=9,
                    fontweight="bold",
                )
    first = panels[0]
    labels = []
    for name in heights:
        row = lines[name].row
        labels.append(NETWORKS[row.network] if row.block == "clean" else row.method)
    first.set_yticks(list(heights.values()), labels)
    for label, name in zip(first.get_yticklabels(), heights, strict=True):
        label.set_color("black" if lines[name].records else "0.55")
    first.set_ylim(max(heights.values()) + 0.7, 0.1)
    _legend(first)
    drawing.savefig(path, dpi=120, format="png")


def _row(axes: Axes, found: Line, task: str, height: float) -> None:
    paper = found.row.published.of(task) if found.row.published else None
    if paper:
        axes.plot(paper[2], height, "D", markersize=6, color="0.35", fillstyle="none", zorder=3)
    value = found.figures[task]["f1"] if found.records else None
    if value is None or value.value is None:
        axes.annotate(
            "missing",
            (0.01, height),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=7,
            color="0.6",
        )
        return
    if value.interval:
        low, high = (100 * end for end in value.interval)
        axes.plot([low, high], [height, height], color=COLOURS[task], linewidth=2, zorder=2)
    axes.plot(100 * value.value, height, "o", markersize=6, color=COLOURS[task], zorder=4)
    for seed in value.by_seed if len(value.by_seed) > 1 else ():
        axes.plot(100 * seed, height + 0.28, "|", markersize=4, color=COLOURS[task], zorder=4)


def _legend(axes: Axes) -> None:
    """Marks mean the same in both panels; drawn in grey, outside the data."""
    axes.plot([], [], "o-", color="0.2", label="ours, 95 % over speakers")
    axes.plot([], [], "|", color="0.2", label="each seed")
    axes.plot([], [], "D", color="0.35", fillstyle="none", label="the paper's, on its own corpora")
    axes.figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
