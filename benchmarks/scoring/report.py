"""Show an accuracy result: terminal, Markdown, pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from scoring.calls import TASKS
from scoring.groups import LEAST_SPEAKERS

from train.evaluation.accuracy_tables import Result, tables
from train.evaluation.tables import figure

CAVEAT = (
    "Labels are perceived binary gender and age band, as the corpora state them; the telephone is "
    "simulated: recordings coded as 8 kHz mu-law, no real line."
)
COLOURS = {"gender": "#0072b2", "age_group": "#d55e00", "age_band": "#009e73"}
"""Okabe and Ito's palette, distinct for colour-blind readers too."""
MARKERS = {"gender": "o", "age_group": "s", "age_band": "^"}


def facts(result: Result) -> list[str]:
    """State what was measured, a sentence each; the last is the caveat on labels and channel."""
    unit = "calls, one per speaker" if result["per_speaker"] else "calls, one per utterance"
    band = "300-3400 Hz" if result["band"] == "telephone" else "full band"
    lost = result["updates"]["due"] - result["updates"]["received"]
    lines = [
        f"Model {result['model']}; split {result['split']} of {result['manifest']}; {band}.",
        f"{result['calls']} {unit}, {result['speakers']} speakers, "
        f"{result['seconds_of_audio']:.0f} s of audio; "
        f"{result['failed']} failed, {result['no_speech']} without speech (counted as wrong); "
        f"{lost} of {result['updates']['due']} running predictions lost.",
        *result["unmeasured"],
    ]
    lines += [f"Failed: {failure['id']}: {failure['reason']}" for failure in result["failures"]]
    return [*lines, CAVEAT]


def show(result: Result, console: Console) -> None:
    """Print tables and facts to a terminal; tables that are too long for one are only counted."""
    made = tables(result)
    for table in made:
        if not table.detail:
            table.print(console)
    more = sum(table.detail for table in made)
    left = f"{more} longer tables, by corpus, language and cell, are in --markdown."
    for line in (*facts(result), left):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def markdown(result: Result, command: str) -> str:
    """Format the result as a page below ``command``, which must be without machine paths."""
    parts = ["# Accuracy", f"```sh\n{command}\n```"]
    parts.append("\n".join(f"- {line}" for line in facts(result)))
    for table in tables(result):
        parts += [f"## {table.title}", table.markdown(), *filter(None, [table.note])]
    return "\n\n".join(parts) + "\n"


def _name(task: str) -> str:
    return task.replace("_", " ")


def picture(result: Result, path: Path) -> None:
    """Draw accuracy by amount of speech, and reliability diagrams of gender and age group."""
    drawing = Figure(figsize=(13, 4.2), layout="constrained")
    by_speech, *diagrams = drawing.subplots(1, 3)
    _speech_curves(by_speech, result)
    for axes, task in zip(diagrams, ("gender", "age_group"), strict=True):
        _reliability(axes, result, task)
    drawing.suptitle(f"{result['model']}, split {result['split']}", fontsize=10)
    drawing.savefig(path, dpi=120, format="png")


def calibration_picture(result: Result, path: Path) -> None:
    """Draw the reliability diagram of each task above the histogram of its confidences."""
    drawing = Figure(figsize=(13, 5.4), layout="constrained")
    above, below = drawing.subplots(2, 3, sharex=True, height_ratios=(3.4, 1))
    for axes, bars, task in zip(above, below, TASKS, strict=True):
        bins = result["reliability"][task]
        _reliability(axes, result, task, equal_dots=True)
        axes.set_xlabel("")
        total = sum(b["n"] for b in bins)
        confidence = [b["confidence"] for b in bins]
        bars.bar(confidence, [b["n"] / total for b in bins], width=0.06, color=COLOURS[task])
        bars.set(xlabel="confidence", ylabel="share of calls", ylim=(0, 1))
        bars.grid(alpha=0.3)
    level = f"{result['bootstrap']['level']:.0%}"
    text = f"bars: {level} intervals over speakers; hollow: fewer than {LEAST_SPEAKERS} speakers"
    drawing.suptitle(f"{result['model']}, split {result['split']}; {text}", fontsize=10)
    drawing.savefig(path, dpi=120, format="png")


def _speech_curves(axes: Axes, result: Result) -> None:
    for task, colour in COLOURS.items():
        rows = [r for r in result["by_speech"][task] if r["accuracy_all"] is not None]
        style: dict[str, Any] = {"color": colour, "marker": MARKERS[task], "markersize": 4}
        seconds = [r["speech_seconds"] for r in rows]
        axes.plot(seconds, [r["accuracy_all"] for r in rows], label=_name(task), **style)
        sure = [r for r in rows if r["interval"]["accuracy_all"]]
        low, high = ([r["interval"]["accuracy_all"][end] for r in sure] for end in (0, 1))
        at = [r["speech_seconds"] for r in sure]
        axes.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)
        long = [r for r in rows if r["accuracy"] is not None]
        seconds = [r["speech_seconds"] for r in long]
        axes.plot(seconds, [r["accuracy"] for r in long], linestyle=":", **style)
    ticks = [row["speech_seconds"] for row in result["by_speech"]["gender"]]
    axes.set(xscale="log", xlabel="speech, s", ylabel="accuracy", ylim=(0, 1.02))
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_title("all calls, with interval; dotted: calls with that much speech", fontsize=9)
    axes.legend(loc="best", fontsize=8)
    axes.grid(alpha=0.3)


def _reliability(axes: Axes, result: Result, task: str, *, equal_dots: bool = False) -> None:
    """Draw accuracy against confidence; the area of a dot is its share of the calls."""
    bins: list[Result] = result["reliability"][task]
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--")
    colour = COLOURS[task]
    total = sum(b["n"] for b in bins)
    # A bin of a few speakers is uncertain: its dot is hollow and no line leads to it.
    many = [b for b in bins if b["speakers"] >= LEAST_SPEAKERS]
    axes.plot([b["confidence"] for b in many], [b["accuracy"] for b in many], color=colour, lw=1)
    axes.scatter(
        [b["confidence"] for b in bins],
        [b["accuracy"] for b in bins],
        s=[30 if equal_dots else 15 + 300 * b["n"] / total for b in bins],
        c=[colour if b in many else "white" for b in bins],
        edgecolors=colour,
        alpha=0.8,
        zorder=3,
    )
    for b in bins:
        if b["interval"]:
            axes.vlines(b["confidence"], *b["interval"], color=colour, lw=1.2, alpha=0.6)
    axes.set(xlabel="confidence", ylabel="share that is right", xlim=(0, 1), ylim=(-0.03, 1.03))
    axes.set_title(f"{_name(task)}, ECE {figure(result['ece'][task])}", fontsize=9)
    axes.grid(alpha=0.3)
