"""Summarise the records of Table 1: F1 beside the paper's, what each step is worth, the ranking.

    python -m train.experiments.table1_summary --json table1.json --picture table1.png > table1.md

A bootstrap draw takes test speakers once for all seeds and rows that were tested on the same
utterances; its figure is the mean over the seeds, so an interval is the variation over speakers,
not over seeds. Macro F1 depends on the class prior of the training, so two more figures are given
for the age group: ``auc``, the area under the ROC curve of each class against the others, averaged
(0.5 is chance), and ``f1_shifted``, F1 after the shift of log posteriors that suits dev.

JSON: ``bootstrap``, ``devices``, ``commits``, ``flags`` (of the first record of each network), and
``rows`` by id (see ``table1_rows.py``), each with ``seeds``, ``notes``, ``figures`` by task and
score, and ``over_base``, its F1 less that of its base in pairs of speakers and of seeds. A figure
is [value, low, high], shares of one; the last two are null if draws do not vary. Precision and
recall are only of the paper's blocks. Gender is that of adults (known age, no child).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from train.evaluation import intervals
from train.evaluation.intervals import Floats, Ints
from train.evaluation.tables import NO_FIGURE, Table
from train.experiments.table1_record import Record, read_all
from train.experiments.table1_rows import ROWS

Summary = dict[str, Any]
Figure = list[float | None]
Key = tuple[str, int]
BLOCKS = ("clean", "telephone", "inhouse")
SCORES = {
    "gender": ("precision", "recall", "f1"),
    "age_group": ("precision", "recall", "f1", "f1_shifted", "auc"),
    "age_band": ("f1",),
}


def auc(logp: Floats, truth: Ints, weights: Floats) -> Floats:
    """Compute the area under the ROC curve of each class against the others, [draws, classes].

    ``logp`` [utterances, classes], ``truth`` [utterances], ``weights`` [draws, utterances]. NaN
    where a class or the others have no weight. Ties count half (Mann and Whitney 1947).
    """
    bounded = logp.clip(-80.0, -1e-12)  # a posterior of one has infinite odds
    odds = bounded - np.log(-np.expm1(bounded))
    areas = np.full((len(weights), logp.shape[1]), np.nan)
    for number in range(logp.shape[1]):
        order = np.argsort(odds[:, number], kind="stable")
        ordered = odds[order, number]
        starts = np.flatnonzero(np.r_[True, ordered[1:] > ordered[:-1]])
        member = (truth == number)[order]
        sorted_weights = weights[:, order]
        inside, outside = (
            np.add.reduceat(sorted_weights * side, starts, axis=1) for side in (member, ~member)
        )
        below = np.cumsum(outside, axis=1) - outside / 2
        pairs = inside.sum(axis=1) * outside.sum(axis=1)
        hits = (inside * below).sum(axis=1)
        np.divide(hits, pairs, out=areas[:, number], where=pairs > 0)
    return areas


def draws_of(record: Record, task: str) -> dict[str, Floats]:
    """Compute every score of one run: [1 + draws], the first on the sample itself."""
    logp = record.arrays[f"logp_{task}"].astype(np.float64)
    truth, speakers = record.arrays[f"truth_{task}"], record.arrays["speakers"]
    known = truth >= 0
    if task == "gender":  # of adults, as the accuracy benchmark counts them
        band = record.arrays["truth_age_band"]
        known &= (band >= 0) & (band != record.meta["classes"]["age_band"].index("child"))

    names = speakers[known].tolist()

    def scores(logp: Floats) -> dict[str, Floats]:
        silent = np.isnan(logp[:, 0])
        predicted = np.where(silent, -1, np.nan_to_num(logp).argmax(axis=1))
        tables = intervals.confusions(truth[known], predicted[known], names, logp.shape[1])
        both = np.concatenate([tables.sum(axis=0)[None], intervals.resampled(tables)])
        found = intervals.measures(both)
        return {name: getattr(found, name) for name in ("precision", "recall", "f1")}

    found = scores(logp)
    if task == "age_group":
        shift = np.array(list(record.meta["shift"].values()))
        found["f1_shifted"] = scores(logp + shift)["f1"]
        counted = known & ~np.isnan(logp[:, 0])
        unique, member = np.unique(speakers[counted], return_inverse=True)
        times = np.concatenate(
            [np.ones((1, len(unique))), intervals.resampled(np.eye(len(unique)))]
        )
        areas = auc(logp[counted], truth[counted], times[:, member])
        present = ~np.isnan(areas[0])
        found["auc"] = areas[:, present].mean(axis=1)
    return found


def figure(draws: Floats) -> Figure:
    """Return [value, low, high] of [1 + draws]."""
    interval = intervals.percentiles(draws[1:]) or (None, None)
    ends = [None if end is None else round(end, 5) for end in interval]
    return [round(float(draws[0]), 5), *ends] if np.isfinite(draws[0]) else [None, None, None]


def summarise(records: Mapping[Key, Record]) -> Summary:
    """Summarise all records; the module's docstring describes the keys."""
    if not records:
        raise ValueError("no record: python -m train.experiments.table1 makes them")
    cache: dict[Key, dict[str, dict[str, Floats]]] = {
        key: {task: draws_of(record, task) for task in SCORES} for key, record in records.items()
    }

    def mean(row: str, seeds: Sequence[int], task: str, score: str) -> Floats:
        found: Floats = np.mean([cache[row, s][task][score] for s in seeds], axis=0)
        return found

    kept = {name: _seeds(name, records) for name in ROWS} | {"": ([], [])}
    rows: dict[str, Any] = {}
    for name, row in ROWS.items():
        seeds, notes = kept[name]
        left_out = () if row.block in BLOCKS else ("precision", "recall")
        figures = {
            task: {s: figure(mean(name, seeds, task, s)) for s in scores if s not in left_out}
            for task, scores in SCORES.items()
            if seeds
        }
        over_base = {}
        base = row.base or ""
        common = sorted({*seeds} & {*kept[base][0]})
        if common and _same_test(records[name, common[0]], records[base, common[0]]):
            for task in SCORES:
                ours, theirs = (mean(r, common, task, "f1") for r in (name, base))
                over_base[task] = figure(ours - theirs)
        rows[name] = {"seeds": seeds, "notes": notes, "figures": figures, "over_base": over_base}
    metas = [record.meta for record in records.values()]
    return {
        "bootstrap": {
            **{key: getattr(intervals, key.upper()) for key in ("level", "draws", "seed")},
            "over": "speakers of test",
        },
        "devices": sorted({meta["device"] for meta in metas}),
        "commits": sorted({meta["commit"] for meta in metas}),
        "flags": {ROWS[m["row"]].network: " ".join(m["flags"]) for m in reversed(metas)},
        "rows": rows,
    }


