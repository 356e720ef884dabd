"""The result of ``accuracy.py`` for people: tables in the terminal and in Markdown, a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table as RichTable

Result = dict[str, Any]

HONESTY = (
    "Labels are perceived binary gender and age band, as the corpora state them; the telephone is "
    "simulated: recordings coded as 8 kHz mu-law, no real line."
)
NO_FIGURE = "–"  # noqa: RUF001 - an en dash, as tables have it
COLOURS = {"gender": "#0072b2", "age_group": "#d55e00", "age_band": "#009e73"}
"""Okabe and Ito's, told apart by colour-blind readers too."""
MARKERS = {"gender": "o", "age_group": "s", "age_band": "^"}


@dataclass(frozen=True)
class Table:
    """A table before it is drawn; ``note`` stands below it, rows are as wide as ``header``."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    note: str = ""


def figure(value: float | None) -> str:
    """A share with three decimals, or a dash."""
    return NO_FIGURE if value is None else f"{value:.3f}"


def tables(result: Result) -> list[Table]:
    """All tables of a result, most important first; those without a row are left out."""
    made = [_summary(result), _decisions(result)]
    made += [_speech(result, task) for task in COLOURS]
    made += [_bands(result), _corpora(result), _pair(result), _shortcut(result)]
    return [table for table in made if table.rows]


def _summary(result: Result) -> Table:
    rows: list[tuple[str, ...]] = []
    absent = []
    for name, scores in (
        ("gender", result["gender"]["all"]),
        ("gender, adults", result["gender"]["adult"]),
        ("gender, children", result["gender"]["child"]),
        ("age group", result["age_group"]),
        ("age band", result["age_band"]),
    ):
        values = [scores[key] for key in ("precision", "recall", "f1", "accuracy")]
        rows.append((name, str(scores["n"]), *map(figure, values)))
        if scores["absent"]:
            absent.append(f" Absent from {name}: {', '.join(scores['absent'])}.")
    header = ("task", "n", "precision", "recall", "F1", "accuracy")
    note = "Precision, recall and F1 are macro averages over the classes that occur."
    return Table("Final predictions", header, rows, note + "".join(absent))


def _decisions(result: Result) -> Table:
    rows: list[tuple[str, ...]] = []
    for task in COLOURS:
        decided = result["decided"][task]
        values = (decided["coverage"], decided["accuracy"], result["ece"][task])
        rows.append((task.replace("_", " "), str(decided["n"]), *map(figure, values)))
    header = ("task", "n", "decided", "right of decided", "calibration error")
    note = "Decided: share of calls that ended with a label instead of “undecided”."
    return Table("Decisions and calibration", header, rows, note)


def _speech(result: Result, task: str) -> Table:
    rows: list[tuple[str, ...]] = [
        (
            f"{at['speech_seconds']:g} s",
            str(at["n"]),
            figure(at["accuracy"]),
            figure(at["f1"]),
            str(at["n_all"]),
            figure(at["accuracy_all"]),
        )
        for at in result["by_speech"][task]
    ]
    name = task.replace("_", " ").capitalize()
    header = ("speech heard", "n", "accuracy", "F1", "all calls", "accuracy, all")
    note = (
        "n, accuracy and F1 are of the calls with at least that much speech; all calls: a shorter "
        "one counts with its final prediction."
    )
    return Table(f"{name} by speech heard", header, rows, note)


def _bands(result: Result) -> Table:
    rows: list[tuple[str, ...]] = []
    genders: list[str] = []
    for band, at in result["per_band"].items():
        genders = list(at["gender"])
        cells = [band, str(at["calls"])]
        for name in genders:
            cells += [figure(at["gender"][name]["recall"]), str(at["gender"][name]["n"])]
        cells += [figure(at["age_group_recall"]), figure(at["age_band_recall"])]
        rows.append(tuple(cells))
    header = ["age band", "calls"]
    for name in genders:
        header += [f"recall of {name}", "n"]
    header += ["age group recall", "age band recall"]
    return Table("By age band", tuple(header), rows)


def _corpora(result: Result) -> Table:
    rows: list[tuple[str, ...]] = []
    for corpus, at in result["per_corpus"].items():
        cells = [corpus, str(at["calls"])]
        for task in COLOURS:
            cells += [figure(at[task]["accuracy"]), figure(at[task]["f1"])]
        rows.append(tuple(cells))
    header = ["corpus", "calls"]
    for task in COLOURS:
        header += [task.replace("_", " "), "F1"]
    note = (
        "Accuracy, and F1 over the classes that the corpus has; do not compare F1 between corpora."
    )
    return Table("By corpus", tuple(header), rows, note)


def _pair(result: Result) -> Table:
    pair = result["child_vs_20s"] or {"corpus": ""}
    rows: list[tuple[str, ...]] = []
    for key, name in (
        ("age_band", "all age bands"),
        ("age_group", "all age groups"),
        ("forced", "child or 20s"),
    ):
        if key in pair:
            scores = pair[key]
            recalls = [f"{c} {figure(v['recall'])}" for c, v in scores["per_class"].items()]
            accuracy, f1 = figure(scores["accuracy"]), figure(scores["f1"])
            rows.append((name, str(scores["n"]), accuracy, f1, ", ".join(recalls)))
    note = (
        "All children come from this one corpus, so elsewhere a model can learn the corpus "
        "instead of the age."
    )
    header = ("chosen among", "n", "accuracy", "F1", "recall")
    return Table(f"Child against 20s inside {pair['corpus']}", header, rows, note)


def _shortcut(result: Result) -> Table:
    report = result.get("shortcut") or {"corpus_probe": [], "reading": ""}
    rows: list[tuple[str, ...]] = []
    for at in report["corpus_probe"]:
        told = f"{figure(at['accuracy'])} ({at['low']:.2f} to {at['high']:.2f})"
        values = [figure(at[key]) for key in ("chance", "shuffled", "audio")]
        rows.append((at["band"], str(at["corpora"]), *values, told))
    header = ("age band", "corpora", "chance", "shuffled", "audio", "embedding")
    note = f"From the model file, measured on dev. {report['reading']}"
    return Table("Which corpus? told within one age band", header, rows, note)


def facts(result: Result) -> list[str]:
    """What was measured, a sentence each; the last one is the caveat on labels and channel."""
    unit = "calls, one per speaker" if result["per_speaker"] else "calls, one per utterance"
    band = "300-3400 Hz" if result["band"] == "telephone" else "full band"
    lost = result["updates"]["due"] - result["updates"]["received"]
    lines = [
        f"Model {result['model']}; split {result['split']} of {result['manifest']}; {band}.",
        f"{result['calls']} {unit}, {result['seconds_of_audio']:.0f} s of audio; "
        f"{result['failed']} failed, {result['no_speech']} without speech (counted as wrong); "
        f"{lost} of {result['updates']['due']} running predictions lost.",
    ]
    lines += [f"Failed: {failure['id']}: {failure['reason']}" for failure in result["failures"]]
    return [*lines, HONESTY]


def show(result: Result, console: Console) -> None:
    """Print tables and facts to a terminal."""
    for table in tables(result):
        drawn = RichTable(title=table.title, caption=table.note or None, title_justify="left")
        for number, name in enumerate(table.header):
            drawn.add_column(name, justify="right" if number else "left", no_wrap=not number)
        for row in table.rows:
            drawn.add_row(*row)
        console.print(drawn)
    for line in facts(result):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def markdown(result: Result, command: str) -> str:
    """The result as a page.

    Args:
        result: as written to JSON.
        command: that made it, without machine paths.
    """
    parts = ["# Accuracy", f"```sh\n{command}\n```"]
    parts.append("\n".join(f"- {line}" for line in facts(result)))
    for table in tables(result):
        ruler = ["---", *["---:"] * (len(table.header) - 1)]
        lines = [table.header, ruler, *table.rows]
        parts.append(f"## {table.title}")
        parts.append("\n".join("| " + " | ".join(cells) + " |" for cells in lines))
        if table.note:
            parts.append(table.note)
    return "\n\n".join(parts) + "\n"


def picture(result: Result, path: Path) -> None:
    """Draw accuracy by speech heard and reliability diagrams of gender and age group."""
    mpl.use("Agg")
    drawing = Figure(figsize=(13, 4.2), layout="constrained")
    speech, *reliability = drawing.subplots(1, 3)
    for task, colour in COLOURS.items():
        rows = [r for r in result["by_speech"][task] if r["accuracy_all"] is not None]
        style = {"color": colour, "marker": MARKERS[task], "markersize": 4}
        name = task.replace("_", " ")
        heard = [r["speech_seconds"] for r in rows]
        speech.plot(heard, [r["accuracy_all"] for r in rows], label=name, **style)
        long = [r for r in rows if r["accuracy"] is not None]
        seconds = [r["speech_seconds"] for r in long]
        speech.plot(seconds, [r["accuracy"] for r in long], linestyle=":", **style)
    ticks = [row["speech_seconds"] for row in result["by_speech"]["gender"]]
    speech.set(xscale="log", xlabel="speech heard, s", ylabel="accuracy", ylim=(0, 1))
    speech.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    speech.minorticks_off()
    speech.set_title("all calls; dotted: calls with that much speech", fontsize=9)
    speech.legend(loc="best", fontsize=8)
    speech.grid(alpha=0.3)
    for axes, task in zip(reliability, ("gender", "age_group"), strict=True):
        _reliability(axes, task, result["reliability"][task], result["ece"][task])
    drawing.suptitle(f"{result['model']}, split {result['split']}", fontsize=10)
    drawing.savefig(path, dpi=120, format="png")


def _reliability(axes: Axes, task: str, bins: Sequence[Result], ece: float | None) -> None:
    """Accuracy against stated confidence; the area of a dot is its share of the calls."""
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--")
    total = sum(b["n"] for b in bins)
    axes.plot(
        [b["confidence"] for b in bins], [b["accuracy"] for b in bins], color=COLOURS[task], lw=1
    )
    axes.scatter(
        [b["confidence"] for b in bins],
        [b["accuracy"] for b in bins],
        s=[15 + 300 * b["n"] / total for b in bins],
        color=COLOURS[task],
        alpha=0.7,
    )
    axes.set(xlabel="confidence stated", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1))
    axes.set_title(f"{task.replace('_', ' ')}, ECE {figure(ece)}", fontsize=9)
    axes.grid(alpha=0.3)
