"""Pictures of an accuracy result: accuracy by speech heard, and reliability diagrams."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from scoring.groups import LEAST_SPEAKERS
from scoring.tables import TASKS, Result, figure, task_name

COLOURS = {"gender": "#0072b2", "age_group": "#d55e00", "age_band": "#009e73"}
"""Okabe and Ito's, told apart by colour-blind readers too."""
MARKERS = {"gender": "o", "age_group": "s", "age_band": "^"}


def canvas(width: float, height: float) -> Figure:
    """An empty drawing that needs no screen."""
    drawing = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(drawing)
    return drawing


def picture(result: Result, path: Path) -> None:
    """Draw accuracy by speech heard and reliability diagrams of gender and age group."""
    drawing = canvas(13, 4.2)
    by_speech, *reliability = drawing.subplots(1, 3)
    speech_curves(by_speech, result)
    for axes, task in zip(reliability, ("gender", "age_group"), strict=True):
        reliability_diagram(axes, task, result["reliability"][task], result["ece"][task])
    drawing.suptitle(f"{result['model']}, split {result['split']}", fontsize=10)
    drawing.savefig(path, dpi=120, format="png")


def calibration_picture(result: Result, path: Path) -> None:
    """Draw the reliability diagram of each task above how often each confidence is stated."""
    drawing = canvas(13, 5.4)
    above, below = drawing.subplots(2, 3, sharex=True, height_ratios=(3.4, 1))
    for axes, bars, task in zip(above, below, TASKS, strict=True):
        bins = result["reliability"][task]
        reliability_diagram(axes, task, bins, result["ece"][task], dots_alike=True)
        axes.set_xlabel("")
        total = sum(b["n"] for b in bins)
        stated = [b["confidence"] for b in bins]
        bars.bar(stated, [b["n"] / total for b in bins], width=0.06, color=COLOURS[task])
        bars.set(xlabel="confidence stated", ylabel="share of calls", ylim=(0, 1))
        bars.grid(alpha=0.3)
    drawing.suptitle(
        f"{result['model']}, split {result['split']}; bars: "
        f"{result['bootstrap']['level']:.0%} intervals over speakers; hollow: fewer than "
        f"{LEAST_SPEAKERS} speakers",
        fontsize=10,
    )
    drawing.savefig(path, dpi=120, format="png")


def speech_curves(speech: Axes, result: Result) -> None:
    """Accuracy of every task after so much speech."""
    for task, colour in COLOURS.items():
        rows = [r for r in result["by_speech"][task] if r["accuracy_all"] is not None]
        style: dict[str, Any] = {"color": colour, "marker": MARKERS[task], "markersize": 4}
        heard = [r["speech_seconds"] for r in rows]
        speech.plot(heard, [r["accuracy_all"] for r in rows], label=task_name(task), **style)
        sure = [r for r in rows if r["interval"]["accuracy_all"]]
        low, high = ([r["interval"]["accuracy_all"][end] for r in sure] for end in (0, 1))
        at = [r["speech_seconds"] for r in sure]
        speech.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)
        long = [r for r in rows if r["accuracy"] is not None]
        seconds = [r["speech_seconds"] for r in long]
        speech.plot(seconds, [r["accuracy"] for r in long], linestyle=":", **style)
    ticks = [row["speech_seconds"] for row in result["by_speech"]["gender"]]
    speech.set(xscale="log", xlabel="speech heard, s", ylabel="accuracy", ylim=(0, 1.02))
    speech.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    speech.minorticks_off()
    speech.set_title("all calls, with interval; dotted: calls with that much speech", fontsize=9)
    speech.legend(loc="best", fontsize=8)
    speech.grid(alpha=0.3)


def reliability_diagram(
    axes: Axes, task: str, bins: Sequence[Result], ece: float | None, *, dots_alike: bool = False
) -> None:
    """Accuracy against stated confidence, with intervals.

    Args:
        axes: to draw on.
        task: one of the tasks.
        bins: of ``reliability``.
        ece: expected calibration error.
        dots_alike: all of one size; otherwise a dot's area is its share of the calls.
    """
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--")
    colour = COLOURS[task]
    total = sum(b["n"] for b in bins)
    stated = [b["confidence"] for b in bins]
    right = [b["accuracy"] for b in bins]
    # A bin of a few people says little: its dot is hollow and no line leads to it.
    many = [b for b in bins if b["speakers"] >= LEAST_SPEAKERS]
    axes.plot([b["confidence"] for b in many], [b["accuracy"] for b in many], color=colour, lw=1)
    sizes = [30 if dots_alike else 15 + 300 * b["n"] / total for b in bins]
    faces = [colour if b in many else "white" for b in bins]
    axes.scatter(stated, right, s=sizes, c=faces, edgecolors=colour, alpha=0.8, zorder=3)
    for b in bins:
        if b["interval"]:
            axes.vlines(b["confidence"], *b["interval"], color=colour, lw=1.2, alpha=0.6)
    axes.set(
        xlabel="confidence stated", ylabel="share that is right", xlim=(0, 1), ylim=(-0.03, 1.03)
    )
    axes.set_title(f"{task_name(task)}, ECE {figure(ece)}", fontsize=9)
    axes.grid(alpha=0.3)