def _same_test(one: Record, other: Record) -> bool:
    """Whether two runs were tested on the same utterances and labels."""
    names = ("ids", "speakers", *(f"truth_{task}" for task in SCORES))
    return all(np.array_equal(one.arrays[n], other.arrays[n]) for n in names)


def _seeds(row: str, records: Mapping[Key, Record]) -> tuple[list[int], list[str]]:
    """Return the seeds of a row that may be averaged, and notes on those left out."""
    seeds: list[int] = []
    left: list[int] = []
    every = [record for (name, _), record in sorted(records.items()) if name == row]
    for record in every:
        alike = _same_test(record, every[0]) and _recipe(record) == _recipe(every[0])
        (seeds if alike else left).append(record.meta["seed"])
    note = f"seeds left out, of other flags or other test data: {', '.join(map(str, left))}"
    return seeds, [note] if left else []


def _recipe(record: Record) -> str:
    return " ".join(record.meta["flags"]).replace(f"--seed {record.meta['seed']}", "")


TITLES = {"gender": "gender of adults, F1", "age_group": "age group, F1"}
COLOURS = {"gender": "#0072b2", "age_group": "#d55e00"}
FACTS = (
    "Per cent, macro averages over classes; R is the unweighted average recall. Gender is that of "
    "adults. Labels are perceived binary gender and age band, as the corpora state them.",
    "Ours: mean over seeds, in brackets its 95 % interval by resampling the speakers of the test "
    "split, the same draws for all rows; below it the paper's.",
    "The paper's corpora are Korean and not free, its age groups, sizes and schedules unpublished, "
    "and our telephone is simulated: only what each step is worth can be compared.",
    "+ MKD (mse): the paper's brackets, read as differences to the cosine above them. Rows without "
    "a number of the paper are combinations that it does not report.",
)


def shown(found: list[float | None] | None, *, signed: bool = False) -> str:
    """Format a figure in per cent with its interval."""
    if found is None or found[0] is None:
        return NO_FIGURE
    form = "+.1f" if signed else ".1f"
    value, *ends = (f"{100 * part:{form}}" for part in found if part is not None)
    return f"{value} [{', '.join(ends)}]" if ends else value


