"""Tables of an accuracy result for parts of the calls: age bands, cells, corpora, languages."""

from __future__ import annotations

from scoring.tables import (
    NO_FIGURE,
    TASKS,
    Result,
    Table,
    cells,
    figure,
    plural,
    ranged,
    task_name,
)


def bands(result: Result) -> Table:
    """By age band: recall of the age group and of the band."""
    rows: list[tuple[str, ...]] = []
    for band, at in result["per_band"].items():
        counts = (str(at["calls"]), str(at["speakers"]), str(len(at["corpora"])))
        rows.append((band, *counts, *cells(at, ("age_group_recall", "age_band_recall"))))
    header = ("age band", "calls", "speakers", "corpora", "age group recall", "age band recall")
    return Table(
        "Age by age band", header, rows, "Intervals of a row are drawn among its speakers."
    )


def fairness(result: Result) -> Table:
    """Recall of women against men, band by band; without a row for a model of other genders."""
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
        gap = ranged(at["gap_points"], at["interval"], 1)
        rows.append((band, str(at["calls"]), str(at["speakers"]), *recalls, gap))
    first, second = found["genders"]
    note = (
        f"Bands with {found['least_speakers']} speakers or more; adult is every band but child. "
        f"Gap: recall of {first} less recall of {second}, in percentage points. "
    )
    if found["largest"]:
        largest = found["largest"]
        gap = ranged(abs(largest["gap_points"]), None, 1)
        note += f"Largest gap: {largest['age_band']}, {gap} points. "
    note += "".join(f"Left out: {band}, {why}. " for band, why in found["left_out"].items())
    header = ("age band", "calls", "speakers", f"recall of {first}", f"recall of {second}")
    # A table without a row would not be shown, and its note not be read.
    rows = rows or [("none", *[NO_FIGURE] * len(header))]
    return Table(title, (*header, "gap, points"), rows, note.strip())


CELL_RECALLS = ("gender_recall", "age_group_recall", "age_band_recall")
_CELL_TITLES = ("gender recall", "age group recall", "age band recall")


def per_cell(result: Result) -> Table:
    """By gender and age band."""
    rows: list[tuple[str, ...]] = [
        (
            f"{at['gender']}, {at['age_band']}",
            str(at["calls"]),
            str(at["speakers"]),
            *cells(at, CELL_RECALLS),
        )
        for at in result["per_cell"]
    ]
    header = ("speaker", "calls", "speakers", *_CELL_TITLES)
    return Table("By gender and age band", header, rows)


def corpus_cells(result: Result) -> Table:
    """By gender, age band, corpus and language, where there are enough speakers."""
    found = result["per_corpus_cell"]
    rows: list[tuple[str, ...]] = [
        (
            " ".join(filter(None, (f"{at['corpus']},", at["language"]))).rstrip(","),
            f"{at['gender']}, {at['age_band']}",
            str(at["calls"]),
            str(at["speakers"]),
            *cells(at, CELL_RECALLS),
        )
        for at in found["cells"]
    ]
    left = found["left_out"]
    note = (
        f"Left out: {plural(left['cells'], 'cell')} of fewer than {found['least_speakers']} "
        f"speakers, with {plural(left['calls'], 'call')}."
    )
    header = ("corpus, language", "speaker", "calls", "speakers", *_CELL_TITLES)
    title = "By gender, age band, corpus and language"
    return Table(title, header, rows, note, detail=True)


def parts(result: Result, key: str, task: str) -> Table:
    """One task by ``per_corpus`` or ``per_language``."""
    kind = key.removeprefix("per_")
    rows: list[tuple[str, ...]] = []
    note = "Recall and F1 are over the classes that occur; do not compare them between rows."
    for name, at in result[key].items():
        shown = name
        if "languages" in at:
            shown = f"{len(at['languages'])} others"
            note += f" Others: {', '.join(at['languages'])}."
        counts = (str(at[task]["n"]), str(at[task]["speakers"]))
        rows.append((shown, *counts, *cells(at[task], ("accuracy", "recall", "f1"))))
    header = (kind, "n", "speakers", "accuracy", "recall (UAR)", "F1")
    return Table(f"{task_name(task).capitalize()} by {kind}", header, rows, note, detail=True)


def pair(result: Result) -> Table:
    """Children against people in their twenties, inside one corpus."""
    inside = result["child_vs_20s"] or {"corpus": ""}
    rows: list[tuple[str, ...]] = []
    for key, name in (
        ("age_band", "all age bands"),
        ("age_group", "all age groups"),
        ("forced", "child or 20s"),
    ):
        if key in inside:
            scores = inside[key]
            recalls = [f"{c} {figure(v['recall'])}" for c, v in scores["per_class"].items()]
            counts = (str(scores["n"]), str(scores["speakers"]))
            values = cells(scores, ("accuracy", "recall", "f1"))
            rows.append((name, *counts, *values, ", ".join(recalls)))
    note = (
        "All children come from this one corpus, so elsewhere a model can learn the corpus "
        "instead of the age."
    )
    header = ("chosen among", "n", "speakers", "accuracy", "recall (UAR)", "F1", "recall by class")
    return Table(f"Child against 20s inside {inside['corpus']}", header, rows, note)


def shortcut(result: Result) -> Table:
    """The corpus probe that the model file carries."""
    report = result.get("shortcut") or {"corpus_probe": [], "reading": ""}
    rows: list[tuple[str, ...]] = []
    for at in report["corpus_probe"]:
        told = f"{figure(at['accuracy'])} ({at['low']:.2f} to {at['high']:.2f})"
        values = [figure(at[key]) for key in ("chance", "shuffled", "audio")]
        rows.append((at["band"], str(at["corpora"]), *values, told))
    header = ("age band", "corpora", "chance", "shuffled", "audio", "embedding")
    note = f"From the model file, measured on dev. {report['reading']}"
    return Table("Which corpus? told within one age band", header, rows, note)


def group_tables(result: Result) -> list[Table]:
    """All of them, most important first."""
    made = [fairness(result), bands(result), per_cell(result), pair(result), shortcut(result)]
    for key in ("per_corpus", "per_language"):
        made += [parts(result, key, task) for task in TASKS]
    return [*made, corpus_cells(result)]
