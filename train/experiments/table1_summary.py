"""Summarise the records of Table 1: F1 beside the paper's, what each step is worth, the ranking.

    python -m train.experiments.table1_summary --json table1.json --picture table1.png

A bootstrap draw takes test speakers once for all seeds and rows that were tested on the same
utterances; the figure of a draw is the mean over the seeds. An interval is thus the variation of
that mean over speakers, not over seeds. Macro F1 depends on the class prior of the training, so two
more figures are given for the age group: ``auc``, the area under the ROC curve of each class's log
odds against the other classes, averaged (0.5 is chance), and ``f1_shifted``, F1 after each class's
log posterior was shifted by what suits dev, as for a released student.

JSON: ``bootstrap``, ``devices``, ``commits``, ``flags`` (of the first record of each network), and
``rows`` by id (see ``table1_rows.py``), each with ``seeds``, ``notes``, ``figures`` by task and
score, and ``over_base``, its F1 less that of its base in pairs of speakers and of seeds. A figure
is [value, low, high], shares of one; the last two are null if draws do not vary. Precision and
recall are only of the rows of the paper's blocks.
Gender is that of adults (known age, no child).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from train.evaluation.intervals import (
    DRAWS,
    LEVEL,
    SEED,
    Floats,
    Ints,
    confusions,
    measures,
    percentiles,
    resampled,
)
from train.experiments.table1_page import BLOCKS, markdown, picture
from train.experiments.table1_record import Record, read_all
from train.experiments.table1_rows import ROWS

Summary = dict[str, Any]
Figure = list[float | None]
Key = tuple[str, int]

SCORES = {
    "gender": ("precision", "recall", "f1"),
    "age_group": ("precision", "recall", "f1", "f1_shifted", "auc"),
    "age_band": ("f1",),
}


def auc(logp: Floats, truth: Ints, weights: Floats) -> Floats:
    """Compute the area under the ROC curve of each class against the others.

    Args:
        logp: log posteriors [utterances, classes].
        truth: class indices [utterances].
        weights: of the utterances, [draws, utterances].

    Returns:
        [draws, classes]; NaN where a class or the others have no weight. Ties count half
        (Mann and Whitney 1947).
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
    truth = record.arrays[f"truth_{task}"]
    speakers = record.arrays["speakers"]
    known = truth >= 0
    if task == "gender":  # of adults, as the accuracy benchmark counts them
        band = record.arrays["truth_age_band"]
        known &= (band >= 0) & (band != record.meta["classes"]["age_band"].index("child"))

    names = speakers[known].tolist()

    def scores(logp: Floats) -> dict[str, Floats]:
        silent = np.isnan(logp[:, 0])
        predicted = np.where(silent, -1, np.nan_to_num(logp).argmax(axis=1))
        tables = confusions(truth[known], predicted[known], names, logp.shape[1])
        both = np.concatenate([tables.sum(axis=0)[None], resampled(tables)])
        found = measures(both)
        return {name: getattr(found, name) for name in ("precision", "recall", "f1")}

    found = scores(logp)
    if task == "age_group":
        shift = np.array(list(record.meta["shift"].values()))
        found["f1_shifted"] = scores(logp + shift)["f1"]
        counted = known & ~np.isnan(logp[:, 0])
        unique, member = np.unique(speakers[counted], return_inverse=True)
        times = np.concatenate([np.ones((1, len(unique))), resampled(np.eye(len(unique)))])
        areas = auc(logp[counted], truth[counted], times[:, member])
        present = ~np.isnan(areas[0])
        found["auc"] = areas[:, present].mean(axis=1)
    return found


def figure(draws: Floats) -> Figure:
    """Return [value, low, high] of [1 + draws]."""
    interval = percentiles(draws[1:]) or (None, None)
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

    kept, notes = {}, {}
    for name in ROWS:
        kept[name], notes[name] = _seeds(name, records)
    rows: dict[str, Any] = {}
    for name, row in ROWS.items():
        seeds = kept[name]
        left_out = () if row.block in BLOCKS else ("precision", "recall")
        figures = {
            task: {s: figure(mean(name, seeds, task, s)) for s in scores if s not in left_out}
            for task, scores in SCORES.items()
            if seeds
        }
        over_base = {}
        common = sorted({*seeds} & {*kept[row.base]}) if row.base else []
        if (
            row.base
            and common
            and _same_test(records[name, common[0]], records[row.base, common[0]])
        ):
            for task in SCORES:
                ours, theirs = (mean(r, common, task, "f1") for r in (name, row.base))
                over_base[task] = figure(ours - theirs)
        rows[name] = {
            "seeds": seeds,
            "notes": notes[name],
            "figures": figures,
            "over_base": over_base,
        }
    metas = [record.meta for record in records.values()]
    return {
        "bootstrap": {"level": LEVEL, "draws": DRAWS, "seed": SEED, "over": "speakers of test"},
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
    every = [record for (name, _), record in sorted(records.items()) if name == row]
    alike = [
        record
        for record in every
        if _same_test(record, every[0]) and _recipe(record) == _recipe(every[0])
    ]
    seeds = [record.meta["seed"] for record in alike]
    left = [str(record.meta["seed"]) for record in every if record.meta["seed"] not in seeds]
    note = f"seeds left out, of other flags or other test data: {', '.join(left)}"
    return seeds, [note] if left else []


def _recipe(record: Record) -> list[str]:
    flags = list(record.meta["flags"])
    at = flags.index("--seed")
    return flags[:at] + flags[at + 2 :]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit status 0, or 2 for records or arguments that cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m train.experiments.table1_summary",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_mutually_exclusive_group()
    work = Path("runs/table1")
    source.add_argument("--records", type=Path, default=work, help="folder (%(default)s)")
    source.add_argument("--summary", type=Path, metavar="JSON", help="show an earlier --json")
    for name, what in (("json", "all figures"), ("markdown", "a page"), ("picture", "a PNG")):
        parser.add_argument(f"--{name}", type=Path, metavar="OUT", help=f"write {what}")
    options = parser.parse_args(argv)
    try:
        for name in ("json", "markdown", "picture"):
            path: Path | None = getattr(options, name)
            if path and not path.parent.is_dir():
                raise ValueError(f"--{name} {path}: no such folder")  # noqa: TRY301
        if options.summary:
            summary = json.loads(options.summary.read_text(encoding="utf-8"))
        else:
            summary = summarise(read_all(options.records))
    except (OSError, ValueError) as error:
        print(f"table1_summary: {error}", file=sys.stderr)
        return 2
    if options.json:
        options.json.write_text(to_json(summary), encoding="utf-8")
    if options.markdown:
        options.markdown.write_text(markdown(summary), encoding="utf-8")
    if options.picture:
        picture(summary, options.picture)
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