def tables(summary: Summary) -> list[Table]:
    """Make Table 1, what each step and each ablation is worth, and the figures of all rows."""
    main: list[tuple[str, ...]] = []
    steps: list[tuple[str, ...]] = []
    every: list[tuple[str, ...]] = []
    for name, found in summary["rows"].items():
        row, figures, over_base = ROWS[name], found["figures"], found["over_base"]
        paper, base = row.paper, ROWS[row.base].paper if row.base else None
        if not figures:
            continue
        if row.block in BLOCKS:
            scores = [figures[task][score] for task in TITLES for score in SCORES["gender"]]
            theirs = [f"paper {value:.2f}" for value in paper or ()] or [NO_FIGURE] * 6
            cells = [f"{shown(own)}\n{other}" for own, other in zip(scores, theirs, strict=True)]
            main.append((name, row.method, *cells, str(len(found["seeds"]))))
        if over_base:
            cells = []
            for place, task in ((2, "gender"), (5, "age_group")):
                more = f"{paper[place] - base[place]:+.2f}" if paper and base else NO_FIGURE
                cells += [shown(over_base[task], signed=True), more]
            band = shown(over_base.get("age_band"), signed=True)
            steps.append((name, row.base or "", *cells, band, row.method))
        kinds = [("gender", "f1"), *(("age_group", s) for s in ("f1", "f1_shifted", "auc"))]
        kinds.append(("age_band", "f1"))
        every.append((name, *(shown(figures[task].get(score)) for task, score in kinds)))
    columns = ("gender P", "R", "F1", "age group P", "R", "F1")
    return [
        Table("Table 1", ("row", "method", *columns, "seeds"), main, "\n".join(FACTS)),
        Table(
            "What each step is worth",
            ("row", "base", "gender F1", "paper", "age group F1", "paper", "age band F1", "change"),
            steps,
            "Points of F1 more than the base, in pairs of speakers and of seeds. K after training: "
            "the trained students of the reference with another dictionary.",
        ),
        Table(
            "All rows",
            ("row", "gender F1", "age group F1", "F1 shifted", "AUC", "age band F1"),
            every,
            "F1 shifted and AUC depend less on the class prior; an AUC of 50 is chance.",
        ),
    ]


def markdown(summary: Summary) -> str:
    """Format the summary as a page."""
    parts = ["# The paper's Table 1 on our corpora"]
    for table in tables(summary):
        notes = "\n".join(f"- {fact}" for fact in table.note.split("\n"))
        parts += [f"## {table.title}", table.markdown(), notes]
    odd = [f"- {name}: {note}" for name, row in summary["rows"].items() for note in row["notes"]]
    return "\n\n".join([*parts, "## Notes", "\n".join(odd or ["none"])]) + "\n"


def picture(summary: Summary, path: Path) -> None:
    """Draw F1 of gender and of age group, ours with intervals beside the paper's."""
    from matplotlib.figure import Figure as Drawing  # noqa: PLC0415 - only --picture needs it

    rows = [row for row in ROWS.values() if row.block in BLOCKS]
    drawing = Drawing(figsize=(12, 0.33 * len(rows) + 1.6), layout="constrained")
    panels = drawing.subplots(1, 2, sharey=True)
    for axes, (task, title), place in zip(panels, TITLES.items(), (2, 5), strict=True):
        for height, row in enumerate(rows):
            if row.paper:
                axes.plot(row.paper[place], height, "D", color="0.35", fillstyle="none")
            figures = summary["rows"][row.id]["figures"]
            if figures:
                value, *ends = (100 * end for end in figures[task]["f1"] if end is not None)
                axes.plot(ends, [height] * len(ends), color=COLOURS[task], linewidth=2)
                axes.plot(value, height, "o", color=COLOURS[task])
        axes.set(title=title, xlabel="per cent")
        axes.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(rows)), [row.id for row in rows])
    panels[0].invert_yaxis()
    panels[0].plot([], [], "o-", color="0.2", label="ours, 95 % over speakers")
    panels[0].plot([], [], "D", color="0.35", fillstyle="none", label="the paper's, other corpora")
    drawing.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    drawing.savefig(path, dpi=120, format="png")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit status 0, or 2 for records or arguments that cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m train.experiments.table1_summary",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    text = "folder, or an earlier --json (%(default)s)"
    parser.add_argument("--records", type=Path, default=Path("runs/table1"), help=text)
    for name, what in (("json", "all figures"), ("picture", "a PNG")):
        parser.add_argument(f"--{name}", type=Path, metavar="OUT", help=f"write {what}")
    options = parser.parse_args(argv)
    try:
        if options.records.is_file():
            summary = json.loads(options.records.read_text(encoding="utf-8"))
        else:
            summary = summarise(read_all(options.records))
        if options.json:
            options.json.write_text(to_json(summary), encoding="utf-8")
        if options.picture:
            picture(summary, options.picture)
    except (OSError, ValueError) as error:
        print(f"table1_summary: {error}", file=sys.stderr)
        return 2
    print(markdown(summary))
    return 0


def to_json(summary: Summary) -> str:
    """Format the summary with a line for each row."""
    head = {key: value for key, value in summary.items() if key != "rows"}
    text = json.dumps(head, indent=1, ensure_ascii=False).removesuffix("\n}")
    rows = ",\n".join(
        f"{json.dumps(name)}:{json.dumps(row, ensure_ascii=False, separators=(',', ':'))}"
        for name, row in summary["rows"].items()
    )
    return f'{text},\n "rows": {{\n{rows}\n }}\n}}\n'


if __name__ == "__main__":
    sys.exit(main())
