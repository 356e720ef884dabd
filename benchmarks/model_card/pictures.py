"""Pictures of the card, drawn from the same figures as its tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from scoring.pictures import COLOURS, calibration_picture, canvas, speech_curves
from scoring.tables import Result

from model_card.inputs import Inputs

MARKS = (("#e69f00", "o"), ("#0072b2", "s"), ("#999999", "^"))
"""Colour and marker of the genders, in the model's order."""


def draw(inputs: Inputs, folder: Path) -> dict[str, Path]:
    """Draw what can be drawn into ``folder``; names of the pictures and their files."""
    todo: dict[str, Callable[[Path], None]] = {
        "recall": lambda path: recall_picture(inputs.single, path),
        "speech": lambda path: speech_picture(inputs.single, inputs.calls, path),
        "calibration": lambda path: calibration_picture(inputs.single, path),
    }
    probe = inputs.probe
    if probe is not None and any(not row["reason"] for row in probe["corpus_probe"]):
        todo["corpus"] = lambda path: corpus_picture(probe, path)
    made = {name: folder / f"card_{name}.png" for name in todo}
    for name, path in made.items():
        todo[name](path)
    return made


def recall_picture(result: Result, path: Path) -> None:
    """Recall of gender and of age group, by gender and age band, with intervals."""
    drawing = canvas(11, 4.2)
    for axes, key, title in zip(
        drawing.subplots(1, 2),
        ("gender_recall", "age_group_recall"),
        ("gender", "age group"),
        strict=True,
    ):
        _recalls(axes, result, key)
        axes.set_title(
            f"recall of {title}, {result['bootstrap']['level']:.0%} intervals", fontsize=10
        )
    drawing.savefig(path, dpi=120, format="png")


def _recalls(axes: Axes, result: Result, key: str) -> None:
    cells = result["per_cell"]
    bands = list(dict.fromkeys(at["age_band"] for at in cells))
    genders = list(dict.fromkeys(at["gender"] for at in cells))
    for number, gender in enumerate(genders):
        colour, marker = MARKS[number % len(MARKS)]
        mine = [at for at in cells if at["gender"] == gender]
        places = [
            bands.index(at["age_band"]) + 0.2 * (number - (len(genders) - 1) / 2) for at in mine
        ]
        for place, at in zip(places, mine, strict=True):
            if at["interval"][key]:
                axes.vlines(place, *at["interval"][key], color=colour, lw=1.5, alpha=0.7)
        style: dict[str, Any] = {"color": colour, "linestyle": "", "markersize": 6}
        axes.plot(places, [at[key] for at in mine], marker=marker, label=gender, **style)
    counts = [sum(at["speakers"] for at in cells if at["age_band"] == band) for band in bands]
    axes.set_xticks(
        range(len(bands)), [f"{b}\n{n}" for b, n in zip(bands, counts, strict=True)], fontsize=9
    )
    axes.set(ylim=(-0.03, 1.03), xlabel="age band, and its speakers", ylabel="recall")
    axes.grid(alpha=0.3, axis="y")
    if cells:
        axes.legend(fontsize=8)


def speech_picture(single: Result, calls: Result | None, path: Path) -> None:
    """Accuracy by speech heard, of single utterances and of whole calls."""
    shown = [(single, "single utterances"), *([(calls, "whole calls")] if calls else [])]
    drawing = canvas(5.5 * len(shown), 4.2)
    for axes, (result, name) in zip(
        drawing.subplots(1, len(shown), squeeze=False)[0], shown, strict=True
    ):
        speech_curves(axes, result)
        axes.set_title(f"{name}; dotted: those with that much speech", fontsize=10)
    drawing.savefig(path, dpi=120, format="png")


def corpus_picture(probe: Result, path: Path) -> None:
    """How well the corpus is told within each age band, beside chance and the bare spectrum."""
    rows = [row for row in probe["corpus_probe"] if not row["reason"]]
    drawing = canvas(2 + 1.3 * max(3, len(rows)), 3.8)
    axes = drawing.subplots()
    for number, row in enumerate(rows):
        axes.hlines(
            row["chance"], number - 0.3, number + 0.3, colors="black", linestyles="--", lw=1
        )
        axes.vlines(number + 0.1, row["low"], row["high"], color=COLOURS["age_group"], lw=1.5)
    for offset, key, name, colour, marker in (
        (-0.1, "audio", "bare spectrum", "#56b4e9", "s"),
        (0.1, "accuracy", "embedding, with 95 % interval", COLOURS["age_group"], "o"),
    ):
        places = [number + offset for number, row in enumerate(rows) if row[key] is not None]
        values = [row[key] for row in rows if row[key] is not None]
        axes.plot(places, values, marker=marker, color=colour, linestyle="", label=name)
    axes.set_xticks(
        range(len(rows)), [f"{row['band']}\n{len(row['speakers'])} corpora" for row in rows]
    )
    axes.set(ylim=(0, 1.02), ylabel="balanced accuracy", xlim=(-0.6, len(rows) - 0.4))
    axes.set_title("which corpus? told within one age band (dashed: chance)", fontsize=10)
    axes.grid(alpha=0.3, axis="y")
    axes.legend(fontsize=8)
    drawing.savefig(path, dpi=120, format="png")
