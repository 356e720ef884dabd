"""The headline tables of an accuracy result; the parts of the calls are in the group tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Result = dict[str, Any]

NO_FIGURE = "–"  # noqa: RUF001 - an en dash, as tables have it
TASKS = ("gender", "age_group", "age_band")
NO_INTERVAL = (
    "No interval stands where resampling speakers changes nothing: one speaker, or all right or "
    "all wrong. That is not certainty."
)


@dataclass(frozen=True)
class Table:
    """A table before it is drawn.

    Attributes:
        title: stands above it.
        header: names of the columns.
        rows: as wide as ``header``.
        note: stands below it, may be empty.
        detail: only for a page, too long for a terminal.
    """

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    note: str = ""
    detail: bool = False

    def markdown(self, *, words: bool = False) -> str:
        """The table without title and note; with ``words`` no column is set to the right."""
        ruler = ["---", *["---" if words else "---:"] * (len(self.header) - 1)]
        lines = [self.header, ruler, *self.rows]
        return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def figure(value: float | None) -> str:
    """A share with three decimals, or a dash."""
    return NO_FIGURE if value is None else f"{value:.3f}"


def plural(count: int, noun: str) -> str:
    """A count with its noun: 1 cell, 2 cells."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def ranged(value: float | None, interval: Sequence[float] | None, digits: int = 3) -> str:
    """A figure and, in brackets, its interval; the figure alone where there is none."""
    if value is None:
        return NO_FIGURE
    if interval is None:
        return f"{value:.{digits}f}"
    low, high = interval
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def cells(at: Result, keys: Sequence[str]) -> list[str]:
    """Figures of one result with their intervals."""
    return [ranged(at[key], at["interval"][key]) for key in keys]


def task_name(task: str) -> str:
    """As people write it."""
    return task.replace("_", " ")


def summary(result: Result) -> Table:
    """Final predictions: macro scores of every task."""
    rows: list[tuple[str, ...]] = []
    absent = []
    for name, scores in (
        ("gender", result["gender"]["all"]),
        ("gender, adults", result["gender"]["adult"]),
        ("gender, children", result["gender"]["child"]),
        ("age group", result["age_group"]),
        ("age band", result["age_band"]),
    ):
        values = cells(scores, ("precision", "recall", "f1", "accuracy"))
        rows.append((name, str(scores["n"]), str(scores["speakers"]), *values))
        if scores["absent"]:
            absent.append(f" Absent from {name}: {', '.join(scores['absent'])}.")
    header = ("task", "n", "speakers", "precision", "recall (UAR)", "F1", "accuracy")
    note = (
        "Precision, recall and F1 are macro averages over the classes that occur. In brackets the "
        f"{result['bootstrap']['level']:.0%} interval, by resampling speakers. {NO_INTERVAL}"
    )
    return Table("Final predictions", header, rows, note + "".join(absent))


def per_class(result: Result) -> Table:
    """Recall of every class that occurs, and what it is taken for."""
    rows: list[tuple[str, ...]] = []
    for task in TASKS:
        scores = result["gender"]["adult"] if task == "gender" else result[task]
        name = "gender, adults" if task == "gender" else task_name(task)
        for label, at in scores["per_class"].items():
            said = scores["confusion"][label]
            wrong = {k or "no answer": n for k, n in said.items() if k != label}
            likely = max(wrong, key=wrong.__getitem__, default="")
            taken = f"{likely} ({wrong[likely] / at['n']:.2f})" if likely else NO_FIGURE
            counts = (str(at["n"]), str(at["speakers"]))
            recall = ranged(at["recall"], at["interval"]["recall"])
            rows.append((f"{name}: {label}", *counts, recall, figure(at["precision"]), taken))
    header = ("class", "n", "speakers", "recall", "precision", "most often taken for (share)")
    return Table("By class", header, rows)


def decisions(result: Result) -> Table:
    """What abstaining gains."""
    rows: list[tuple[str, ...]] = []
    for task in TASKS:
        at = result["decided"][task]
        shares = cells(at, ("coverage", "accuracy", "accuracy_all"))
        rows.append((task_name(task), str(at["n"]), str(at["speakers"]), *shares))
    header = ("task", "n", "speakers", "decided", "right of decided", "right of all")
    note = (
        "Decided: share of calls that ended with a label instead of “undecided”. Right of all: of "
        "the likeliest class, decided or not."
    )
    return Table("Decisions", header, rows, note)


def calibration(result: Result) -> Table:
    """How far confidences can be believed."""
    rows: list[tuple[str, ...]] = []
    for task in TASKS:
        at = result["calibration"][task]
        plain = (figure(at["confidence"]), figure(at["accuracy"]))
        errors = cells(at, ("ece", "overconfidence"))
        rows.append((task_name(task), str(at["n"]), str(at["speakers"]), *plain, *errors))
    header = ("task", "n", "speakers", "mean confidence", "accuracy", "ECE", "overconfidence")
    note = (
        "Of the calibrated confidences, over calls with speech. ECE: expected calibration error, "
        "15 bins. Overconfidence: mean confidence less accuracy."
    )
    return Table("Calibration", header, rows, note)


def speech(result: Result, task: str, *, everyone: bool) -> Table:
    """Accuracy, macro recall and F1 by the speech heard.

    Args:
        result: of the benchmark.
        task: one of the tasks.
        everyone: over all calls; otherwise over those with at least so much speech.
    """
    end = "_all" if everyone else ""
    rows: list[tuple[str, ...]] = [
        (
            f"{at['speech_seconds']:g} s",
            str(at[f"n{end}"]),
            str(at[f"speakers{end}"]),
            *cells(at, [f"{key}{end}" for key in ("accuracy", "recall", "f1")]),
        )
        for at in result["by_speech"][task]
    ]
    header = ("speech heard", "n", "speakers", "accuracy", "recall (UAR)", "F1")
    note = "All calls; a shorter one counts with its final prediction."
    what = "all calls" if everyone else "calls with at least so much"
    title = f"{task_name(task).capitalize()} by speech heard, {what}"
    return Table(title, header, rows, note if everyone else "", detail=not everyone)
