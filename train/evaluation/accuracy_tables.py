"""The tables of an accuracy result, as ``benchmarks/accuracy.py --json`` writes it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from model.labels import TASKS
from train.evaluation.tables import NO_FIGURE, Table, cells, figure, plural, ranged

Result = dict[str, Any]

NO_INTERVAL = (
    "No interval stands where resampling speakers changes nothing: one speaker, or all right or "
    "all wrong. That is not certainty."
)
RECALLS = {f"{task}_recall": f"{task.replace('_', ' ')} recall" for task in TASKS}
SCORES = {"accuracy": "accuracy", "recall": "recall (UAR)", "f1": "F1"}


def _name(task: str) -> str:
    return task.replace("_", " ")


def _counts(at: Result) -> tuple[str, str]:
    return str(at.get("calls", at.get("n"))), str(at["speakers"])


def score_table(
    title: str,
    rows: Iterable[tuple[str, Result]],
    columns: dict[str, str],
    *,
    first: str = "",
    note: str = "",
    detail: bool = False,
) -> Table:
    """Make a table of scores with a row for each part of the calls.

    Args:
        title: of the table.
        rows: name and scores of each part.
        columns: name of the column by key of the score.
        first: name of the first column.
        note: stands below the table.
        detail: too long for a terminal.
    """
    header = (first, "n", "speakers", *columns.values())
    body = [(name, *_counts(at), *cells(at, list(columns))) for name, at in rows]
    return Table(title, header, body, note, detail)


def summary(result: Result) -> Table:
    """Make the table of macro scores of the final predictions."""
    rows = [
        ("gender", result["gender"]["all"]),
        ("gender, adults", result["gender"]["adult"]),
        ("gender, children", result["gender"]["child"]),
        ("age group", result["age_group"]),
        ("age band", result["age_band"]),
    ]
    note = (
        "Precision, recall and F1 are macro averages over the classes that occur. In brackets the "
        f"{result['bootstrap']['level']:.0%} interval, by resampling speakers. {NO_INTERVAL}"
    )
    absent = [(name, at["absent"]) for name, at in rows if at["absent"]]
    note += "".join(f" Absent from {name}: {', '.join(names)}." for name, names in absent)
    keys = {"precision": "precision", "recall": "recall (UAR)", "f1": "F1", "accuracy": "accuracy"}
    return score_table("Final predictions", rows, keys, first="task", note=note)


def per_class(result: Result) -> Table:
    """Recall of every class that occurs, and the class that it is most often taken for."""
    rows: list[tuple[str, ...]] = []
    for task in TASKS:
        scores = result["gender"]["adult"] if task == "gender" else result[task]
        name = "gender, adults" if task == "gender" else _name(task)
        for label, at in scores["per_class"].items():
            wrong = {k or "no answer": n for k, n in scores["confusion"][label].items()}
            wrong.pop(label, None)
            likely = max(wrong, key=wrong.__getitem__, default="")
            taken = f"{likely} ({wrong[likely] / at['n']:.2f})" if likely else NO_FIGURE
            recall = ranged(at["recall"], at["interval"]["recall"])
            rows.append((f"{name}: {label}", *_counts(at), recall, figure(at["precision"]), taken))
    header = ("class", "n", "speakers", "recall", "precision", "most often taken for (share)")
    return Table("By class", header, rows)


def by_task(result: Result) -> list[Table]:
    """Decisions, calibration."""
    columns = {
        "coverage": "decided",
        "accuracy": "right of decided",
        "accuracy_all": "right of all",
    }
    rows = [(_name(task), result["decided"][task]) for task in TASKS]
    note = (
        "Decided: share of calls that ended with a label instead of “undecided”. Right of all: of "
        "the likeliest class, decided or not."
    )
    decisions = score_table("Decisions", rows, columns, first="task", note=note)
    body: list[tuple[str, ...]] = []
    for task in TASKS:
        at = result["calibration"][task]
        means = (figure(at["confidence"]), figure(at["accuracy"]))
        body.append((_name(task), *_counts(at), *means, *cells(at, ("ece", "overconfidence"))))
    header = ("task", "n", "speakers", "mean confidence", "accuracy", "ECE", "overconfidence")
    note = (
        "Of the calibrated confidences, over calls with speech. ECE: expected calibration error, "
        "15 bins. Overconfidence: mean confidence less accuracy."
    )
    return [decisions, Table("Calibration", header, body, note)]


def _by_speech(result: Result, task: str, *, everyone: bool) -> Table:
    """Scores after each amount of speech, over all calls or over those with at least so much."""
    end = "_all" if everyone else ""
    rows = [
        (
            f"{at['speech_seconds']:g} s",
            {**at, "n": at[f"n{end}"], "speakers": at[f"speakers{end}"]},
        )
        for at in result["by_speech"][task]
    ]
    what = "all calls" if everyone else "calls with at least so much"
    return score_table(
        f"{_name(task).capitalize()} by amount of speech, {what}",
        rows,
        {key + end: name for key, name in SCORES.items()},
        first="speech",
        note="All calls; a shorter one counts with its final prediction." if everyone else "",
        detail=not everyone,
    )


def gender_gap(result: Result) -> Table:
    """Recall of both genders, band by band; without a row if the model has not two genders."""
    found = result["fairness"]
    title = "Gender on telephone speech: recall per adult band"
    if found is None:
        return Table(title, (), [])
    rows: list[tuple[str, ...]] = []
    for band, at in found["bands"].items():
        recalls = [
            ranged(one["recall"], one["interval"]) + f", {plural(one['speakers'], 'speaker')}"
            for one in at["gender"].values()
        ]
        rows.append((band, *_counts(at), *recalls, ranged(at["gap_points"], at["interval"], 1)))
    first, second = found["genders"]
    note = (
        f"Bands with {found['least_speakers']} speakers or more; adult is every band but child. "
        f"Gap: recall of {first} less recall of {second}, in percentage points. "
    )
    if found["largest"]:
        gap = abs(found["largest"]["gap_points"])
        note += f"Largest gap: {found['largest']['age_band']}, {gap:.1f} points. "
    note += "".join(f"Left out: {band}, {why}. " for band, why in found["left_out"].items())
    header = ("age band", "n", "speakers", f"recall of {first}", f"recall of {second}")
    # A table without a row is not shown, and its note would be lost.
    rows = rows or [("none", *[NO_FIGURE] * len(header))]
    return Table(title, (*header, "gap, points"), rows, note.strip())


def _by_part(result: Result, key: str, task: str) -> Table:
    """One task by ``per_corpus`` or ``per_language``."""
    note = "Recall and F1 are over the classes that occur; do not compare them between rows."
    rows = []
    for name, at in result[key].items():
        others = at.get("languages", [])
        note += f" Others: {', '.join(others)}." if others else ""
        rows.append((f"{len(others)} others" if others else name, at[task]))
    kind = key.removeprefix("per_")
    title = f"{_name(task).capitalize()} by {kind}"
    return score_table(title, rows, SCORES, first=kind, note=note, detail=True)


def _child_vs_20s(result: Result) -> Table:
    inside = result["child_vs_20s"] or {"corpus": ""}
    names = {"age_band": "all age bands", "age_group": "all age groups", "forced": "child or 20s"}
    rows = [(name, inside[key]) for key, name in names.items() if key in inside]
    note = (
        "Recall by class: "
        + "; ".join(
            f"{name}: "
            + ", ".join(f"{label} {figure(v['recall'])}" for label, v in at["per_class"].items())
            for name, at in rows
        )
        + ". All children are in this one corpus, so elsewhere a model can learn the corpus "
        "instead of the age."
    )
    title = f"Child against 20s inside {inside['corpus']}"
    return score_table(title, rows, SCORES, first="chosen among", note=note)


def _corpus_probe(result: Result) -> Table:
    """The corpus probe that the model file carries."""
    report = result.get("shortcut") or {"corpus_probe": [], "reading": ""}
    rows: list[tuple[str, ...]] = []
    for at in report["corpus_probe"]:
        found = f"{figure(at['accuracy'])} ({at['low']:.2f} to {at['high']:.2f})"
        values = [figure(at[key]) for key in ("chance", "shuffled", "audio")]
        rows.append((at["band"], str(at["corpora"]), *values, found))
    header = ("age band", "corpora", "chance", "shuffled", "audio", "embedding")
    note = f"From the model file, measured on dev. {report['reading']}"
    return Table("Corpus predicted within one age band", header, rows, note)


def by_cell(result: Result) -> Table:
    """Make the table by gender and age band."""
    rows = [(f"{at['gender']}, {at['age_band']}", at) for at in result["per_cell"]]
    return score_table("By gender and age band", rows, RECALLS, first="labels")


def tables(result: Result) -> list[Table]:
    """Make all tables of a result, most important first; those without a row are left out."""
    found = result["per_corpus_cell"]
    corpus_rows = [
        (", ".join(filter(None, map(at.get, ("corpus", "language", "gender", "age_band")))), at)
        for at in found["cells"]
    ]
    left = found["left_out"]
    left_out = (
        f"Left out: {plural(left['cells'], 'cell')} of fewer than {found['least_speakers']} "
        f"speakers, with {plural(left['calls'], 'call')}."
    )
    by_age = {key: RECALLS[key] for key in ("age_group_recall", "age_band_recall")}
    made = [
        summary(result),
        per_class(result),
        *by_task(result),
        *(_by_speech(result, task, everyone=every) for every in (True, False) for task in TASKS),
        gender_gap(result),
        score_table("Age by age band", result["per_band"].items(), by_age, first="age band"),
        by_cell(result),
        _child_vs_20s(result),
        _corpus_probe(result),
        *(_by_part(result, key, t) for key in ("per_corpus", "per_language") for t in TASKS),
        score_table(
            "By corpus, language, gender and age band",
            corpus_rows,
            RECALLS,
            note=left_out,
            detail=True,
        ),
    ]
    return [table for table in made if table.rows]
